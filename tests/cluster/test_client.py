# SPDX-License-Identifier: Apache-2.0
"""The C client against the real API server: TLS, HTTP/2, pages, watch, errors as they are."""
import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path

import pytest

from controller_lab import Proxy, kubeconfig, wait_for

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


# ---- writes ----------------------------------------------------------------------------------------------------------


def call(config, verb, name=None, body=None, **more):
    """("ok", status, answer) or ("error", code, status, reason, message)"""
    request = {"verb": verb, "plural": "configmaps", "namespace": "default", "name": name, "body": body} | more
    text = json.dumps({k: v for k, v in request.items() if v is not None})
    out = subprocess.run([WATCHER, config, "call", text], capture_output=True, text=True, timeout=120).stdout.strip()
    if out.startswith("ok "):
        _, status, answer = out.split(" ", 2)
        return "ok", int(status), json.loads(answer)
    _, code, status, reason, message = out.split(" ", 4)
    return "error", code, int(status), reason, message


def test_create_update_and_conflict(api, config):
    _, status, made = call(config, "create", body=cm("c1", "1"))
    assert status == 201
    assert call(config, "create", body=cm("c1", "1"))[1:4] == ("AlreadyExists", 409, "AlreadyExists")
    made["data"]["v"] = "2"
    _, status, second = call(config, "update", "c1", made)
    assert status == 200 and second["data"]["v"] == "2"
    made["data"]["v"] = "3"  # on the old resourceVersion
    assert call(config, "update", "c1", made)[1:4] == ("WrongState", 409, "Conflict")
    assert call(config, "delete", "c1", uid="00000000-0000-0000-0000-000000000000")[1:4] == ("WrongState", 409, "Conflict")
    assert call(config, "delete", "c1", resourceVersion=made["metadata"]["resourceVersion"])[2] == 409
    assert call(config, "delete", "c1", uid=second["metadata"]["uid"])[0] == "ok"
    assert call(config, "get", "c1")[1:4] == ("NotFound", 404, "NotFound")
    assert call(config, "delete", "c1")[2] == 404


def test_json_patch_with_tests(api, config):
    call(config, "create", body=cm("c2", "1"))
    patch = [{"op": "test", "path": "/data/v", "value": "1"}, {"op": "replace", "path": "/data/v", "value": "2"}]
    assert call(config, "json", "c2", patch)[2]["data"] == {"v": "2"}
    kind, code, status, reason, message = call(config, "json", "c2", patch)
    assert (kind, code, status, reason) == ("error", "BadManifest", 422, "Invalid") and message
    assert api.call("GET", PATH + "/c2")[1]["data"] == {"v": "2"}
    api.call("DELETE", PATH + "/c2")


def test_merge_patch(api, config):
    made = call(config, "create", body=cm("c3", "1"))[2]
    assert call(config, "merge", "c3", {"data": {"v": None, "w": "2"}})[2]["data"] == {"w": "2"}
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"w": "3"}}
    assert call(config, "merge", "c3", stale)[1:4] == ("WrongState", 409, "Conflict")
    api.call("DELETE", PATH + "/c3")


def test_apply_and_its_owners(api, config):
    first = call(config, "apply", "c4", cm("c4", "1"), manager="one")
    assert first[1] == 201 and [m["manager"] for m in first[2]["metadata"]["managedFields"]] == ["one"]
    other = call(config, "apply", "c4", cm("c4", "2"), manager="two")
    assert other[1:4] == ("WrongState", 409, "Conflict") and "one" in other[4]
    assert call(config, "apply", "c4", cm("c4", "2"), manager="two", force=True)[2]["data"] == {"v": "2"}
    api.call("DELETE", PATH + "/c4")


