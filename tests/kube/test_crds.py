# SPDX-License-Identifier: Apache-2.0
"""The CRDs that are committed are those that the tables make, and keep to the rules of structural schemas."""
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent.parent
CRDGEN = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "k8s/crdgen/crdgen"
MANIFESTS = TOP / "k8s/manifests"
VERSIONS = {"kubevirt.io": ("v1", {"v1", "v1alpha3"}), "instancetype.kubevirt.io": ("v1beta1", {"v1beta1", "v1"})}
CRDS = sorted(MANIFESTS.glob("crd-*.yaml"))


def test_committed_files_are_what_the_tables_make(tmp_path):
    subprocess.run([CRDGEN, tmp_path], check=True, timeout=60)
    made = sorted(tmp_path.iterdir())
    assert [p.name for p in made] == [p.name for p in CRDS] and len(made) == 9
    stale = [p.name for p in made if p.read_text() != (MANIFESTS / p.name).read_text()]
    assert not stale, f"run ./dev crds: {stale}"


def check(schema, path, faults):
    """Kubernetes, "Custom Resources", structural schemas: a type for every value, but for int-or-string and unknown ones."""
    free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-int-or-string")
    if "type" not in schema and not free:
        faults.append(f"{path}: no type")
    if "properties" in schema and "additionalProperties" in schema:
        faults.append(f"{path}: properties and additionalProperties")
    if "description" not in schema and path.count(".") == 1:
        faults.append(f"{path}: no description")
    for missing in set(schema.get("required", ())) - set(schema.get("properties", ())):
        faults.append(f"{path}: required and not there: {missing}")
    if schema.get("x-kubernetes-int-or-string") and "type" in schema:
        faults.append(f"{path}: int-or-string with a type")
    for name, member in schema.get("properties", {}).items():
        check(member, f"{path}.{name}", faults)
    for part in ("items", "additionalProperties"):
        if part in schema:
            check(schema[part], f"{path}[]", faults)
    if schema.get("type") == "array" and "items" not in schema:
        faults.append(f"{path}: a list of what?")


@pytest.mark.parametrize("path", CRDS, ids=lambda p: p.stem)
def test_structural(path):
    crd = yaml.safe_load(path.read_text())
    assert crd["metadata"]["name"] == f"{crd['spec']['names']['plural']}.{crd['spec']['group']}"
    stored, served = VERSIONS[crd["spec"]["group"]]
    assert [v["name"] for v in crd["spec"]["versions"] if v["storage"]] == [stored]
    assert {v["name"] for v in crd["spec"]["versions"]} == served
    faults = []
    for version in crd["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        assert schema["properties"]["metadata"] == {"type": "object"}
        schema = {**schema, "properties": {k: v for k, v in schema["properties"].items() if k != "metadata"}}
        check(schema, "", faults)
    assert not faults, faults


def test_small_enough_to_apply():
    """kubectl apply keeps the object in an annotation, and annotations are limited to 256 KiB."""
    for path in CRDS:
        assert len(json.dumps(yaml.safe_load(path.read_text()), separators=(",", ":"))) < 256 * 1024 * 0.9, path.name
