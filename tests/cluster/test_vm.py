# SPDX-License-Identifier: Apache-2.0
"""kubectl apply of a VirtualMachine on a real cluster: virt-controller, virt-handler and a guest under emulation."""
import json
import re
import subprocess

import pytest

PATIENCE = 300
VM = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: {name}
spec:
  running: true
  template:
    metadata:
      labels: {{kubevirt.io/domain: {name}}}
    spec:
      terminationGracePeriodSeconds: 60
      domain:
        firmware:
          kernelBoot:
            kernelArgs: console=ttyS0 quiet
            container: {{image: "localhost/vmlet/test-guest:devel", kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd.img}}
        memory: {{guest: 256Mi}}
        devices:
          rng: {{}}
          disks:
          - {{name: containerdisk, disk: {{bus: virtio}}}}
          interfaces: [{{name: default, masquerade: {{}}}}]
      networks: [{{name: default, pod: {{}}}}]
      volumes:
      - name: containerdisk
        containerDisk: {{image: "localhost/vmlet/test-disk:devel"}}
"""


class Machine:
    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    def kubectl(self, *arguments, **options):
        return self.cluster.kubectl(*arguments, **options)

    def vmi(self):
        done = self.kubectl("get", "vmi", self.name, "-o", "json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def phase(self):
        return self.vmi().get("status", {}).get("phase", "")

    def condition(self, name):
        return next((c["status"] for c in self.vmi().get("status", {}).get("conditions", []) if c["type"] == name), None)

    def wait(self, what, condition, seconds=PATIENCE):
        self.cluster._wait(what, condition, seconds)

    def pod(self):
        """The launcher pod that is not on its way out."""
        pods = json.loads(self.kubectl("get", "pod", "-l", f"vm.kubevirt.io/name={self.name}", "-o", "json"))["items"]
        return next((p for p in pods if "deletionTimestamp" not in p["metadata"]), None)

    def exec(self, *argv, container="compute", **options):
        return self.kubectl("exec", self.pod()["metadata"]["name"], "-c", container, "--", *argv, **options)

    def run(self, command, check=True):
        """In the guest, by its agent."""
        return self.exec("virt-probe", "--socket", "/var/run/kubevirt/sockets/launcher-sock", "--domainName", f"default_{self.name}",
                         "--timeoutSeconds", "60", "--command", "/bin/sh", "--", "-c", command, check=check)

    def console(self):
        return self.kubectl("logs", self.pod()["metadata"]["name"], "-c", "guest-console-log")

    def qemu(self):
        """QEMU's process id in the pod, and when it started."""
        return re.search(r"^ *(\d+) .*qemu-system", self.exec("ps", "-o", "pid,args"), re.M).group(1)

    def wait_agent(self):
        self.wait("the guest's agent is connected", lambda: self.condition("AgentConnected") == "True")


@pytest.fixture
def machine(vmlet, request):
    """A VM that runs, its guest up."""
    it = Machine(vmlet, f"vm-{abs(hash(request.node.name)) % 100000}")
    vmlet.kubectl("apply", "-f", "-", stdin=VM.format(name=it.name))
    try:
        it.wait("the VM runs", lambda: it.phase() == "Running")
        it.wait_agent()
        yield it
    finally:
        vmlet.kubectl("delete", "vm", it.name, "--ignore-not-found", "--wait=true", "--timeout=150s", timeout=200)


def events(machine):
    items = json.loads(machine.kubectl("get", "events", "-o", "json"))["items"]
    return [e["reason"] for e in items if e["involvedObject"]["name"] == machine.name]


def test_runs(machine):
    """What kubectl shows; the console from byte 0; a question of QEMU; the guest's disk; no status write without a change."""
    columns = machine.kubectl("get", "vmi", machine.name, "--no-headers").split()
    address = machine.pod()["status"]["podIP"]
    assert columns[2:5] == ["Running", address, machine.cluster.name]
    machine.wait("the VM is Ready", lambda: machine.kubectl("get", "vm", machine.name, "--no-headers").split()[2:4] == ["Running", "True"])
    assert "vmlet guest ready" in machine.console()
    assert f"default_{machine.name}" in machine.exec("qmp-shell", "-c", "dominfo")
    # test-disk holds 0, 1, 2 … 255 over and over
    machine.run("test $(dd if=/dev/vda bs=1 skip=77 count=1 2>/dev/null | od -An -tu1) = 77")
    machine.wait("the guest has its address by DHCP", lambda: machine.run("ip addr show eth0 | grep -q 10.0.2.2", check=False).returncode == 0)
    status = machine.vmi()["status"]
    assert status["interfaces"][0]["ipAddress"] == address and status["guestOSInfo"]["id"] == "vmlet-guest"
    assert {"Created", "Started", "SuccessfulCreate"} <= set(events(machine))
    owner = machine.exec("stat", "-c", "%u", "/dev/net/tun")
    assert owner.strip() == "107"