def test_status_subresource_strict_and_dry_run(api, config):
    ns = {"metadata": {"name": "client-status"}}
    assert call(config, "create", body=ns, plural="namespaces", cluster=True, dryRun=True)[1] == 201
    assert api.call("GET", "/api/v1/namespaces/client-status")[0] == 404
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client-status"}, "spec": {"containers": [
        {"name": "c", "image": "i", "imagee": "j"}]}}
    refused = call(config, "create", body=pod, plural="pods", strict=True)
    assert refused[2] == 400 and "imagee" in refused[4]
    assert call(config, "create", body=pod, plural="pods")[1] == 201
    done = call(config, "merge", "client-status", {"status": {"message": "hello"}, "metadata": {"labels": {"not": "here"}}},
                plural="pods", subresource="status")
    assert done[2]["status"]["message"] == "hello"
    call(config, "merge", "client-status", {"status": {"message": "not by this way"}}, plural="pods")
    assert api.call("GET", "/api/v1/namespaces/default/pods/client-status")[1]["status"]["message"] == "hello"
    assert call(config, "delete", "client-status", plural="pods", grace=-1)[0] == "ok"


def test_client_certificate(api, tmp_path):
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    for embedded in (False, True):
        if embedded:
            import base64
            user = {f"{k}-data": base64.b64encode((api.folder / f).read_bytes()).decode()
                    for k, f in (("client-certificate", "client.crt"), ("client-key", "client.key"))}
        else:
            user = {"client-certificate": str(api.folder / "client.crt"), "client-key": str(api.folder / "client.key")}
        config = kubeconfig(tmp_path / "certificate", api.url, api.ca, **user)
        answer = call(config, "create", body=review, group="authentication.k8s.io", plural="selfsubjectreviews", cluster=True)
        assert answer[2]["status"]["userInfo"]["username"] == "by-certificate"
    anonymous = kubeconfig(tmp_path / "nobody", api.url, api.ca, username="a", password="b")
    assert get(anonymous, "x").startswith("error NotAllowed 40")


# ---- a bad network ---------------------------------------------------------------------------------------------------


