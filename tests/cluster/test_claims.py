# SPDX-License-Identifier: Apache-2.0
"""A claim without a disk on a real cluster: from its capacity in the API to the disk in the guest, and when it grows."""
import json

import pytest
import yaml
from vm_lab import VM, Machine

MIB = 1024 * 1024
FOLDER = "/var/lib/vmlet-test-claim"
CLAIM = """
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: vmlet-test}}
provisioner: kubernetes.io/no-provisioner
allowVolumeExpansion: true
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: vmlet-test}}
spec:
  capacity: {{storage: 128Mi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: vmlet-test
  local: {{path: {folder}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: vmlet-test}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: vmlet-test, volumeName: vmlet-test, resources: {{requests: {{storage: 128Mi}}}}}}
"""


@pytest.fixture
def claim(vmlet):
    assert vmlet.node("mkdir", "-p", FOLDER).returncode == 0
    text = CLAIM.format(folder=FOLDER, node=vmlet.name)
    vmlet.kubectl("apply", "-f", "-", stdin=text)
    yield vmlet
    vmlet.kubectl("delete", "-f", "-", stdin=text)
    vmlet.node("rm", "-r", FOLDER)


def grow(cluster, size):
    """As its user asks for it, and as who makes the volume tells it."""
    for what, patch in (("pvc", {"spec": {"resources": {"requests": {"storage": size}}}}), ("pv", {"spec": {"capacity": {"storage": size}}})):
        cluster.kubectl("patch", what, "vmlet-test", "--type", "merge", "-p", json.dumps(patch))
    cluster.kubectl("patch", "pvc", "vmlet-test", "--subresource=status", "--type", "merge", "-p",
                    json.dumps({"status": {"capacity": {"storage": size}}}))


def test_an_empty_claim_becomes_a_disk(claim):
    claim._wait("the claim is bound", lambda: "Bound" in claim.kubectl("get", "pvc", "vmlet-test", "-o", "jsonpath={.status.phase}"), 300)
    manifest = yaml.safe_load(VM.format(name="claimant", strategy="runStrategy: Always"))
    spec = manifest["spec"]["template"]["spec"]
    spec["domain"]["devices"]["disks"].append({"name": "data", "disk": {"bus": "virtio"}})
    spec["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": "vmlet-test"}})
    machine = Machine(claim, "claimant")
    claim.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))

    def size():
        return int(machine.run("cat /sys/block/vdb/size", check=False).stdout.strip() or 0) * 512

    try:
        machine.wait_up()
        status = next(v for v in machine.vmi()["status"]["volumeStatus"] if v["name"] == "data")
        assert status["persistentVolumeClaimInfo"]["capacity"] == {"storage": "128Mi"} and status["target"] == "vdb"
        assert size() == 120 * MIB  # 5.5 % are the file system's
        machine.run("echo mine | dd of=/dev/vdb bs=512 conv=sync,notrunc oflag=direct 2>/dev/null")
        grow(claim, "256Mi")
        machine.wait("the guest has the larger disk", lambda: size() == 241 * MIB)
    finally:
        machine.delete()
    assert claim.node("head", "-c", "5", f"{FOLDER}/disk.img").stdout == "mine\n"
