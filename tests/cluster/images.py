# SPDX-License-Identifier: Apache-2.0
"""Images for the tests, made from this build and loaded into the node; nothing is pulled."""
import json
import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "k8s" / "image"))
import oci  # noqa: E402

GUEST = "localhost/vmlet/test-guest:devel"


def build(folder, *names):
    """{name: archive} of the images of k8s/image/build."""
    subprocess.run([TOP / "k8s/image/build", *names, "--out", folder, "--build", TOP / "build"], check=True, stdout=subprocess.DEVNULL)
    return {name: Path(folder) / f"{name}.tar" for name in names}


def guest(folder):
    """An image as kernelBoot.container takes it: kernel and initramfs of the small guest."""
    recipe = subprocess.run([TOP / "tests/guest/build-initramfs"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    layer = oci.Layer()
    for name in ("vmlinuz", "initrd.img"):
        layer.copy(f"boot/{name}", Path(recipe, name))
    layer.directory("usr/bin")
    path = Path(folder) / "guest.tar"
    oci.write_image(path, GUEST, [layer], {"User": "107:107"}, 1)
    return path


def overlay(folder, *arguments):
    """A kustomization over k8s/manifests with the images of this build; the controller gets `arguments` besides."""
    names = ("virt-controller", "virt-handler", "virt-launcher")
    change = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": a} for a in arguments]
    change += [{"op": "replace", "path": "/spec/template/spec/containers/0/env/0/value", "value": "localhost/vmlet/virt-launcher:devel"},
               {"op": "replace", "path": "/spec/replicas", "value": 1}]
    (Path(folder) / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [os.path.relpath(TOP / "k8s/manifests", folder)],
        "images": [{"name": f"vmlet/{n}", "newName": f"localhost/vmlet/{n}", "newTag": "devel"} for n in names],
        "patches": [{"target": {"kind": "Deployment", "name": "virt-controller"}, "patch": json.dumps(change)}]}))
    return folder


def container_disk(folder, name, content):
    """An image as KubeVirt's containerDisk: one file in /disk, for uid 107."""
    layer = oci.Layer()
    layer.directory("usr/bin")
    layer.directory("disk", 0o555, 107)
    layer.file("disk/disk.img", content, 0o440, 107)
    path = Path(folder) / f"{name}.tar"
    oci.write_image(path, f"localhost/vmlet/{name}:devel", [layer], {"User": "107:107"}, 1)
    return path
