# SPDX-License-Identifier: Apache-2.0
"""The client against an HTTP server of the test's own, which does to it what a bad network and a busy server do."""
import json
import os
import queue
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from vmlet_lab import PATIENCE

TOP = Path(__file__).resolve().parent.parent.parent
WATCHER = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "tests/kube/kube-watcher"


def cm(name, version):
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "t", "resourceVersion": str(version),
                                              "managedFields": [{"x": "y" * 100}]}}


def event(kind, name, version):
    return (json.dumps({"type": kind, "object": cm(name, version)}) + "\n").encode()


class Server:
    """`script(request)` answers: (status, headers, chunks); chunks are sent one by one, then the connection is closed."""

    def __init__(self, script):
        self.requests, self.stop = [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                url = urlparse(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                outer.requests.append((url.path, query, dict(self.headers)))
                status, headers, chunks = script(url.path, query, len(outer.requests))
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                try:
                    for chunk in chunks:
                        self.wfile.write(chunk)
                        self.wfile.flush()
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.stop.set()
        self.http.shutdown()
        self.http.server_close()

    def hold(self):
        """The rest of a watch on which nothing happens."""
        self.stop.wait(600)
        yield b""


def kubeconfig(tmp_path, port, **user):
    path = tmp_path / "config"
    path.write_text(json.dumps({
        "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": "t"}}],
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "x", "user": user}]}))
    return path


