# SPDX-License-Identifier: Apache-2.0
"""virt-handler and its node: devices with kubelet, labels, heartbeat, pages."""
import json
import re
import subprocess

import pytest

PATIENCE = 300
PREFIXES = ("cpu-model", "cpu-feature", "machine-type", "cpu-vendor")


def node(cluster):
    return json.loads(cluster.kubectl("get", "node", cluster.name, "-o", "json"))


def allocatable(cluster, name):
    return node(cluster)["status"]["allocatable"].get(f"devices.kubevirt.io/{name}")


def page(cluster, path):
    """(status line, text)"""
    address = cluster.kubectl("-n", "kubevirt", "get", "pod", "-l", "kubevirt.io=virt-handler", "-o", "jsonpath={.items[0].status.podIP}")
    done = cluster.node("/bin/busybox", "wget", "-S", "-qO-", f"http://{address}:8185{path}")
    return (re.search(r"HTTP/1\.\d (\d+)", done.stderr) or [None, ""])[1], done.stdout


def metric(cluster, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", page(cluster, "/metrics")[1], re.M)
    return found and int(found[1])


def is_schedulable(cluster):
    return node(cluster)["metadata"]["labels"].get("kubevirt.io/schedulable") == "true"


def test_devices(vmlet):
    """kubelet counts what the node has: 1000 of each, 0 of what is not there."""
    for name, path in (("kvm", "/dev/kvm"), ("tun", "/dev/net/tun"), ("vhost-net", "/dev/vhost-net")):
        there = subprocess.run(["test", "-c", path], check=False).returncode == 0
        vmlet._wait(f"devices.kubevirt.io/{name}", lambda name=name, there=there: allocatable(vmlet, name) == ("1k" if there else "0"), PATIENCE)
        assert metric(vmlet, f'vmlet_handler_device_healthy{{device="{name}"}}') == there
        assert metric(vmlet, f'vmlet_handler_device_registered{{device="{name}"}}') == 1


def test_device_goes_and_comes_back(vmlet):
    """The node loses /dev/net/tun (its own copy of it, not this machine's): no pod is placed that would need it."""
    vmlet._wait("it is there", lambda: allocatable(vmlet, "tun") == "1k", PATIENCE)
    assert vmlet.node("rm", "/dev/net/tun").returncode == 0
    try:
        vmlet._wait("kubelet knows that it is gone", lambda: allocatable(vmlet, "tun") == "0", PATIENCE)
        assert metric(vmlet, 'vmlet_handler_device_healthy{device="tun"}') == 0
    finally:
        vmlet.node("mknod", "-m", "666", "/dev/net/tun", "c", "10", "200")
    vmlet._wait("it is back", lambda: allocatable(vmlet, "tun") == "1k", PATIENCE)


@pytest.mark.parametrize("how", ["restarted", "stopped and started"])
def test_kubelet_restarts(vmlet, how):
    """The plugins register with the new kubelet by themselves, and the node may have instances again."""
    name = 'vmlet_handler_device_registrations_total{device="tun"}'
    before = metric(vmlet, name)
    if how == "restarted":
        vmlet.control("restart", "kubelet")
    else:
        vmlet.control("stop", "kubelet")
        try:
            vmlet._wait("the agent sees that kubelet is gone", lambda: metric(vmlet, 'vmlet_handler_device_registered{device="tun"}') == 0, PATIENCE)
            vmlet._wait("no instance is to come", lambda: not is_schedulable(vmlet), PATIENCE)
        finally:
            vmlet.control("start", "kubelet")
    vmlet._wait("they are registered again", lambda: (metric(vmlet, name) or 0) > before, PATIENCE)
    vmlet._wait("and counted", lambda: allocatable(vmlet, "tun") == "1k", PATIENCE)
    vmlet._wait("the node may have instances", lambda: is_schedulable(vmlet), PATIENCE)
    vmlet._wait("the node is Ready", vmlet._node_ready, PATIENCE)


def test_confined(vmlet):
    """Both programs run under a seccomp filter: virt-controller under the container runtime's and its own, virt-handler, whose container
    is privileged and gets none, under its own."""
    for program, filters in (("virt-controller", 2), ("virt-handler", 1)):
        pids = vmlet.node("/bin/busybox", "pidof", program).stdout.split()
        assert pids, program
        for pid in pids:
            status = dict(line.split(":\t", 1) for line in vmlet.node("cat", f"/proc/{pid}/status").stdout.splitlines())
            assert (status["Seccomp"], int(status["Seccomp_filters"])) == ("2", filters), program
            assert status["NoNewPrivs"] == "1" and status["Threads"] == "1", program


def own_labels(cluster):
    return {k: v for k, v in node(cluster)["metadata"]["labels"].items() if k.split(".node.kubevirt.io/")[0] in PREFIXES}


def test_labels(vmlet):
    """What the launcher's QEMU offers on this node: the same as the launcher's own answer, and nothing that is older."""
    # the agent of an earlier test's restart may be on its way: exec takes any pod of the set
    vmlet.kubectl("-n", "kubevirt", "rollout", "status", "daemonset/virt-handler", "--timeout=300s", timeout=330)
    offered = json.loads(vmlet.kubectl("-n", "kubevirt", "exec", "ds/virt-handler", "-c", "virt-handler", "--", "cat", "/labels/labels.json"))
    assert {"machine-type.node.kubevirt.io/q35", "cpu-model.node.kubevirt.io/max", "cpu-feature.node.kubevirt.io/sse2"} <= set(offered)
    vmlet._wait("the node has these labels", lambda: own_labels(vmlet) == {k: v for k, v in offered.items() if k.split(".")[0] in PREFIXES}, PATIENCE)
    assert metric(vmlet, "vmlet_handler_node_labels") == len(offered)
    assert node(vmlet)["metadata"]["labels"]["kubevirt.io/cpumanager"] == "false"
    # left by an older QEMU: gone with the next heartbeat, which a restart brings at once
    vmlet.kubectl("label", "node", vmlet.name, "machine-type.node.kubevirt.io/pc-older=true", "example.com/mine=yes")
    vmlet.kubectl("-n", "kubevirt", "rollout", "restart", "daemonset/virt-handler")
    vmlet.kubectl("-n", "kubevirt", "rollout", "status", "daemonset/virt-handler", "--timeout=300s", timeout=330)
    vmlet._wait("the old label is gone", lambda: "machine-type.node.kubevirt.io/pc-older" not in own_labels(vmlet), PATIENCE)
    assert node(vmlet)["metadata"]["labels"]["example.com/mine"] == "yes"
    vmlet.kubectl("label", "node", vmlet.name, "example.com/mine-")


def test_labels_of_a_node_that_is_skipped(vmlet):
    vmlet.kubectl("annotate", "node", vmlet.name, "node-labeller.kubevirt.io/skip-node=true")
    try:
        vmlet.kubectl("label", "node", vmlet.name, "machine-type.node.kubevirt.io/mine=true")
        beats = metric(vmlet, "vmlet_handler_heartbeats_total")
        vmlet._wait("two heartbeats", lambda: metric(vmlet, "vmlet_handler_heartbeats_total") >= beats + 2, PATIENCE)
        assert own_labels(vmlet)["machine-type.node.kubevirt.io/mine"] == "true"
    finally:
        vmlet.kubectl("annotate", "node", vmlet.name, "node-labeller.kubevirt.io/skip-node-")
    vmlet._wait("it is cleared away", lambda: "machine-type.node.kubevirt.io/mine" not in own_labels(vmlet), PATIENCE)


def test_heartbeat(vmlet):
    def beat():
        return node(vmlet)["metadata"]["annotations"]["kubevirt.io/heartbeat"]

    first = beat()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first)
    vmlet._wait("another", lambda: beat() > first, PATIENCE)


