# SPDX-License-Identifier: Apache-2.0
"""`api`: a real etcd and kube-apiserver on loopback, no root needed, and calls of its API. `cluster`: all of Kubernetes
with a node that runs containers (cluster.py), one for the whole run. VMLET_CLUSTER=NAME takes the one that `./dev cluster
up` has left, and leaves it."""
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TOKEN = "test-cluster-token"
sys.path.insert(0, str(HERE))
import binaries  # noqa: E402
import cluster as clusters  # noqa: E402
import images  # noqa: E402


def build():
    try:
        return binaries.control_plane() / "server"
    except binaries.CannotBuild as e:
        pytest.skip(str(e))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Api:
    def __init__(self, port, ca, folder=None):
        self.url, self.ca, self.folder = f"https://127.0.0.1:{port}", ca, folder
        self.context = ssl.create_default_context(cafile=ca)

    def call(self, method, path, body=None, content_type="application/json"):
        """(status, answer)"""
        request = urllib.request.Request(self.url + path, method=method, data=json.dumps(body).encode() if body else None)
        request.add_header("Authorization", "Bearer " + TOKEN)
        request.add_header("Content-Type", content_type)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text
        except urllib.error.HTTPError as e:
            text = e.read()
            return e.code, json.loads(text) if text[:1] == b"{" else text

    def wait(self, what, method, path, good, seconds=90):
        """The server says by itself when it is ready; the client side of that is to ask again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                status, answer = self.call(method, path)
                if good(status, answer):
                    return answer
            except OSError as e:
                answer = e
            time.sleep(0.2)
        raise AssertionError(f"{what}: {answer}")


@pytest.fixture(scope="session")
def api(tmp_path_factory):
    program = build()
    d = tmp_path_factory.mktemp("cluster")
    etcd, peer, port = free_port(), free_port(), free_port()
    subprocess.run(["openssl", "genrsa", "-out", d / "sa.key", "2048"], check=True, capture_output=True)
    (d / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    (d / "audit.yaml").write_text(clusters.AUDIT)
    openssl = lambda *a: subprocess.run(["openssl", *a], check=True, capture_output=True, cwd=d)  # noqa: E731
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=clients")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "client.key", "-out", "client.csr", "-subj", "/O=system:masters/CN=by-certificate")
    openssl("x509", "-req", "-in", "client.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "client.crt", "-days", "2")
    processes = []

    def start(*arguments):
        log = open(d / f"{arguments[0]}.log", "wb")
        processes.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log))

    try:
        start("etcd", "--data-dir", d / "etcd", "--listen-client-url", f"http://127.0.0.1:{etcd}",
              "--listen-peer-url", f"http://127.0.0.1:{peer}")
        start("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}",
              "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
              f"--cert-dir={d}/certs", f"--token-auth-file={d}/tokens.csv", "--authorization-mode=Node,RBAC",
              f"--service-account-key-file={d}/sa.key", f"--service-account-signing-key-file={d}/sa.key",
              "--service-account-issuer=https://kubernetes.default.svc", "--allow-privileged=true",
              "--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16",
              f"--client-ca-file={d}/ca.crt", f"--audit-policy-file={d}/audit.yaml", f"--audit-log-path={d}/audit.log", "--audit-log-mode=blocking")
        cert = d / "certs/apiserver.crt"
        end = time.monotonic() + 60
        while not (cert.exists() and "END CERTIFICATE" in cert.read_text()):  # it is written bit by bit
            assert processes[1].poll() is None and time.monotonic() < end, (d / "kube-apiserver.log").read_text()[-3000:]
            time.sleep(0.1)
        server = Api(port, cert, d)
        server.wait("API server", "GET", "/readyz", lambda status, _: status == 200)
        yield server
    finally:
        for p in reversed(processes):
            p.terminate()
        for p in reversed(processes):
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()


@pytest.fixture(scope="session")
def cluster():
    kept = os.environ.get("VMLET_CLUSTER")
    it = clusters.Cluster(kept or f"t{os.getpid()}")
    if os.geteuid() != 0:
        pytest.skip("a cluster takes root")
    try:
        it.up()
        yield it
    except binaries.CannotBuild as e:
        pytest.skip(str(e))
    finally:
        if not kept:
            it.down()


@pytest.fixture(scope="session")
def launcher_images(cluster, tmp_path_factory):
    """The launcher's image and the small guest's are on the node."""
    folder = tmp_path_factory.mktemp("images")
    cluster.load(images.build(folder, "launcher")["launcher"], images.guest(folder))


@pytest.fixture(scope="session")
def vmlet(cluster, launcher_images, tmp_path_factory):
    """virt-controller and virt-handler run in the cluster, as k8s/manifests has them; guests are emulated."""
    folder = tmp_path_factory.mktemp("install")
    cluster.load(*images.build(folder, "controller", "handler").values())
    cluster.load(images.container_disk(folder, "test-disk", bytes(range(256)) * 4096))
    cluster.kubectl("apply", "--server-side", "-k", str(images.overlay(folder, "--use-emulation")))
    for what in ("deployment/virt-controller", "daemonset/virt-handler"):
        if os.environ.get("VMLET_CLUSTER"):  # it may run another build's programs, under the same tag
            cluster.kubectl("-n", "kubevirt", "rollout", "restart", what)
        cluster.kubectl("-n", "kubevirt", "rollout", "status", what, "--timeout=300s", timeout=330)
    cluster._wait("the node may have instances", lambda: cluster.kubectl(
        "get", "node", cluster.name, "-o", r"jsonpath={.metadata.labels.kubevirt\.io/schedulable}") == "true", 300)
    return cluster
