# SPDX-License-Identifier: Apache-2.0
"""virt-controller on a network that fails call by call, and with leaders that die, freeze and come back, in the middle of a
burst. A real API server; between it and the controller a proxy that speaks HTTP and spoils what a test tells it to. The
same client is virt-handler's; tests/kube/test_client.py cuts its watches at every byte."""
import copy
import http.client
import http.server
import json
import os
import random
import re
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter

import pytest

from controller_lab import KUBEVIRT, Proxy, kubeconfig, wait_for
from scale_handler import VMI, Handler, Node
from test_controller import VM, another, lab  # noqa: F401 (lab: a fixture)
from test_crds import crds  # noqa: F401 (a fixture)


def status(code, reason, message="said by the proxy", **headers):
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code}
    return code, {k.replace("_", "-"): str(v) for k, v in headers.items()}, json.dumps(body).encode()


# What can become of a call. `before`: it never reaches the server; `after`: it does, and the answer does not come back.
FAULTS = {
    "conflict": ("answer", status(409, "Conflict")),
    "busy": ("answer", status(429, "TooManyRequests", Retry_After=1)),
    "error": ("answer", status(500, "InternalError")),
    "unavailable": ("answer", status(503, "ServiceUnavailable", Retry_After=1)),
    "timeout": ("answer", status(504, "Timeout")),
    "garbage": ("answer", (200, {}, b"<html>a proxy's own page</html>")),
    "refused": ("before", None),
    "lost": ("after", None),
    "half": ("half", None),
    "slow": ("slow", 3.0),
}
LATER = {"later": ("answer", status(429, "TooManyRequests", Retry_After=4))}