def test_leaves_the_node(vmlet):
    """An agent that is told to end says first that nothing is to come: the label is false while there is none."""
    selector = {"spec": {"template": {"spec": {"nodeSelector": {"example.com/none": "yes"}}}}}
    vmlet.kubectl("-n", "kubevirt", "patch", "daemonset", "virt-handler", "-p", json.dumps(selector))
    try:
        vmlet._wait("the agent has ended", lambda: "virt-handler" not in vmlet.kubectl("-n", "kubevirt", "get", "pod"), PATIENCE)
        assert not is_schedulable(vmlet)
    finally:
        vmlet.kubectl("-n", "kubevirt", "patch", "daemonset", "virt-handler", "--type", "json", "-p",
                      '[{"op": "remove", "path": "/spec/template/spec/nodeSelector/example.com~1none"}]')
    vmlet.kubectl("-n", "kubevirt", "rollout", "status", "daemonset/virt-handler", "--timeout=300s", timeout=330)
    vmlet._wait("the node may have instances", lambda: is_schedulable(vmlet), PATIENCE)


def test_pages(vmlet):
    """What probes and Prometheus read: every sample has its TYPE and HELP, and names stand once."""
    assert page(vmlet, "/healthz") == ("200", "ok\n") and page(vmlet, "/readyz") == ("200", "ok\n")
    status, text = page(vmlet, "/metrics")
    assert status == "200"
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    helps = re.findall(r"^# HELP (\S+) \S", text, re.M)
    samples = re.findall(r"^([a-z_]+)(\{[^}]*\})? (\d+)$", text, re.M)
    assert len(samples) + 2 * len(kinds) == len(text.splitlines())
    assert sorted(kinds) == sorted(helps) == sorted({name for name, _, _ in samples})
    assert len({(name, labels) for name, labels, _ in samples}) == len(samples)
    assert {kind for kind in kinds.values()} <= {"gauge", "counter"} and all((kinds[n] == "counter") == n.endswith("_total") for n in kinds)
    assert {"vmlet_handler_device_healthy", "vmlet_handler_heartbeats_total", "vmlet_handler_instances", "kubevirt_vmi_sync_total",
            "vmlet_handler_status_writes_total", "kubevirt_virt_handler_ready_status"} <= set(kinds)
    assert page(vmlet, "/nothing")[0] == "404"
