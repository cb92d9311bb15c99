# SPDX-License-Identifier: Apache-2.0
"""What the API server refuses by itself: each CEL rule of our CRDs, in each kind and version that has it, by that rule and
no other; an unknown field at every place of a manifest. The rules are read from the CRDs: a new one without a case here
fails."""
import copy
import subprocess

import pytest
import yaml

import binaries
from controller_lab import kubeconfig
from test_crds import CRDS, PLURAL, VERSION, VM, crds  # noqa: F401 (a fixture)

SPEC = VM["spec"]["template"]["spec"]
SELECTOR = {"matchLabels": {"a": "b"}}
# A good object of each kind.
GOOD = {
    "VirtualMachine": {"spec": VM["spec"]},
    "VirtualMachineInstance": {"spec": SPEC},
    "VirtualMachineInstanceReplicaSet": {"spec": {"selector": SELECTOR, "template": {"spec": SPEC}}},
    "VirtualMachineInstancePreset": {"spec": {"selector": SELECTOR, "domain": {"cpu": {"cores": 2}}}},
    "VirtualMachineInstanceMigration": {"spec": {"vmiName": "vm"}},
    **{f"VirtualMachine{c}Instancetype": {"spec": {"cpu": {"guest": 2}, "memory": {"guest": "1Gi"}}} for c in ("", "Cluster")},
    **{f"VirtualMachine{c}Preference": {"spec": {"cpu": {"preferredCPUTopology": "cores"}}} for c in ("", "Cluster")},
}


def add(path, value):
    """A case: one more element in the list at `path` of the instance's specification."""
    def change(spec):
        for name in path.split("."):
            spec = spec[name]
        spec.append(value)
    return change


def put(path, **values):
    """A case: members set at `path`, where a number is an element of a list; None takes one away."""
    def change(spec):
        for name in filter(None, path.split(".")):
            spec = spec[int(name) if name.isdigit() else name]
        for key, value in values.items():
            spec.pop(key, None) if value is None else spec.update({key: value})
    return change


# For each rule, by its message: what breaks it. A tuple's first element says of what: the VM's spec, or an update.
BREAKS = {
    "one of running and runStrategy must be given, and not both (running: true is runStrategy: Always)": [
        ("vm", put("", running=True)), ("vm", put("", runStrategy=None))],
    "each of domain.devices.disks must have a volume of the same name in volumes": [
        put("volumes.0", name="other"), put("", volumes=None)],
    "each of domain.devices.interfaces must have a network of the same name in networks": [
        add("domain.devices.interfaces", {"name": "more", "masquerade": {}}), put("", networks=None)],
    "each of networks must have an interface of the same name in domain.devices.interfaces": [
        add("networks", {"name": "more", "multus": {"networkName": "x"}}), put("domain.devices", interfaces=None)],
    "two volumes have the same name": [add("volumes", {"name": "root", "emptyDisk": {"capacity": "1Gi"}})],
    "two networks have the same name": [add("networks", {"name": "default", "multus": {"networkName": "x"}})],
    "only one network can be the pod's own": [
        lambda spec: (spec["networks"].append({"name": "b", "pod": {}}),
                      spec["domain"]["devices"]["interfaces"].append({"name": "b", "masquerade": {}}))],
    "two disks have the same name": [add("domain.devices.disks", {"name": "root", "disk": {}})],
    "two interfaces have the same name": [add("domain.devices.interfaces", {"name": "default", "bridge": {}})],
    "a disk is one of disk, lun and cdrom": [put("domain.devices.disks.0", lun={}), put("domain.devices.disks.0", cdrom={})],
    "an interface has one binding": [
        put("domain.devices.interfaces.0", **{binding: {}}) for binding in ("bridge", "sriov", "macvtap", "slirp", "passt")],
    "a volume has exactly one source": [
        put("volumes.0", emptyDisk={"capacity": "1Gi"}), put("volumes.0", containerDisk=None)],
    "user data comes from one of userData, userDataBase64 and secretRef": [
        add("volumes", {"name": "ci", kind: {"userData": "x", **other}})
        for kind in ("cloudInitNoCloud", "cloudInitConfigDrive")
        for other in ({"userDataBase64": "eA=="}, {"secretRef": {"name": "s"}})],
    "a network is exactly one of pod, multus and resourceClaim": [
        put("networks.0", multus={"networkName": "x"}), put("networks.0", pod=None)],
    "a migration cannot be changed: delete it and make another one": [("update", put("spec", vmiName="other"))],
}


def rules():
    """(message, kind, version, place in the schema) of every rule of every CRD."""
    def walk(schema, place):
        for rule in schema.get("x-kubernetes-validations", ()):
            yield rule["message"], place
        for name, member in schema.get("properties", {}).items():
            yield from walk(member, f"{place}.{name}")
        for part in ("items", "additionalProperties"):
            if isinstance(schema.get(part), dict):
                yield from walk(schema[part], place + "[]")

    for path in CRDS:
        crd = yaml.safe_load(path.read_text())["spec"]
        for version in crd["versions"]:
            for message, place in walk(version["schema"]["openAPIV3Schema"], ""):
                yield message, crd["names"]["kind"], f"{crd['group']}/{version['name']}", place


def good(kind, api_version=None):
    return copy.deepcopy({"apiVersion": api_version or VERSION.get(kind, "kubevirt.io/v1"), "kind": kind,
                          "metadata": {"name": "rules"}, **GOOD[kind]})