class Watcher:
    def __init__(self, config):
        self.process = subprocess.Popen([WATCHER, config, "watch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.lines = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(x.strip()) for x in self.process.stdout], daemon=True).start()

    def expect(self, *wanted):
        got = [self.lines.get(timeout=PATIENCE) for _ in wanted]
        assert got == list(wanted)

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0
        line = self.lines.get(timeout=PATIENCE)
        assert line.startswith("end "), line
        return {k: int(v) for k, v in (x.split("=") for x in line.split()[1:])}


@pytest.fixture
def watch(tmp_path):
    started = []

    def start(server):
        folder = tmp_path / str(server.http.server_port)
        folder.mkdir()
        started.append(Watcher(kubeconfig(folder, server.http.server_port, token="abc")))
        return started[-1]

    yield start
    for w in started:
        w.process.kill()
        w.process.wait()


def page(items, version, more=""):
    return 200, {}, [json.dumps({"kind": "ConfigMapList", "metadata": {"resourceVersion": str(version),
                                                                         "continue": more}, "items": items}).encode()]


def test_pages_watch_and_resume(watch):
    def script(path, query, n):
        if "watch" not in query:
            return page([cm("a", 1), cm("b", 2)], 5, "next") if "continue" not in query else page([cm("c", 3)], 5)
        if query["resourceVersion"] == "5":
            return 200, {}, [event("ADDED", "d", 6), event("MODIFIED", "a", 7),
                             b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n']
        return 200, {}, (x for g in ([event("DELETED", "b", 10)], server.hold()) for x in g)

    with Server(script) as server:
        w = watch(server)
        w.expect("add a 1", "add b 2", "add c 3", "synced", "add d 6", "update a 7", "delete b 2")
        assert server.requests[0][2]["Authorization"] == "Bearer abc"
        assert server.requests[0][1]["limit"] == "2"
        assert server.requests[-1][1]["resourceVersion"] == "9"
        assert server.requests[-1][1]["allowWatchBookmarks"] == "true"
        end = w.end()
    assert end["objects"] == 3 and end["lists"] == 1 and end["watches"] == 2


def test_a_watch_cut_at_every_byte_loses_nothing(watch):
    """Each watch is cut one byte further on; the client must come to the same end from every one."""
    whole = event("ADDED", "x", 6) + event("DELETED", "x", 7)

    def run(cut):
        state = {"n": 0}

        def script(path, query, n):
            if "watch" not in query:
                return page([cm("a", 1)], 5)
            state["n"] += 1
            if state["n"] == 1:
                return 200, {}, [whole[:cut]]
            rest = {"5": whole, "6": event("DELETED", "x", 7)}.get(query["resourceVersion"], b"")
            return 200, {}, (x for g in ([rest], server.hold()) for x in g)

        with Server(script) as server:
            w = watch(server)
            w.expect("add a 1", "synced", "add x 6", "delete x 6")
            assert w.end()["lists"] == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(len(whole))))


@pytest.mark.parametrize("bad", ["410", "error-event", "garbage", "huge"])
def test_what_cannot_be_continued_is_listed_anew(watch, bad):
    state = {"lists": 0}

    def script(path, query, n):
        if "watch" not in query:
            state["lists"] += 1
            return page([cm("a", 1), cm("b", 2)], 5) if state["lists"] == 1 else page([cm("b", 7), cm("c", 8)], 9)
        if query["resourceVersion"] != "5":
            return 200, {}, server.hold()
        gone = json.dumps({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
        return {
            "410": (410, {}, [gone.encode()]),
            "error-event": (200, {}, [b'{"type":"ERROR","object":' + gone.encode() + b"}\n"]),
            "garbage": (200, {}, [b'{"type":"ADDED", oh\n']),
            "huge": (200, {}, (b"x" * (1 << 20) for _ in range(10))),
        }[bad]

    with Server(script) as server:
        w = watch(server)
        w.expect("add a 1", "add b 2", "synced")
        got = {w.lines.get(timeout=PATIENCE) for _ in range(3)}
        assert got == {"update b 7", "add c 8", "delete a 1"}
        if bad == "huge":
            assert state["lists"] >= 2
        w.end()


def test_busy_server_is_asked_again_after_the_time_it_names(tmp_path):
    busy = json.dumps({"kind": "Status", "reason": "TooManyRequests", "message": "later"}).encode()

    def script(path, query, n):
        return (429, {"Retry-After": "1"}, [busy]) if n < 3 else (200, {}, [json.dumps(cm("a", 1)).encode()])

    with Server(script) as server:
        out = get(tmp_path, server, "a")
        assert out == "ok a" and len(server.requests) == 3


def get(tmp_path, server, name, **user):
    config = kubeconfig(tmp_path, server.http.server_port, **user)
    return subprocess.run([WATCHER, config, "get", name], capture_output=True, text=True, timeout=PATIENCE).stdout.strip()


@pytest.mark.parametrize("status,reason,code", [
    (404, "NotFound", "NotFound"), (409, "Conflict", "WrongState"), (409, "AlreadyExists", "AlreadyExists"),
    (403, "Forbidden", "NotAllowed"), (422, "Invalid", "BadManifest"), (500, "InternalError", "ConnectionLost")])
def test_refusals(tmp_path, status, reason, code):
    body = json.dumps({"kind": "Status", "reason": reason, "message": "the reason why"}).encode()
    with Server(lambda *a: (status, {}, [body])) as server:
        out = get(tmp_path, server, "a")
        assert out.startswith(f"error {code} {status} {reason} GET /api/v1/namespaces/t/configmaps/a:"), out
        assert out.endswith("the reason why") and len(server.requests) == 1


def test_garbage_and_no_server(tmp_path):
    with Server(lambda *a: (200, {}, [b"<html>"])) as server:
        assert get(tmp_path, server, "a").startswith("error BadData 0  GET")
    assert get(tmp_path, server, "a").startswith("error ConnectionLost 0  GET http://127.0.0.1:")


def test_token_is_read_again_when_it_is_refused(tmp_path):
    token = tmp_path / "token"
    token.write_text("old\n")

    def script(path, query, n):
        if n == 1:
            token.write_text("new\n")
            return 401, {}, [b'{"kind":"Status","reason":"Unauthorized"}']
        return 200, {}, [json.dumps(cm("a", 1)).encode()]

    with Server(script) as server:
        assert get(tmp_path, server, "a", tokenFile="token") == "ok a"
        assert [r[2]["Authorization"] for r in server.requests] == ["Bearer old", "Bearer new"]


def test_memory_of_the_cache(watch):
    """An object costs its JSON text (without managedFields) and less than 300 bytes."""
    n, size = 2000, 3000

    def script(path, query, number):
        if "watch" in query:
            return 200, {}, server.hold()
        start = int(query.get("continue", 0))
        items = [cm(f"object-{i:06}", i + 1) for i in range(start, start + 100)]
        for item in items:
            item["data"] = {"text": "x" * size}
        return page(items, n, str(start + 100) if start + 100 < n else "")

    with Server(script) as server:
        w = watch(server)
        lines = [w.lines.get(timeout=PATIENCE) for _ in range(n + 1)]
        assert lines[-1] == "synced"
        rss = next(int(x.split()[1]) for x in Path(f"/proc/{w.process.pid}/status").read_text().splitlines()
                   if x.startswith("VmRSS"))
        end = w.end()
    one = cm("object-000000", 1000)
    del one["metadata"]["managedFields"]
    text = len(json.dumps({**one, "data": {"text": "x" * size}}, separators=(",", ":")))
    each = end["bytes"] / n
    print(f"{each:.0f} bytes for an object of {text} bytes; resident {rss} KiB for {n} objects")
    assert end["objects"] == n and text < each < text + 300
