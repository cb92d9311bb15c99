# SPDX-License-Identifier: Apache-2.0
"""k8s/manifests/smoke, which tries an installation: applied as the README says, over it a kustomization with other images."""
import json
import os

import pytest
import yaml

from images import GUEST, TOP
from vm_lab import Machine

SMOKE = TOP / "k8s/manifests/smoke"


@pytest.fixture
def smoke(vmlet, tmp_path):
    """With local images. In the place of CirrOS' disk, the small guest: it boots in seconds, from its kernel."""
    boot = [{"op": "add", "path": "/spec/template/spec/domain/firmware", "value": {"kernelBoot": {"kernelArgs": "console=ttyS0", "container": {
        "image": GUEST, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd.img"}}}},
        {"op": "replace", "path": "/spec/template/spec/domain/memory/guest", "value": "256Mi"}]
    (tmp_path / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [os.path.relpath(SMOKE, tmp_path)],
        "configurations": [os.path.relpath(SMOKE / "images.yaml", tmp_path)],
        "images": [{"name": "vmlet/virt-launcher", "newName": "localhost/vmlet/virt-launcher", "newTag": "devel"},
                   {"name": "kubevirt/cirros-container-disk-demo", "newName": "localhost/vmlet/test-disk", "newTag": "devel"}],
        "patches": [{"target": {"kind": "VirtualMachine"}, "patch": json.dumps(boot)}]}))
    shown = list(yaml.safe_load_all(vmlet.kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(tmp_path))))
    assert {d["kind"] for d in shown} == {"VirtualMachine", "Service", "Job"}
    text = "---\n".join(map(yaml.safe_dump, shown))
    assert "localhost/vmlet/test-disk:devel" in text
    yield text
    vmlet.kubectl("delete", "--ignore-not-found", "--wait=true", "-f", "-", stdin=text, timeout=600)


def test_smoke(vmlet, smoke):
    """The Job is complete when the guest has answered, and not before."""
    machine = Machine(vmlet, "smoke")
    vmlet.kubectl("apply", "-f", "-", stdin=smoke)
    machine.wait_up()
    machine.wait("the Job asks", lambda: vmlet.kubectl("get", "job", "smoke", "-o", "jsonpath={.status.active}") == "1")
    machine.run("(while :; do echo SSH-2.0-small | busybox nc -l -p 22; done) >/dev/null 2>&1 &")
    vmlet.kubectl("wait", "--for=condition=Complete", "job/smoke", "--timeout=600s", timeout=630)
    assert vmlet.kubectl("logs", "job/smoke").splitlines()[-1] == "SSH-2.0-small"  # above it, what was refused before