def instance_spec(manifest):
    spec = manifest["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


def url(manifest, name="", query="?dryRun=All&fieldValidation=Strict"):
    place = "" if "Cluster" in manifest["kind"] else "namespaces/default/"
    return f"/apis/{manifest['apiVersion']}/{place}{PLURAL[manifest['kind']]}{name}{query}"


def test_every_rule_has_a_case():
    assert {message for message, *_ in rules()} == set(BREAKS)


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_one(crds, kind):  # noqa: F811
    for api_version in {v for _, k, v, _ in rules() if k == kind} or {None}:
        manifest = good(kind, api_version)
        status, answer = crds.call("POST", url(manifest), manifest)
        assert status == 201, answer


@pytest.mark.parametrize("message,kind,api_version", sorted({r[:3] for r in rules()}),
                         ids=lambda x: x.split("/")[-1][:40].replace(" ", "-"))
def test_rule(crds, message, kind, api_version):  # noqa: F811
    places = {place for m, k, v, place in rules() if (m, k, v) == (message, kind, api_version)}
    seen = set()
    for case in BREAKS[message]:
        of, change = case if isinstance(case, tuple) else ("instance", case)
        manifest = good(kind, api_version)
        if of == "update":
            status, answer = crds.call("POST", url(manifest, query=""), manifest)
            assert status == 201, answer
            change(answer)
            status, answer = crds.call("PUT", url(manifest, "/rules"), answer)
            assert crds.call("DELETE", url(manifest, "/rules", ""))[0] == 200
        else:
            change(manifest["spec"] if of == "vm" else instance_spec(manifest))
            status, answer = crds.call("POST", url(manifest), manifest)
        assert status == 422, answer
        causes = {(c["field"], c["message"].partition(": ")[2] or c["message"]) for c in answer["details"]["causes"]}
        by_rule = {(field, text) for field, text in causes if text == message or text.endswith(": " + message)}
        # one mistake, one reason: what a person reads is this and nothing beside it
        assert causes == by_rule, f"{causes} and not only {message}"
        for field, _ in by_rule:
            seen.add("." + "".join("[]" if i % 2 else part for i, part in enumerate(field.replace("]", "[").split("["))))
    assert seen == places, "places of this rule that no case reached"


# ---- unknown fields --------------------------------------------------------------------------------------------------

UNKNOWN = "noSuchField"


def spoil(value, schema, place, said):
    """Puts a field that is not there into every mapping that the schema knows; their paths go to `said`."""
    if not schema or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, dict) and "additionalProperties" in schema:
        for key, member in value.items():
            spoil(member, schema["additionalProperties"], f"{place}.{key}", said)
    elif isinstance(value, dict):
        for key, member in value.items():
            if place or key == "spec":
                spoil(member, schema.get("properties", {}).get(key), f"{place}.{key}".lstrip("."), said)
        if "properties" in schema or schema.get("type") == "object":
            said.add(f"{place}.{UNKNOWN}".lstrip("."))
            value[UNKNOWN] = {}
    elif isinstance(value, list):
        for i, member in enumerate(value):
            spoil(member, schema.get("items"), f"{place}[{i}]", said)


def schema_of(kind, version):
    for path in CRDS:
        crd = yaml.safe_load(path.read_text())["spec"]
        if crd["names"]["kind"] == kind:
            return next(v["schema"]["openAPIV3Schema"] for v in crd["versions"] if v["name"] == version)
    raise AssertionError(kind)


def names(answer):
    text = answer["message"]
    return {part.split('"')[0] for part in text.split('unknown field "')[1:]}


@pytest.mark.parametrize("kind", GOOD)
def test_unknown_fields_are_named(crds, kind):  # noqa: F811
    """At every place of the good object, all in one answer; without strict validation they are dropped."""
    manifest, said = good(kind), set()
    spoil(manifest, schema_of(kind, manifest["apiVersion"].split("/")[1]), "", said)
    assert len(said) >= 2
    status, answer = crds.call("POST", url(manifest), manifest)
    assert status == 400 and answer["reason"] == "BadRequest"
    assert names(answer) == said
    status, answer = crds.call("POST", url(manifest, query="?dryRun=All&fieldValidation=Warn"), manifest)
    assert status == 201 and UNKNOWN not in str({k: v for k, v in answer.items() if k != "metadata"})


def test_kubectl_says_it(crds, tmp_path):  # noqa: F811
    """As a person sees it: `kubectl create --validate=strict`, then a rule."""
    config = kubeconfig(tmp_path / "config", crds.url, crds.ca)

    def create(change):
        manifest = good("VirtualMachine")
        change(instance_spec(manifest))
        done = subprocess.run([binaries.control_plane() / "kubectl", "--kubeconfig", config, "create", "--validate=strict",
                               "--dry-run=server", "-f", "-"], input=yaml.safe_dump(manifest), capture_output=True, text=True,
                              timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    assert create(lambda spec: None)[0] == 0
    code, text = create(put("domain", cpus={"cores": 2}))
    assert code == 1 and 'strict decoding error: unknown field "spec.template.spec.domain.cpus"' in text
    code, text = create(put("volumes.0", name="other"))
    assert code == 1 and text.strip() == (
        'The VirtualMachine "rules" is invalid: spec.template.spec: Invalid value: each of domain.devices.disks must have a '
        'volume of the same name in volumes'), text
