# SPDX-License-Identifier: Apache-2.0
"""A VM that runs on a real cluster: what kubectl shows, and that nothing that restarts on the node or in the control plane
touches its guest. One VM for all of them; each test leaves it running."""
import json
import re

import pytest

from vm_lab import SOCKET, Machine


@pytest.fixture(scope="module")
def machine(vmlet):
    it = Machine(vmlet, "resident")
    it.apply("running: true")
    yield it
    it.delete()


@pytest.fixture
def untouched(machine):
    """The guest is up; after the test it is the same one, in the same QEMU and pod, and followed by the node agent."""
    machine.wait_up()
    before = (machine.boot_id(), machine.qemu(), machine.uid(), machine.pod()["metadata"]["uid"])
    uptime, steps = machine.uptime(), machine.vmi()["status"]["phaseTransitionTimestamps"]
    yield machine
    machine.wait("the guest answers", lambda: machine.run("true", check=False).returncode == 0)
    assert (machine.boot_id(), machine.qemu(), machine.uid(), machine.pod()["metadata"]["uid"]) == before
    assert machine.uptime() > uptime
    machine.wait_followed()
    machine.wait_up()
    assert machine.vmi()["status"]["phaseTransitionTimestamps"] == steps


def has_address(machine):
    return machine.run("ip addr show eth0 | grep -q 10.0.2.2", check=False).returncode == 0


def test_runs(machine):
    """The columns of kubectl get; a question of QEMU; the guest's disk; Events."""
    machine.wait_up()
    kinds = {}
    for line in machine.kubectl("get", "vm,vmi").splitlines():
        if line.startswith("NAME"):
            columns = line.split()
        elif f"/{machine.name} " in line:
            kinds[line.split("/")[0]] = (columns, line.split()[1:])
    address = machine.pod()["status"]["podIP"]
    columns, values = kinds["virtualmachine.kubevirt.io"]
    assert columns == ["NAME", "AGE", "STATUS", "READY"] and values[1:] == ["Running", "True"]
    columns, values = kinds["virtualmachineinstance.kubevirt.io"]
    assert columns == ["NAME", "AGE", "PHASE", "IP", "NODENAME", "READY", "LIVE-MIGRATABLE", "PAUSED"]
    assert values[1:] == ["Running", address, machine.cluster.name, "True", "False"]
    assert f"default_{machine.name}" in machine.exec("qmp-shell", "-c", "dominfo")
    # test-disk holds 0, 1, 2 … 255 over and over
    assert machine.run("dd if=/dev/vda bs=1 skip=77 count=1 2>/dev/null | od -An -tu1").strip() == "77"
    machine.wait("the guest has its address by DHCP", lambda: has_address(machine))
    status = machine.vmi()["status"]
    assert status["interfaces"][0]["ipAddress"] == address and status["guestOSInfo"]["id"] == "vmlet-guest"
    assert {"Created", "Started", "SuccessfulCreate"} <= machine.reasons()
    assert machine.exec("stat", "-c", "%u", "/dev/net/tun").strip() == "107"


def test_console_from_the_first_byte(machine):
    """kubectl logs has what the guest's serial line has sent, all of it: the kernel's first message and what follows."""
    machine.wait_up()
    uid = machine.uid()
    machine.wait("the guest's shell", lambda: "vmlet guest ready" in machine.console())
    log = machine.exec("cat", f"/var/run/kubevirt-private/{uid}/virt-serial0-log")
    plain = re.sub(r"[\r\n]", "", log)
    machine.wait("all of it is in kubectl logs", lambda: re.sub(r"[\r\n]", "", machine.console()).startswith(plain))
    assert re.search(r"^\W*\[ +0\.000000\] Linux version", log), log[:200]


def test_reached_by_its_address(machine):
    """A server in the guest, asked from another pod by the address in the VMI's status."""
    machine.wait_up()
    machine.wait("the guest has its address", lambda: has_address(machine))
    machine.run("(while :; do echo hello from the guest | busybox nc -l -p 8080; done) >/dev/null 2>&1 &")
    address = machine.vmi()["status"]["interfaces"][0]["ipAddress"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asker"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "asker", "image": "localhost/pause:test", "imagePullPolicy": "Never"}]}}
    machine.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        machine.kubectl("wait", "--for=condition=Ready", "pod/asker", "--timeout=300s", timeout=330)
        machine.wait("the guest answers", lambda: "hello from the guest" in machine.kubectl(
            "exec", "asker", "--", "/bin/sh", "-c", f"/bin/busybox nc -w 5 {address} 8080 </dev/null"))
    finally:
        machine.kubectl("delete", "pod", "asker", "--wait=true", timeout=300)


def test_status_is_not_written_without_a_change(machine):
    """A minute's worth of heartbeats of the node agent leaves the instance's object alone."""
    machine.wait_up()
    machine.wait("the guest has its address", lambda: has_address(machine))
    beats = int(metric(machine, "vmlet_handler_heartbeats_total"))

    def version():
        return machine.vmi()["metadata"]["resourceVersion"]

    last = [None]

    def settled():
        before, last[0] = last[0], version()
        return before == last[0] and int(metric(machine, "vmlet_handler_heartbeats_total")) > beats

    machine.wait("the object rests", settled)
    writes, at = metric(machine, "vmlet_handler_status_writes_total"), version()
    beats = int(metric(machine, "vmlet_handler_heartbeats_total"))
    machine.wait("another heartbeat", lambda: int(metric(machine, "vmlet_handler_heartbeats_total")) > beats)
    assert (metric(machine, "vmlet_handler_status_writes_total"), version()) == (writes, at)


def metric(machine, name):
    address = machine.kubectl("-n", "kubevirt", "get", "pod", "-l", "kubevirt.io=virt-handler", "-o", "jsonpath={.items[0].status.podIP}")
    text = machine.cluster.node("/bin/busybox", "wget", "-qO-", f"http://{address}:8185/metrics").stdout
    return re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1)


