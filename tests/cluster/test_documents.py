# SPDX-License-Identifier: Apache-2.0
"""The manifests that KubeVirt's documents show, as they stand there, by kubectl on a real cluster. What is changed: images have
local names. What stands behind the names: for Fedora and Ubuntu a Debian, booted from its disk by BIOS, with cloud-init; for
CirrOS, which has 64 MB, a boot sector that says hello on the serial line (Debian's kernel does not fit into that)."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cluster as clusters
import images
from vm_lab import Machine, Watch

TOP = Path(__file__).resolve().parent.parent.parent
MANIFESTS = TOP / "tests/golden/manifests"
LOCAL = {
    "kubevirt/fedora-cloud-container-disk-demo:latest": "debian",
    "registry.cluster.local:30444/virtual-machine-image/ubuntu20:amd64": "hello",
    "kubevirt/cirros-container-disk-demo:latest": "hello",
    "registry:5000/kubevirt/cirros-container-disk-demo:devel": "hello",
}
BOOT_SECONDS = 1500  # firmware, kernel, systemd and cloud-init, emulated on a busy machine
HELLO = b"Hello from the first sector.\r\n"


def boot_sector():
    """Real mode: each byte of HELLO to COM1 when the port takes it, then asleep."""
    code = bytes.fromhex("31c0 8ed8 be207c ac 84c0 7411 88c4 bafd03 ec a820 74fb 88e0 b2f8 ee ebea f4 ebfd")
    assert len(code) == 0x20
    sector = (code + HELLO + b"\0").ljust(510, b"\0") + b"\x55\xaa"
    return sector + bytes(1 << 20)


@pytest.fixture(scope="module")
def debian_disk():
    done = subprocess.run([TOP / "tests/guest/build-debian"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def documents(vmlet, debian_disk, tmp_path_factory):
    """The cluster with a registry of the images on its node."""
    folder = tmp_path_factory.mktemp("documents")
    archives = {"debian": images.container_disk(folder, "debian", debian_disk.read_bytes()),
                "hello": images.container_disk(folder, "hello", boot_sector())}
    registry = subprocess.Popen(
        vmlet.node_argv(sys.executable, TOP / "tests/cluster/registry.py", clusters.REGISTRY.split(":")[1],
                        *(f"{name}={path}" for name, path in archives.items())),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert registry.stdout.readline() == "listening\n"
    yield vmlet
    registry.communicate(timeout=60)  # closes its standard input, by which it ends: nsenter would leave it behind


def document(name):
    """Its text with local images, and nothing else changed."""
    text = (MANIFESTS / name).read_text()
    for image, local in LOCAL.items():
        text = text.replace(f"image: {image}\n", f"image: {clusters.REGISTRY}/{local}:latest\n")
    assert text.count(clusters.REGISTRY) == len(re.findall(r"^ *image: ", text, re.M)) > 0
    return text


@pytest.fixture
def machine(documents, request):
    it = Machine(documents, request.param)
    yield it
    it.delete()


def asker(machine):
    """A pod of its own, from which others are asked."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asker"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "asker", "image": "localhost/pause:test", "imagePullPolicy": "Never"}]}}
    machine.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    machine.kubectl("wait", "--for=condition=Ready", "pod/asker", "--timeout=300s", timeout=330)


def check_row(machine):
    """kubectl get vmi shows where it runs, and its address, which is the pod's."""
    row = ["Running", machine.pod()["status"]["podIP"], machine.cluster.name, "True"]
    machine.wait("the row of kubectl get vmi", lambda: machine.kubectl("get", "vmi", machine.name, "--no-headers").split()[2:6] == row)


def check_boots(machine):
    """By its own firmware, boot loader and init: the whole serial console is in kubectl logs, from the first byte to what the running
    system writes there; sshd answers another pod."""
    machine.wait("the guest's agent is connected", lambda: machine.condition("AgentConnected") == "True", BOOT_SECONDS)
    machine.run("echo written by the running system >/dev/console")
    machine.wait("that is in kubectl logs", lambda: "written by the running system" in machine.console())
    console = machine.console()
    log = machine.exec("cat", f"/var/run/kubevirt-private/{machine.uid()}/virt-serial0-log")
    strip = lambda text: re.sub(r"[\r\n]", "", text)  # noqa: E731
    assert strip(console)[:2000] == strip(log)[:2000] and "SYSLINUX" in console[:200], console[:400]
    asker(machine)
    address = machine.vmi()["status"]["interfaces"][0]["ipAddress"]
    assert address == machine.pod()["status"]["podIP"]
    try:
        machine.wait("the guest's sshd answers", lambda: "SSH-2.0" in machine.kubectl(
            "exec", "asker", "--", "/bin/sh", "-c", f"/bin/busybox nc -w 10 {address} 22 </dev/null"), BOOT_SECONDS)
    finally:
        machine.kubectl("delete", "pod", "asker", "--wait=true", timeout=300)


