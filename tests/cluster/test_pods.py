# SPDX-License-Identifier: Apache-2.0
"""The golden launcher pods in a real API server: accepted as they are, and by Pod Security "restricted"."""
import json
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent.parent
GOLDEN = sorted((TOP / "tests/golden/pod").glob("*.json"))


@pytest.fixture(scope="module")
def restricted(api):
    api.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": "high"}, "value": 1000})
    status, answer = api.call("POST", "/api/v1/namespaces", {"metadata": {
        "name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    assert status == 201, answer
    return api


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_pod_is_accepted(restricted, path):
    pod = json.loads(path.read_text().replace("<uid>", "00000000-0000-4000-8000-00000000000f"))
    pod["metadata"]["namespace"] = "restricted"
    url = "/api/v1/namespaces/restricted/pods?dryRun=All&fieldValidation=Strict"
    status, answer = restricted.call("POST", url, pod)
    if any("hostPath" in v for v in pod["spec"]["volumes"]):  # a hostDisk: the one thing that such a namespace forbids
        assert status == 403 and "restricted volume types (volume \"host\" uses restricted volume type" in answer["message"], answer
        pod["spec"]["volumes"] = [v for v in pod["spec"]["volumes"] if "hostPath" not in v]
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        pod["spec"]["containers"][0]["volumeMounts"] = [m for m in mounts if m["name"] != "host"]
        status, answer = restricted.call("POST", url, pod)
    assert status == 201, answer["message"]


def test_plain_pod_example_is_accepted(restricted):
    objects = list(yaml.safe_load_all((TOP / "examples/plain-pod.yaml").read_text()))
    for o, plural in zip(objects, ("configmaps", "persistentvolumeclaims", "pods")):
        status, answer = restricted.call("POST", f"/api/v1/namespaces/restricted/{plural}?dryRun=All&fieldValidation=Strict", o)
        assert status == 201, answer["message"]