# ---- what restarts, and the guest does not notice -----------------------------------------------------------------------


def restarts(machine, what):
    pods = json.loads(machine.kubectl("-n", "kubevirt", "get", "pod", "-l", f"kubevirt.io={what}", "-o", "json"))["items"]
    return [(s["restartCount"], s["ready"]) for p in pods for s in p["status"].get("containerStatuses", [])]


@pytest.mark.parametrize("program", ["virt-handler", "virt-controller"])
def test_killed(untouched, program):
    """SIGKILL; it is started again by kubelet, with nothing but its records and the objects."""
    before = restarts(untouched, program)[0][0]
    for pid in untouched.cluster.node("/bin/busybox", "pidof", program).stdout.split():
        assert untouched.cluster.node("/bin/busybox", "kill", "-9", pid).returncode == 0
    untouched.wait(f"{program} is there again", lambda: all(n > before and ready for n, ready in restarts(untouched, program)))


def test_handler_pod_deleted(untouched):
    """As in an update of the DaemonSet: another pod, whose agent finds the launcher by its records."""
    pod = untouched.kubectl("-n", "kubevirt", "get", "pod", "-l", "kubevirt.io=virt-handler", "-o", "name").strip()
    untouched.kubectl("-n", "kubevirt", "delete", pod, "--grace-period=0", "--force", timeout=300)
    untouched.kubectl("-n", "kubevirt", "rollout", "status", "daemonset/virt-handler", "--timeout=300s", timeout=330)


def test_launcher_killed(untouched):
    """The monitor starts another, which adopts QEMU; the agent finds it."""
    launcher = untouched.launcher()
    untouched.exec("kill", "-9", launcher)
    untouched.wait("there is another launcher", lambda: untouched.launcher() != launcher)
    assert all(s["restartCount"] == 0 for s in untouched.pod()["status"]["containerStatuses"])


@pytest.mark.parametrize("component", ["kubelet", "containerd", "kube-apiserver", "etcd"])
def test_restarted(untouched, component):
    untouched.cluster.control("restart", component)
    untouched.wait("the API server answers", lambda: untouched.kubectl("get", "--raw", "/readyz", "--request-timeout=5s") == "ok")
    untouched.wait("the node is Ready", untouched.cluster._node_ready)
    untouched.wait("the pod is the same", lambda: untouched.pod()["status"]["phase"] == "Running")
    assert all(s["restartCount"] == 0 for s in untouched.pod()["status"]["containerStatuses"])


def test_change_while_the_api_server_is_away(untouched):
    """What happens to the VM in this time is in its status afterwards."""
    container = untouched.pod()["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    untouched.cluster.control("stop", "kube-apiserver")
    try:
        untouched.cluster.ctr("tasks", "exec", "--exec-id", "pause", container, "/usr/bin/vmlet", "pause", "--socket", SOCKET)
    finally:
        untouched.cluster.control("start", "kube-apiserver")
    untouched.wait("the pause is in the status", lambda: untouched.condition("Paused") == "True")
    untouched.vmlet("unpause")


def test_orphaned_and_adopted(untouched):
    """kubectl delete --cascade=orphan leaves the instance; a VM of that name takes it up again."""
    old = untouched.vm()["metadata"]["uid"]
    untouched.kubectl("delete", "vm", untouched.name, "--cascade=orphan", "--timeout=300s", timeout=330)
    assert not untouched.vm()
    untouched.wait("the instance has no owner", lambda: not untouched.vmi()["metadata"].get("ownerReferences"))
    assert untouched.phase() == "Running"
    untouched.apply("running: true")
    new = untouched.vm()["metadata"]["uid"]
    untouched.wait("it is the new VM's", lambda: [o["uid"] for o in untouched.vmi()["metadata"].get("ownerReferences", [])] == [new])
    assert old != new


def test_guest_reboots(machine):
    """The guest's own reboot: another boot of the kernel, in the same QEMU, pod and instance."""
    machine.wait_up()
    before, boot = (machine.qemu(), machine.uid(), machine.pod()["metadata"]["uid"]), machine.boot_id()
    machine.run("reboot", check=False)
    machine.wait("the guest has booted again", lambda: machine.run("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip() not in ("", boot))
    machine.wait_up()
    assert (machine.qemu(), machine.uid(), machine.pod()["metadata"]["uid"]) == before


def test_nothing_was_refused(machine):
    """All through these tests the two programs were allowed what they asked for: no Event and no log line says otherwise."""
    for what in ("virt-handler", "virt-controller"):
        log = machine.kubectl("-n", "kubevirt", "logs", "-l", f"kubevirt.io={what}", "--tail=-1")
        assert "forbidden" not in log.lower()
