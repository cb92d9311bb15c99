# SPDX-License-Identifier: Apache-2.0
"""An image that is replaced after it was examined and before QEMU opens it: no guest sees what was put there."""
import os
import subprocess
from pathlib import Path

import pytest
from vmlet_lab import vmi

MIB = 1024 * 1024
VOLUMES = {
    "claim": {"persistentVolumeClaim": {"claimName": "c"}},
    "ephemeral": {"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}},
}


@pytest.fixture
def swapping(pod):
    library = pod.tmp / "swap.so"
    source = Path(__file__).parent / "swap.c"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    pod.image = pod.private / "vmi-disks" / "data" / "disk.img"
    pod.image.parent.mkdir(parents=True)
    pod.image.write_bytes(b"good" * (MIB // 4))
    pod.secret = pod.private / "secret" / "token" / "value"  # what QEMU may open: another volume of the pod
    pod.secret.parent.mkdir(parents=True)
    pod.secret.write_bytes(b"hush" * (MIB // 4))
    pod.by = pod.image.parent / "by"
    pod.environment = {"LD_PRELOAD": str(library), "VMLET_SWAP": str(pod.image), "VMLET_SWAP_BY": str(pod.by)}
    return pod


def spec_with(volume):
    spec = vmi()
    spec["spec"]["domain"]["devices"]["disks"] = [{"name": "data", "disk": {"bus": "virtio"}}]
    spec["spec"]["volumes"] = [{"name": "data", **volume}]
    return spec


@pytest.mark.parametrize("kind", VOLUMES)
@pytest.mark.parametrize("by, back, why", [
    ("link", False, "it is a symbolic link"),
    ("link", True, "it was replaced while QEMU opened it"),
    ("file", True, "it was replaced while QEMU opened it"),
])
def test_no_guest_sees_it(swapping, kind, by, back, why):
    pod = swapping
    if by == "link":
        os.symlink(pod.secret, pod.by)
    else:
        pod.by.write_bytes(b"evil" * (MIB // 4))
    pod.start(env=dict(pod.environment, **({"VMLET_SWAP_BACK": "1"} if back else {})))
    client = pod.client()
    client.call("SyncVirtualMachine", vmi=spec_with(VOLUMES[kind]))
    assert pod.end() != 0
    assert why in pod.text() and "volume data" in pod.text(), pod.text()
    assert "swap:" not in pod.text()
    assert pod.secret.read_bytes() == b"hush" * (MIB // 4)


@pytest.mark.parametrize("kind", VOLUMES)
def test_nobody_swaps(swapping, kind):
    """The same without the swap starts."""
    pod = swapping
    pod.start()
    client = pod.client()
    client.ok("SyncVirtualMachine", vmi=spec_with(VOLUMES[kind]))
    answer = client.ok("GetDomain")
    pod.qemu = answer["vmlet"]["pid"]
    pod.wait_agent(client)
    seen = client.ok("Exec", Command="/bin/sh", Args=["-c", "dd if=/dev/vda bs=4 count=1 2>/dev/null"])
    assert seen["stdOut"] == "good"