class Faulty:
    """An HTTPS server in front of the API server. `decide(method, path, body)` names what is to become of a call, or None."""

    def __init__(self, api, folder, decide=lambda *_: None):
        self.api, self.decide = api, decide
        self.done = Counter()  # faults that happened
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "proxy.key", "-out", "proxy.crt", "-days", "2",
                        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, cwd=folder)
        faulty = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, code, headers, body):
                self.send_response_only(code)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = faulty.decide(self.command, self.path, body)
                kind, how = (FAULTS | LATER)[fault] if fault else ("pass", None)
                if fault:
                    faulty.done[fault] += 1
                if kind == "answer":
                    self.answer(*how)
                    return
                if kind == "before":
                    self.close_connection = True
                    return
                upstream = http.client.HTTPSConnection(faulty.api.url[8:], context=faulty.api.context, timeout=600)
                headers = {k: v for k, v in self.headers.items() if k.lower() in ("authorization", "content-type", "accept")}
                upstream.request(self.command, self.path, body, headers)
                reply = upstream.getresponse()
                if "watch=" in self.path:
                    self.stream(reply)
                else:
                    text = reply.read()
                    if kind == "slow":
                        threading.Event().wait(how)
                    if kind == "after":
                        self.close_connection = True
                    elif kind == "half":
                        self.send_response_only(reply.status)
                        self.send_header("Content-Length", str(len(text)))
                        self.end_headers()
                        self.wfile.write(text[:len(text) // 2])
                        self.close_connection = True
                    else:
                        self.answer(reply.status, {"Content-Type": "application/json"}, text)
                upstream.close()

            def stream(self, reply):
                self.send_response_only(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while data := reply.read1(65536):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")

            def do_GET(self):
                try:
                    self.serve()
                except OSError:
                    self.close_connection = True

            do_POST = do_PATCH = do_DELETE = do_PUT = do_GET

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

            def get_request(self):
                connection, address = self.socket.accept()
                return faulty.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(folder / "proxy.crt", folder / "proxy.key")
        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.config = kubeconfig(folder / "faulty", f"https://127.0.0.1:{self.server.server_address[1]}", folder / "proxy.crt")

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def faulty(lab):  # noqa: F811
    it = Faulty(lab.api, lab.tmp)
    yield it
    it.close()


class Witness:
    """All instances that ever were, by the API server's own account: what a controller must never do is in here."""

    def __init__(self, lab):  # noqa: F811
        self.lab, self.seen = lab, {}
        threading.Thread(target=lab.node.watch, args=(f"{KUBEVIRT}/namespaces/{lab.ns}/virtualmachineinstances", self.note),
                         daemon=True).start()

    def note(self, kind, vmi):
        self.seen.setdefault(vmi["metadata"]["name"], {}).setdefault(vmi["metadata"]["uid"], kind)

    def once(self, names):
        assert {n: len(self.seen.get(n, ())) for n in names} == {n: 1 for n in names}, "a VM had another instance than one"
        owners = Counter(self.lab.node.made.values())
        assert not [uid for uid, n in owners.items() if n != 1] and not self.lab.node.twice, "an instance had two pods"
        assert len(owners) == len(names)


def start_all(lab, names, strategy="Always"):  # noqa: F811
    for name in names:
        vm = copy.deepcopy(VM)
        vm["spec"]["runStrategy"] = strategy
        lab.make("virtualmachines", vm, name=name)


def all_run(lab, names, seconds=240):  # noqa: F811
    for name in names:
        lab.vm_is(name, "Running", seconds)


def all_go(lab, names):  # noqa: F811
    for name in names:
        lab.delete("virtualmachines", name)
    for name in names:
        wait_for(f"end of {name}", lambda name=name: lab.get("virtualmachines", name) is None, 240)
    assert lab.list("virtualmachineinstances") == [] and wait_for("no pods", lambda: lab.list("pods") == [])


def spoil_nth(plan):
    """(decide, counts): of each object that `plan` names, (fault, n): its n-th write is spoilt so. The counts are those of its own
    writes, whoever else writes between them; clear() begins anew."""
    # its very names, the longest first: a UID can look like one ("…-vm-defbcefc-2471-…" in a revision's name)
    names, counts, lock = re.compile("|".join(sorted(plan, key=len, reverse=True)).encode()), Counter(), threading.Lock()

    def decide(method, path, body):
        found = names.search(path.encode()) or names.search(body)
        if method == "GET" or not found:
            return None
        name = found[0].decode()
        fault, n = plan[name]
        with lock:
            counts[name] += 1
            return fault if counts[name] == n else None

    return decide, counts


# ---- each call, each fault -------------------------------------------------------------------------------------------

CALLS = 16  # of a VM's start; its end has fewer


def test_each_call_fails_once_in_each_way(lab, faulty):  # noqa: F811
    """A VM for each pair: its n-th write is spoilt in this way, at the start and again at the end."""
    plan = {f"vm-{fault}-{n}": (fault, n) for fault in FAULTS for n in range(1, CALLS + 1)}
    faulty.decide, counts = spoil_nth(plan)
    witness = Witness(lab)
    lab.controller(config=faulty.config)
    names = list(plan)
    start_all(lab, names)
    all_run(lab, names, 600)
    happened = dict(faulty.done)
    assert set(happened) == set(FAULTS) and min(happened.values()) >= 12, happened
    witness.once(names)
    counts.clear()  # and the same for their ends
    all_go(lab, names)
    assert all(faulty.done[f] > happened[f] + 1 for f in FAULTS), faulty.done
    print(f"{len(names)} VMs; faults at their starts {happened}, in all {dict(faulty.done)}")


@pytest.mark.parametrize("fault", ["busy", "unavailable", "conflict", "lost"])
def test_most_calls_fail(lab, faulty, fault):  # noqa: F811
    """Two of three calls, reads too where that is possible, for as long as it takes: it comes to the same end. Which ones is
    chance: by a count, a step that takes two calls in turn (the revision, then the instance) would never have both of them."""
    chance, lock = random.Random(fault), threading.Lock()

    def decide(method, path, body):
        if "watch=" in path or (method == "GET" and fault in ("conflict", "lost")):
            return None
        with lock:
            return fault if chance.random() < 2 / 3 else None

    faulty.decide = decide
    witness = Witness(lab)
    lab.controller(config=faulty.config)
    names = [f"vm{i}" for i in range(6)]
    start_all(lab, names)
    all_run(lab, names, 600)
    witness.once(names)
    faulty.decide = lambda *_: None
    all_go(lab, names)
    assert faulty.done[fault] > 20


def test_a_revision_is_asked_for_once(lab, faulty):  # noqa: F811
    """However often the creation of the instance has to be tried: the ControllerRevision before it is there by then. Again after the
    instance was deleted; and with a controller that is new, once."""
    revisions, instances, lock = [], [], threading.Lock()

    def decide(method, path, body):
        with lock:
            if method == "POST" and "/controllerrevisions" in path:
                revisions.append(json.loads(body)["metadata"]["name"])
            if method == "POST" and "/virtualmachineinstances" in path:
                instances.append(path)
                return "error" if len(instances) <= 3 else None
        return None

    faulty.decide = decide
    c = lab.controller(config=faulty.config)
    start_all(lab, ["vm"])
    all_run(lab, ["vm"])
    assert len(instances) == 4 and len(revisions) == 1, (instances, revisions)

    def restart():
        first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
        lab.delete("virtualmachineinstances", "vm")
        another(lab, first)

    restart()
    assert len(revisions) == 1
    c.stop()
    lab.controller(config=faulty.config)
    restart()
    restart()
    assert len(revisions) == 2
    lab.patch("virtualmachines", "vm", {"spec": {"template": {"spec": {"domain": {"memory": {"guest": "256Mi"}}}}}})
    wait_for("the change to be seen", lambda: lab.get("virtualmachines", "vm")["status"]["desiredGeneration"] == 2)
    restart()
    assert len(revisions) == 3 and len(set(revisions)) == 2 == len(lab.list("controllerrevisions")), revisions
    # a VM of this name that is another has its own
    all_go(lab, ["vm"])
    start_all(lab, ["vm"])
    all_run(lab, ["vm"])
    assert len(revisions) == 4 and len(set(revisions)) == 3, revisions


def test_retry_after_is_kept_to(lab, faulty):  # noqa: F811
    """A server that says when to come again is not asked before; the controller lives, and its page answers."""
    times, lock = {}, threading.Lock()

    def decide(method, path, body):
        if method == "GET":
            return None
        with lock:
            key = (method, path, body)
            times.setdefault(key, []).append(time.monotonic())
            return "later" if len(times[key]) <= 2 else None

    faulty.decide = decide
    c = lab.controller(config=faulty.config)
    start_all(lab, ["vm"])
    wait_for("a call refused", lambda: faulty.done["later"] >= 1)
    assert c.page("/healthz") == "ok\n"
    all_run(lab, ["vm"], 600)
    gaps = [b - a for calls in times.values() for a, b in zip(calls, calls[1:]) if len(calls) > 1]
    again = [calls for calls in times.values() if len(calls) == 3]
    assert len(again) >= 5 and all(b - a > 3.9 for calls in again for a, b in zip(calls, calls[1:])), gaps


def test_api_server_gone_for_more_than_a_minute(lab):  # noqa: F811
    """With leader election: who cannot renew the lease ends, is started again as kubelet does, and goes on."""
    proxy = Proxy(int(lab.api.url.rsplit(":", 1)[1]))
    config = kubeconfig(lab.tmp / "proxied", f"https://127.0.0.1:{proxy.port}", lab.api.ca)
    witness = Witness(lab)
    stop, ends = threading.Event(), []

    def kubelet():
        while not stop.is_set():
            c = lab.controller("--lease-namespace", lab.ns, "--identity", "a", lease=True, config=config)
            while c.process.poll() is None and not stop.is_set():
                stop.wait(0.1)
            if not stop.is_set():
                ends.append(c.process.returncode)

    t = threading.Thread(target=kubelet)
    t.start()
    try:
        start_all(lab, ["before"])
        all_run(lab, ["before"])
        uid = lab.get("virtualmachineinstances", "before")["metadata"]["uid"]
        proxy.refuse = True
        proxy.cut()
        start_all(lab, ["during"])
        lab.delete("virtualmachines", "before")
        stop.wait(65)
        assert lab.get("virtualmachineinstances", "during") is None
        gone = lab.get("virtualmachines", "before")
        assert gone["metadata"]["finalizers"] == ["kubevirt.io/virtualMachineControllerFinalize"]
        assert lab.get("virtualmachineinstances", "before")["metadata"]["uid"] == uid
        proxy.refuse = False
        all_run(lab, ["during"])
        lab.gone("virtualmachines", "before")
        lab.gone("virtualmachineinstances", "before")
        witness.once(["before", "during"])
        assert ends and set(ends) == {1}
    finally:
        stop.set()
        t.join()
        proxy.close()


# ---- leaders ---------------------------------------------------------------------------------------------------------


def leads(c):
    return c.process.poll() is None and c.metrics()["kubevirt_virt_controller_leading_status"] == 1


def two(lab, config=None):  # noqa: F811
    lease = ("--lease-namespace", lab.ns)
    a = lab.controller(*lease, "--identity", "a", lease=True, config=config)
    wait_for("a leads", lambda: leads(a))
    b = lab.controller(*lease, "--identity", "b", lease=True)
    wait_for("b is ready", lambda: b.metrics()["kubevirt_virt_controller_ready_status"] == 1)
    return a, b


def burst(lab, count):  # noqa: F811
    """(witness, the leader, the other replica, names of so many VMs): some of them have a pod."""
    witness = Witness(lab)
    a, b = two(lab)
    names = [f"vm{i:02}" for i in range(count)]
    start_all(lab, names)
    wait_for("some pods", lambda: len(lab.node.made) >= 5)
    return witness, a, b, names


def test_leader_is_killed_in_a_burst(lab):  # noqa: F811
    witness, a, b, names = burst(lab, 40)
    a.process.send_signal(signal.SIGKILL)
    a.process.wait()
    made = len(lab.node.made)
    wait_for("b leads", lambda: leads(b))
    all_run(lab, names)
    witness.once(names)
    assert made < len(names), "the burst was over before the leader was killed"
    all_go(lab, names)


def test_leader_freezes_in_a_burst_and_comes_back(lab):  # noqa: F811
    """The worst one: it believes to lead when it wakes, with a cache of long ago and calls half done."""
    witness, a, b, names = burst(lab, 30)
    a.process.send_signal(signal.SIGSTOP)
    wait_for("b leads", lambda: leads(b))
    os.kill(a.process.pid, signal.SIGCONT)
    all_run(lab, names)
    assert a.process.wait(60) == 1 and "is lost" in a.log.read_text()
    witness.once(names)
    all_go(lab, names)


def test_two_that_both_believe_to_lead(lab):  # noqa: F811
    """No lease at all: two, three at a time that write. Names that follow from UIDs are what holds then."""
    witness = Witness(lab)
    for _ in range(3):
        lab.controller()
    names = [f"vm{i:02}" for i in range(20)]
    start_all(lab, names)
    all_run(lab, names)
    witness.once(names)
    for name in names[:10]:
        first = lab.get("virtualmachineinstances", name)["metadata"]["uid"]
        lab.delete("virtualmachineinstances", name)
        another(lab, first, name)
    for name in names[:10]:
        lab.vm_is(name, "Running")
        assert len(witness.seen[name]) == 2, "more than one instance after the first"
    assert max(Counter(lab.node.made.values()).values()) == 1
    all_go(lab, names)


def test_kill_and_start_over_and_over_with_a_lease(lab):  # noqa: F811
    """Each leader is killed as soon as it has done a little; the lease of the dead is waited for each time."""
    witness = Witness(lab)
    names = [f"vm{i:02}" for i in range(12)]
    start_all(lab, names)
    for i in range(3):
        c = lab.controller("--lease-namespace", lab.ns, "--identity", f"r{i}", lease=True)
        wait_for("it writes", lambda c=c: leads(c) and c.metrics()["vmlet_controller_writes_total"] >= 5)
        c.process.kill()
        c.process.wait()
    c = lab.controller("--lease-namespace", lab.ns, "--identity", "last", lease=True)
    all_run(lab, names)
    witness.once(names)
    assert leads(c)


# ---- virt-handler ----------------------------------------------------------------------------------------------------


def test_handler_whose_calls_fail_once_in_each_way(crds, tmp_path):  # noqa: F811
    """The node agent with stand-ins for its launchers (scale_handler.py): an instance for each fault and each of its first
    two writes; then the server is gone for a while. Each instance becomes Running once, and no heartbeat is the last."""
    node = Node(crds, tmp_path, "handler-network")
    plan = {f"vm-{i:05}": (fault, 1 + i % 2) for i, fault in enumerate(f for f in FAULTS for _ in range(2))}
    spoil, gone = spoil_nth(plan)[0], threading.Event()
    proxy = Faulty(crds, tmp_path, lambda *call: "refused" if gone.is_set() else spoil(*call))
    node.config = proxy.config
    node.make(len(plan) - 2)
    handler = Handler(node)
    try:
        wait_for("all to run", lambda: node.running() == len(plan) - 2, 240)
        assert set(proxy.done) >= set(list(FAULTS)[:-1]), proxy.done
        gone.set()
        node.make(len(plan))
        threading.Event().wait(65)
        assert handler.process.poll() is None and node.running() == len(plan) - 2
        beats = int(handler.metrics()["vmlet_handler_heartbeats_total"])
        gone.clear()
        wait_for("the others too", lambda: node.running() == len(plan), 240)
        wait_for("a heartbeat", lambda: int(handler.metrics()["vmlet_handler_heartbeats_total"]) > beats, 180)
        path = f"{KUBEVIRT}/namespaces/{node.ns}/virtualmachineinstances"
        given = [s["phase"] for s in VMI["status"]["phaseTransitionTimestamps"]]  # as the stand-in made them
        for vmi in crds.call("GET", path)[1]["items"]:
            steps = [s["phase"] for s in vmi["status"]["phaseTransitionTimestamps"]]
            assert steps == given + ["Running"], (vmi["metadata"]["name"], steps)
    finally:
        handler.process.kill()
        handler.process.wait()
        proxy.close()