def check_dominfo(machine, cpus, size, uuid=None):
    assert f"default_{machine.name}" in machine.exec("qmp-shell", "-c", "dominfo")
    info = json.loads(machine.exec("qmp-shell", "-j", "-c", "dominfo"))
    assert info["name"] == f"default_{machine.name}" and info["status"] == "running" and info["vcpus"] == cpus, info
    assert size <= info["memory-bytes"] < size + (1 << 20), info  # whole pages
    assert uuid in (None, info["uuid"])


@pytest.mark.parametrize("machine", ["kubevirt-smoke-fedora"], indirect=True)
def test_fedora(machine):
    machine.kubectl("apply", "-f", "-", stdin=document("seed-kubevirt-smoke-fedora.yaml"))
    machine.wait("it runs", lambda: machine.phase() == "Running" and machine.status() == "Running")
    check_row(machine)
    check_dominfo(machine, 1, 4 * 10**9, "c3ecdb42-282e-44c3-8266-91b99ac91261")
    check_boots(machine)
    # the empty disk of the manifest, and the password that cloud-init was given
    assert str(2 << 30) in machine.run("lsblk -bdno SIZE")
    # by the file that it writes at its end: `cloud-init status`, asked over and over, would take the time that it is waiting for
    machine.wait("cloud-init is done", lambda: machine.run("test -e /run/cloud-init/result.json", check=False).returncode == 0, BOOT_SECONDS)
    assert json.loads(machine.run("cat /run/cloud-init/result.json"))["v1"]["errors"] == []
    assert "password: changeme" in machine.run("cat /var/lib/cloud/instance/user-data.txt")


