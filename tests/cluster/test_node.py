# SPDX-License-Identifier: Apache-2.0
"""The cluster itself: what the other tests stand on, and that it leaves nothing behind."""
import json
import os
import subprocess
import sys
from pathlib import Path

import cluster as clusters
import pytest

HERE = Path(__file__).resolve().parent
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "box"}, "spec": {
    "securityContext": {"runAsUser": 107, "runAsNonRoot": True}, "terminationGracePeriodSeconds": 1,
    "containers": [{"name": "box", "image": clusters.PAUSE, "imagePullPolicy": "Never", "command": ["/bin/busybox", "sh", "-c"],
                    "args": ["/bin/busybox id; trap exit TERM; while :; do /bin/busybox sleep 1d & wait; done"]}]}}


def test_node_ready(cluster):
    node = json.loads(cluster.kubectl("get", "node", "-o", "json"))["items"][0]
    assert node["status"]["nodeInfo"]["kubeletVersion"] == clusters.binaries.KUBERNETES
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == "containerd://" + clusters.binaries.CONTAINERD[1:]


def test_pod(cluster):
    """A container of uid 107 runs; its log, a command in it, its address, and a service address from inside."""
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(POD))
    try:
        cluster.kubectl("wait", "--for=condition=Ready", "pod/box", "--timeout=120s", timeout=150)
        assert "uid=107" in cluster.kubectl("logs", "box")
        assert "uid=107" in cluster.kubectl("exec", "box", "--", "/bin/busybox", "id")
        address = cluster.kubectl("get", "pod", "box", "-o", "jsonpath={.status.podIP}")
        assert address.rsplit(".", 1)[0] + ".0/24" == cluster.addresses()["pods"]
        assert "127.0.0.1" in cluster.kubectl("exec", "box", "--", "/bin/busybox", "ip", "addr")
        assert cluster.kubectl("exec", "box", "--", "/bin/busybox", "nc", "-w", "20", clusters.API_SERVICE, "443") == ""
        assert subprocess.run(["ping", "-c1", "-W5", address], capture_output=True, check=False).returncode == 0
    finally:
        cluster.kubectl("delete", "pod", "box", "--wait=true", timeout=150)


@pytest.mark.parametrize("component", ["containerd", "kubelet"])
def test_restart(cluster, component):
    """The node's daemons end and come back, and what ran still runs."""
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(POD))
    try:
        cluster.kubectl("wait", "--for=condition=Ready", "pod/box", "--timeout=120s", timeout=150)
        cluster.control("restart", component)
        cluster._wait("exec after the restart",
                      lambda: "uid=107" in cluster.kubectl("exec", "box", "--", "/bin/busybox", "id"), 120)
        pod = json.loads(cluster.kubectl("get", "pod", "box", "-o", "json"))
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    finally:
        cluster.kubectl("delete", "pod", "box", "--wait=true", timeout=150)


def traces(name):
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"/{name}/" in line or "containerd" in line]
    found += [str(p) for root in clusters.cgroup_roots()[0] for p in Path(root).glob(f"*{name}*")]
    found += [line for line in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines() if f"vm-{name}" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"/{name}/".encode() in (process / "cmdline").read_bytes():
                found.append(str(process))
        except OSError:
            pass
    return found + [str(p) for p in [clusters.ROOT / name] if p.exists()]


def test_leaves_nothing(cluster):
    """A second cluster beside the first, taken down by the verb while a pod runs in it."""
    name = f"u{os.getpid()}"
    made = [p for p in clusters.MOUNT_POINTS if not Path(p).is_dir()]
    second = clusters.Cluster(name)
    second.up()
    try:
        second.kubectl("apply", "-f", "-", stdin=json.dumps(POD))
        second.kubectl("wait", "--for=condition=Ready", "pod/box", "--timeout=120s", timeout=150)
        assert len(traces(name)) > 5
        subprocess.run([sys.executable, HERE / "cluster.py", "down", "--name", name], check=True, timeout=90)
        assert traces(name) == []
        assert all(not Path(p).exists() for p in made)
        assert cluster.kubectl("get", "node", "-o", "name").strip() == f"node/{cluster.name}"
    finally:
        second.down()
