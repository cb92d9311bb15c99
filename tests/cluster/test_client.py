# SPDX-License-Identifier: Apache-2.0
"""The C client against the real API server: TLS, HTTP/2, pages, watch, errors as they are."""
import json
import os
import queue
import subprocess
import threading
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
WATCHER = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "tests/kube/kube-watcher"
PATH = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def config(api, tmp_path):
    path = tmp_path / "config"
    path.write_text(json.dumps({
        "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": api.url, "certificate-authority": str(api.ca)}}],
        "users": [{"name": "x", "user": {"token": "test-cluster-token"}}]}))
    return path


def get(config, name):
    return subprocess.run([WATCHER, config, "get", name], capture_output=True, text=True, timeout=60).stdout.strip()


def cm(name, value):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}}


def test_get_and_errors(api, config):
    api.call("POST", PATH, cm("one", "1"))
    assert get(config, "one") == "ok one"
    assert 'configmaps "none" not found' in get(config, "none")
    api.call("DELETE", PATH + "/one")
    config.write_text(config.read_text().replace("test-cluster-token", "wrong"))
    assert get(config, "one").startswith("error NotAllowed 401 Unauthorized")
    trusted = json.loads(config.read_text())
    del trusted["clusters"][0]["cluster"]["certificate-authority"]
    config.write_text(json.dumps(trusted))
    assert get(config, "one").startswith("error ConnectionLost 0 ")  # no authority of ours signed that certificate


def test_informer(api, config):
    for i in range(5):
        api.call("POST", PATH, cm(f"w{i}", "1"))
    lines = queue.Queue()
    p = subprocess.Popen([WATCHER, config, "watch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: [lines.put(x.split()) for x in p.stdout], daemon=True).start()
    try:
        names = set()
        while (line := lines.get(timeout=20)) != ["synced"]:
            names.add(line[1])
        assert {f"w{i}" for i in range(5)} <= names
        _, stored = api.call("PATCH", PATH + "/w0", {"data": {"v": "2"}}, "application/merge-patch+json")
        assert lines.get(timeout=20) == ["update", "w0", stored["metadata"]["resourceVersion"]]
        for i in range(5):
            api.call("DELETE", f"{PATH}/w{i}")
        assert [lines.get(timeout=20)[:2] for _ in range(5)] == [["delete", f"w{i}"] for i in range(5)]
        p.stdin.close()
        assert p.wait(10) == 0
    finally:
        p.kill()
        p.wait()
