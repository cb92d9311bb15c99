# SPDX-License-Identifier: Apache-2.0
"""A real etcd and kube-apiserver on loopback, of one program that `server/` builds, and calls of its API."""
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BINARY = Path(os.environ.get("VMLET_CACHE", Path.home() / ".cache/vmlet")) / "cluster/bin/cluster"
TOKEN = "test-cluster-token"
VERSION = next(line.split()[1] for line in (HERE / "server/go.mod").read_text().splitlines()
               if line.strip().startswith("k8s.io/kubernetes v"))


def build():
    """Minutes, once: the result is kept until server/ changes."""
    stamp = BINARY.with_name("cluster.stamp")
    wanted = "".join((HERE / "server" / name).read_text() for name in ("go.mod", "main.go", "etcd.go"))
    if BINARY.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    if not shutil.which("go"):
        pytest.skip("no Go toolchain: the API server of the tests cannot be built")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={VERSION}"
    done = subprocess.run(["nice", "-n", "19", "go", "build", "-p", "2", "-trimpath", "-ldflags", flags, "-o", BINARY, "."],
                          cwd=HERE / "server", env=os.environ | {"CGO_ENABLED": "0"}, capture_output=True, text=True)
    if done.returncode != 0 and "dial tcp" in done.stderr:
        pytest.skip("the Go module proxy cannot be reached: the API server of the tests cannot be built")
    assert done.returncode == 0, done.stderr
    stamp.write_text(wanted)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Api:
    def __init__(self, port, ca):
        self.url, self.ca = f"https://127.0.0.1:{port}", ca
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
    build()
    d = tmp_path_factory.mktemp("cluster")
    etcd, peer, port = free_port(), free_port(), free_port()
    subprocess.run(["openssl", "genrsa", "-out", d / "sa.key", "2048"], check=True, capture_output=True)
    (d / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    processes = []

    def start(*arguments):
        log = open(d / f"{arguments[0]}.log", "wb")
        processes.append(subprocess.Popen([BINARY, *arguments], stdout=log, stderr=log))

    try:
        start("etcd", "--data-dir", d / "etcd", "--listen-client-url", f"http://127.0.0.1:{etcd}",
              "--listen-peer-url", f"http://127.0.0.1:{peer}")
        start("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}",
              "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
              f"--cert-dir={d}/certs", f"--token-auth-file={d}/tokens.csv", "--authorization-mode=Node,RBAC",
              f"--service-account-key-file={d}/sa.key", f"--service-account-signing-key-file={d}/sa.key",
              "--service-account-issuer=https://kubernetes.default.svc", "--allow-privileged=true",
              "--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16")
        cert = d / "certs/apiserver.crt"
        end = time.monotonic() + 60
        while not cert.exists():
            assert processes[1].poll() is None and time.monotonic() < end, (d / "kube-apiserver.log").read_text()[-3000:]
            time.sleep(0.1)
        server = Api(port, cert)
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