@pytest.fixture
def claim(documents, debian_disk):
    """The document's claim, bound to a volume of the node with an installed system on it."""
    folder = documents.dir / "volumes/ubuntu"
    folder.mkdir(parents=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", debian_disk, folder / "disk.img"], check=True)
    os.chown(folder / "disk.img", 107, 107)
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "ubuntu"}, "spec": {
        "capacity": {"storage": "25Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "", "hostPath": {"path": str(folder)}}}
    bound = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "ubuntu-amd-sys-disk"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": "ubuntu", "resources": {"requests": {"storage": "25Gi"}}}}
    for thing in (volume, bound):
        documents.kubectl("apply", "-f", "-", stdin=json.dumps(thing))
    yield
    documents.kubectl("delete", "pvc/ubuntu-amd-sys-disk", "pv/ubuntu", "--wait=true", timeout=300)
    (folder / "disk.img").unlink()
    folder.rmdir()


POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: few-cpus}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
    objectSelector: {matchLabels: {kubevirt.io: virt-launcher}}
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        [JSONPatch{op: "replace", path: "/spec/containers/0/resources/requests/cpu", value: "500m"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: few-cpus}
spec: {policyName: few-cpus}
"""


@pytest.fixture
def few_cpus(documents):
    """A machine with less than the 4 CPUs that the document asks for: an admission policy of the cluster lowers the pod's request
    (not its limit, nor the guest's vCPUs), as clusters that overcommit do."""
    if os.cpu_count() > 4:
        yield
        return
    documents.kubectl("apply", "-f", "-", stdin=POLICY)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "labels": {"kubevirt.io": "virt-launcher"}}, "spec": {"containers": [
        {"name": "probe", "image": "localhost/pause:test", "resources": {"requests": {"cpu": "4"}}}]}}
    documents._wait("the policy is in force", lambda: documents.kubectl(
        "create", "--dry-run=server", "-o", "jsonpath={.spec.containers[0].resources.requests.cpu}", "-f", "-", stdin=json.dumps(pod)) == "500m", 120)
    yield
    documents.kubectl("delete", "mutatingadmissionpolicybinding/few-cpus", "mutatingadmissionpolicy/few-cpus")


@pytest.mark.parametrize("machine", ["ubuntu-amd"], indirect=True)
def test_ubuntu(claim, few_cpus, machine):
    """Printed by `kubectl get -o yaml` in the document: of that, the server takes no resourceVersion from anybody."""
    text = document("seed-ubuntu-amd-vm.yaml")
    shown = yaml.safe_load((MANIFESTS / "seed-ubuntu-amd-vmi.yaml").read_text())
    machine.kubectl("apply", "-f", "-", stdin=re.sub(r'(?m)^  resourceVersion: .*\n', "", text))
    machine.wait("it runs", lambda: machine.phase() == "Running" and machine.status() == "Running")
    check_row(machine)
    check_dominfo(machine, 4, 4 << 30)
    check_boots(machine)
    assert machine.run("nproc").strip() == "4"
    vmi = machine.vmi()
    # every field of the status that the document shows is there, but what speaks of migration and of a device plugin's build
    missing = set(shown["status"]) - set(vmi["status"])
    assert missing <= {"migrationMethod", "migrationTransport", "virtualMachineRevisionName"}, missing
    assert vmi["spec"]["domain"]["firmware"]["uuid"] == shown["spec"]["domain"]["firmware"]["uuid"]
    for name in ("currentCPUTopology", "runtimeUser", "selinuxContext"):
        assert vmi["status"][name] == shown["status"][name], name
    phases = [step["phase"] for step in vmi["status"]["phaseTransitionTimestamps"]]
    assert phases == [step["phase"] for step in shown["status"]["phaseTransitionTimestamps"]]
    volumes = {v["name"]: v for v in vmi["status"]["volumeStatus"]}
    for v in shown["status"]["volumeStatus"]:
        assert volumes[v["name"]]["target"] == v["target"], volumes
    assert volumes["rootdisk"]["persistentVolumeClaimInfo"]["capacity"] == {"storage": "25Gi"}
    assert vmi["status"]["memory"]["guestCurrent"] == "4Gi"


@pytest.mark.parametrize("machine", ["vm-cirros"], indirect=True)
@pytest.mark.parametrize("name, on, off", [("seed-vm-cirros-v1alpha3.yaml", {"running": True}, {"running": False}),
                                           ("vm-cirros.yaml", {"runStrategy": "Always"}, {"runStrategy": "Halted"})])
def test_cirros(machine, name, on, off):
    """The walk through the document: created, started and stopped by patches, described, and the states that kubectl shows."""
    watches = [Watch(machine, "vm"), Watch(machine, "vmi")]
    try:
        machine.kubectl("create", "-f", "-", stdin=document(name))
        machine.wait_status("Stopped")
        assert not machine.vmi()
        machine.patch(on)
        machine.wait("it runs", lambda: machine.phase() == "Running" and machine.status() == "Running")
        machine.wait("it is ready", lambda: machine.vm()["status"].get("ready"))
        check_row(machine)
        machine.wait("the console says hello", lambda: machine.console().encode().replace(b"\r", b"") == HELLO.replace(b"\r", b""))
        check_dominfo(machine, 1, 64 * 10**6 if "v1alpha3" in name else 128 << 20)
        described = machine.kubectl("describe", "vm", machine.name)
        assert re.search(r"Created: +true", described) and re.search(r"Ready: +true", described) and "SuccessfulCreate" in described
        assert {v["name"]: v["target"] for v in machine.vmi()["status"]["volumeStatus"]} == {"containerdisk": "vda", "cloudinitdisk": "vdb"}
        machine.patch(off)
        machine.wait_status("Stopped")
        machine.wait("its instance and pod are gone", lambda: not machine.vmi() and not machine.pods())
    finally:
        seen = [w.end() for w in watches]
    assert seen[0][0] == ["NAME", "AGE", "STATUS", "READY"]
    assert seen[0][1] == ["Stopped", "Starting", "Running", "Stopping", "Stopped"], seen[0][1]
    assert seen[1][0] == ["NAME", "AGE", "PHASE", "IP", "NODENAME", "READY", "LIVE-MIGRATABLE", "PAUSED"]
    assert [s for s in seen[1][1] if s != "Pending"][:3] == ["Scheduling", "Scheduled", "Running"], seen[1][1]