class Informer:
    """What the C informer believes to be there."""

    def __init__(self, config):
        self.known, self.lock = {}, threading.Lock()
        self.process = subprocess.Popen([WATCHER, config, "watch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.synced = threading.Event()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            what = line.split()
            if what == ["synced"]:
                self.synced.set()
            elif what[0] in ("add", "update"):
                self.known[what[1]] = what[2]
            elif what[0] == "delete":
                self.known.pop(what[1], None)

    def agrees(self, api):
        everywhere = api.call("GET", "/api/v1/configmaps")[1]["items"]
        return self.known == {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in everywhere}

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def bad_network(api, tmp_path):
    proxy = Proxy(int(api.url.rsplit(":", 1)[1]))
    config = kubeconfig(tmp_path / "proxied", f"https://127.0.0.1:{proxy.port}", api.ca)
    started = []

    def informer():
        started.append(Informer(config))
        return started[-1]

    yield proxy, config, informer
    for i in started:
        i.stop()
    proxy.close()


def churn(api, name, rounds):
    for n in range(rounds):
        api.call("POST", PATH, cm(f"{name}-{n}", "1"))
        api.call("PATCH", f"{PATH}/{name}-{n}", {"data": {"v": "2"}}, "application/merge-patch+json")
        if n % 3:
            api.call("DELETE", f"{PATH}/{name}-{n}")


def clean(api):
    for o in api.call("GET", PATH)[1]["items"]:
        if o["metadata"]["name"] != "kube-root-ca.crt":
            api.call("DELETE", f"{PATH}/{o['metadata']['name']}")


def test_informer_behind_connections_that_end_at_each_byte(api, bad_network):
    """TLS handshake, HTTP/2 frames, headers, lists and events: each connection ends some bytes later than the one before,
    while the objects change."""
    proxy, _, informer = bad_network
    i = informer()
    assert i.synced.wait(60)
    for step, limit in enumerate(range(0, 16000, 997)):
        proxy.limit = limit
        proxy.cut()
        churn(api, f"cut{step}", 3)
    proxy.limit = None
    proxy.cut()
    wait_for("agreement", lambda: i.agrees(api), 120)
    clean(api)
    wait_for("agreement", lambda: i.agrees(api))


def test_informer_when_the_server_is_gone(api, bad_network):
    proxy, config, informer = bad_network
    i = informer()
    assert i.synced.wait(60)
    proxy.refuse = True
    proxy.cut()
    churn(api, "gone", 9)
    assert call(config, "get", "x", deadline=3000)[1] in ("ConnectionLost", "TimedOut")
    proxy.refuse = False
    wait_for("agreement", lambda: i.agrees(api), 120)
    clean(api)


def test_slow_answers_and_deadlines(api, bad_network):
    proxy, config, informer = bad_network
    proxy.delay = 0.3
    i = informer()
    churn(api, "slow", 6)
    wait_for("agreement", lambda: i.agrees(api), 120)
    proxy.delay = 20
    started = time.monotonic()
    assert call(config, "get", "x", deadline=1000)[1] == "TimedOut"
    assert time.monotonic() - started < 15
    clean(api)


# ---- Events and the lease --------------------------------------------------------------------------------------------


def test_events_are_counted_and_combined(api, config):
    p = subprocess.Popen([WATCHER, config, "record"], stdin=subprocess.PIPE, text=True)

    def events(reason):
        return [e for e in api.call("GET", "/api/v1/namespaces/default/events")[1]["items"] if e["reason"] == reason]

    def write(text):
        p.stdin.write(text)
        p.stdin.flush()

    try:
        write("Same it happened\n" * 5)
        same = wait_for("one Event of five", lambda: [e for e in events("Same") if e["count"] == 5], 60)
        assert len(events("Same")) == 1 and same[0]["message"] == "it happened" and same[0]["type"] == "Warning"
        assert same[0]["involvedObject"]["uid"] == "some-uid" and same[0]["firstTimestamp"] <= same[0]["lastTimestamp"]
        write("".join(f"Many number {n}\n" for n in range(30)))
        many = wait_for("11 Events of thirty", lambda: (lambda m: m if len(m) >= 11 and sum(e["count"] for e in m) == 30 else None)(
            events("Many")), 60)
        combined = [e for e in many if e["message"].startswith("(combined from similar events): number")]
        assert len(many) == 11 and len(combined) == 1 and combined[0]["count"] == 20
        write("Long " + "\u00e9" * 3000 + "\n")
        assert len(wait_for("a long one", lambda: events("Long"))[0]["message"].encode()) <= 1024
    finally:
        p.stdin.close()
        assert p.wait(20) == 0


def test_lease_of_two_candidates(api, tmp_path, config, bad_network):
    proxy, bad, _ = bad_network

    def candidate(path, name):
        return subprocess.Popen([WATCHER, path, "lease", "default", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def holder():
        status, lease = api.call("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/test")
        return lease["spec"] if status == 200 else {}

    a = candidate(bad, "a")
    assert a.stdout.readline() == "leads\n"
    b = candidate(config, "b")
    try:
        first = holder()
        assert first["holderIdentity"] == "a" and first["leaseDurationSeconds"] == 15
        wait_for("a renewal", lambda: holder()["renewTime"] != first["renewTime"])
        proxy.refuse = True
        proxy.cut()
        assert a.stdout.readline() == "lost\n"  # before anybody else can lead
        lost = time.monotonic()
        assert holder()["holderIdentity"] == "a"
        assert b.stdout.readline() == "leads\n" and time.monotonic() >= lost
        assert holder()["holderIdentity"] == "b" and holder()["leaseTransitions"] == 1
        proxy.refuse = False
        b.stdin.close()
        assert b.stdout.readline() == "released\n"
        assert a.stdout.readline() == "leads\n"
    finally:
        for p in (a, b):
            p.kill()
            p.wait()