def test_reached_by_its_address(machine):
    """A server in the guest, asked from another pod by the address in the VMI's status."""
    machine.wait("the guest has its address", lambda: machine.run("ip addr show eth0 | grep -q 10.0.2.2", check=False).returncode == 0)
    machine.run("(while :; do echo hello from the guest | busybox nc -l -p 8080; done) >/dev/null 2>&1 &")
    address = machine.vmi()["status"]["interfaces"][0]["ipAddress"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asker"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "asker", "image": "localhost/pause:test", "imagePullPolicy": "Never"}]}}
    machine.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        machine.kubectl("wait", "--for=condition=Ready", "pod/asker", "--timeout=120s", timeout=150)
        machine.wait("the guest answers", lambda: "hello from the guest" in machine.kubectl(
            "exec", "asker", "--", "/bin/sh", "-c", f"/bin/busybox nc -w 5 {address} 8080 </dev/null"), 120)
    finally:
        machine.kubectl("delete", "pod", "asker", "--wait=true", timeout=150)


def test_handler_restarts(machine):
    """The agent is killed, and started again with nothing but its records: the guest, the pod and the object do not notice."""
    qemu, uid, before = machine.qemu(), machine.vmi()["metadata"]["uid"], machine.vmi()["status"]
    pod = machine.kubectl("-n", "kubevirt", "get", "pod", "-l", "kubevirt.io=virt-handler", "-o", "name").strip()
    machine.kubectl("-n", "kubevirt", "delete", pod, "--grace-period=0", "--force", timeout=150)
    machine.kubectl("-n", "kubevirt", "rollout", "status", "daemonset/virt-handler", "--timeout=150s", timeout=200)
    # it follows the launcher again: a pause is in the status
    machine.exec("vmlet", "pause", "--socket", "/var/run/kubevirt/sockets/launcher-sock")
    machine.wait("the pause is in the status", lambda: machine.condition("Paused") == "True")
    machine.exec("vmlet", "unpause", "--socket", "/var/run/kubevirt/sockets/launcher-sock")
    machine.wait("its end too", lambda: machine.condition("Paused") is None)
    now = machine.vmi()
    assert machine.qemu() == qemu and now["metadata"]["uid"] == uid
    assert now["status"]["phaseTransitionTimestamps"] == before["phaseTransitionTimestamps"]


def test_launcher_crashes(machine):
    """SIGKILL for virt-launcher: the guest runs on, and the agent finds the next launcher."""
    qemu = machine.qemu()
    launcher = re.search(r"^ *(\d+) +/usr/bin/virt-launcher ", machine.exec("ps", "-o", "pid,args"), re.M).group(1)
    machine.exec("kill", "-9", launcher)
    machine.wait("there is another launcher", lambda: machine.exec("qmp-shell", "-c", "dominfo", check=False).returncode == 0)
    machine.exec("vmlet", "pause", "--socket", "/var/run/kubevirt/sockets/launcher-sock")
    machine.wait("the agent hears of it", lambda: machine.condition("Paused") == "True")
    machine.exec("vmlet", "unpause", "--socket", "/var/run/kubevirt/sockets/launcher-sock")
    assert machine.qemu() == qemu and machine.phase() == "Running"


def test_guest_powers_off(machine):
    """Always: the guest's own poweroff ends the instance as Succeeded, and the VM gets another."""
    uid = machine.vmi()["metadata"]["uid"]
    machine.run("poweroff", check=False)
    machine.wait("a new instance runs", lambda: machine.vmi().get("metadata", {}).get("uid", uid) != uid and machine.phase() == "Running")
    assert "Stopped" in events(machine)


def test_deleted(machine):
    """The guest is shut down, and nothing of it is left on the node: no mount, no record, no pod."""
    uid = machine.vmi()["metadata"]["uid"]
    machine.kubectl("delete", "vm", machine.name, "--wait=true", "--timeout=200s", timeout=250)
    machine.wait("the pod is gone", lambda: machine.pod() is None)
    reasons = events(machine)
    assert "ShuttingDown" in reasons and "Stopped" in reasons
    listing = machine.kubectl("-n", "kubevirt", "exec", "ds/virt-handler", "--", "find", "/var/run/kubevirt-private")
    assert uid not in listing
    mounts = machine.cluster.node("cat", "/proc/self/mounts").stdout
    assert "disk_0.img" not in mounts


def test_device_plugins(vmlet):
    """kubelet counts the devices, and again after it was restarted: the plugins register by themselves."""
    def allocatable():
        return json.loads(vmlet.kubectl("get", "node", vmlet.name, "-o", "json"))["status"]["allocatable"]

    vmlet._wait("the devices are there", lambda: allocatable().get("devices.kubevirt.io/tun") == "1k", 60)
    assert allocatable()["devices.kubevirt.io/vhost-net"] == ("1k" if subprocess.run(["test", "-e", "/dev/vhost-net"], check=False).returncode == 0 else "0")
    metrics = f"http://{vmlet.kubectl('-n', 'kubevirt', 'get', 'pod', '-l', 'kubevirt.io=virt-handler', '-o', 'jsonpath={.items[0].status.podIP}')}:8185/metrics"

    def registrations():
        text = vmlet.node("/bin/busybox", "wget", "-qO-", metrics).stdout
        return int(re.search(r'registrations_total{device="tun"} (\d+)', text).group(1))

    before = registrations()
    vmlet.control("restart", "kubelet")
    vmlet._wait("they are registered again", lambda: registrations() > before, 120)
    vmlet._wait("and counted", lambda: allocatable().get("devices.kubevirt.io/tun") == "1k", 120)
    vmlet._wait("the node may have instances", lambda: vmlet.kubectl(
        "get", "node", vmlet.name, "-o", r"jsonpath={.metadata.labels.kubevirt\.io/schedulable}") == "true", 60)
