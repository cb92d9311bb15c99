# SPDX-License-Identifier: Apache-2.0
"""The launcher's own budgets: ready, Pause and GetDomain beside a raw monitor, QMP commands of a start, memory, processes
and rest.

The raw peer of a round trip is the same QEMU, at rest with a guest that has booted: batch by batch the launcher is asked,
then it is killed, this program talks to the monitor itself, and the next launcher takes the VM over. The guest's clock is
set behind each `cont`, as the launcher does it: a guest whose agent has run takes longer to stop, by 3 % in 800 pairs.
The budget is the median of the batches' ratios: one of them alone is off by a tenth, because each call meets cold caches
and idle CPUs.
"""
import json
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench_common import RELAY, compare, monotonic_usec, row
from peers import Launcher, manifest, poll
from pods import activity, memory

READY_LIMIT_MS, PAUSE_LIMIT, GET_LIMIT, COMMANDS_LIMIT = 15.0, 1.2, 0.5, 8
PRIVATE_LIMIT_MIB, DIRTY_LIMIT_MIB, CPU_LIMIT, WAKEUPS_LIMIT, KILL_LIMIT_MS = 3.0, 1.2, 0.05, 0.6, 250.0
PROCESSES_LIMIT, THREADS_LIMIT = 2, 2
ROUNDS, BATCHES, CALLS, READS = 9, 60, 8, 20
REST_SECONDS = 0.05
SETTLE_SECONDS, IDLE_SECONDS = 60, 60


class Line:
    """A socket with an answer for each line: time is from the line's write until its answer is read, made up and understood
    outside of it."""

    def __init__(self, path, monitor=False):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        poll(lambda: self.connect(path), f"the socket {path}")
        self.file = self.socket.makefile("rb")
        if monitor:
            self.file.readline()
            self.ask(qmp("qmp_capabilities"))

    def connect(self, path):
        try:
            self.socket.connect(str(path))
        except OSError:
            return False
        return True

    def exchange(self, request):
        """The line of the answer."""
        self.socket.sendall(request)
        line = self.file.readline()
        while b'"event"' in line:
            line = self.file.readline()
        return line

    def ask(self, request):
        """Microseconds."""
        start = monotonic_usec()
        line = self.exchange(request)
        took = monotonic_usec() - start
        answer = json.loads(line)
        assert "return" in answer or "result" in answer, answer
        return took

    def close(self):
        self.file.close()
        self.socket.close()


def qmp(command):
    return b'{"execute": "%s"}\n' % command.encode()


def rpc(method, **params):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def ready(work, rounds):
    """Milliseconds from the exec until the socket has its name."""
    took = []
    for i in range(rounds + 1):
        pod = Launcher(work / f"r{i}")
        try:
            poll(pod.socket.exists, "the command socket", pause=0.0001)
            took.append((monotonic_usec() - pod.started) / 1000)
        finally:
            pod.close()
    return took[1:]  # the first one reads the programs from the disk


def stops(line, stop, go, agent=None):
    """What follows a change of state, in the launcher and in the guest, is no part of the next call's time. With an agent's line,
    the guest's clock is set behind each `go`."""
    found = []
    for _ in range(CALLS):
        time.sleep(REST_SECONDS)
        found.append(line.ask(stop))
        time.sleep(REST_SECONDS)
        line.ask(go)
        if agent:  # an error will do: the small guest has no hwclock
            assert agent.exchange(qmp("guest-set-time")), "the agent's channel was closed"
    return found


def batch_of_ours(pod):
    """µs of PauseVirtualMachine and of GetDomain."""
    client = pod.client()
    poll(lambda: client.ok("GetDomain")["vmlet"]["agentConnected"], "the agent", pause=0.1)
    client.close()
    line = Line(pod.socket)
    pauses = stops(line, rpc("PauseVirtualMachine", vmi={}), rpc("UnpauseVirtualMachine", vmi={}))
    gets = [line.ask(rpc("GetDomain")) for _ in range(READS)]
    line.close()
    return pauses, gets


def batch_of_raw(pod):
    """µs of QMP's stop and query-status, and of stop through a relay."""
    path = pod.work / "relay"
    path.unlink(missing_ok=True)
    agent = Line(pod.dir / "agent.sock")
    relay = subprocess.Popen([RELAY, path, pod.dir / "qmp.sock"])
    try:
        line = Line(path, monitor=True)
        relayed = stops(line, qmp("stop"), qmp("cont"), agent)
        line.close()
        relay.wait(10)
    finally:
        relay.kill()
        relay.wait()
    line = Line(pod.dir / "qmp.sock", monitor=True)
    direct = stops(line, qmp("stop"), qmp("cont"), agent)
    queries = [line.ask(qmp("query-status")) for _ in range(READS)]
    line.close()
    agent.close()
    return direct, queries, relayed


def round_trips(work):
    """Batches of (Pause, GetDomain, stop, query-status, stop through a relay), each a list of µs."""
    batches = []
    pod = Launcher(work)
    try:
        pod.ready()
        client = pod.client()
        pod.sync(client, manifest())
        client.close()
        for _ in range(BATCHES):
            ours = batch_of_ours(pod)
            pod.process.send_signal(signal.SIGKILL)
            pod.process.wait()
            pod.socket.unlink()
            batches.append((*ours, *batch_of_raw(pod)))
            pod.spawn()
            pod.ready()
    finally:
        pod.close()
    return batches


def commands_of(trace):
    """The names of the commands in strace's lines; a command may be written in two parts."""
    written = {}
    for fd, message in re.findall(r'sendmsg\((\d+), (.*)', trace):
        written[fd] = written.get(fd, "") + "".join(re.findall(r'iov_base="((?:[^"\\]|\\.)*)"', message))
    return [name for text in written.values() for name in re.findall(r'\\"execute\\":\\"([^"\\]+)', text)]


def commands(work):
    """The QMP commands that a start takes, as the launcher writes them; None without strace."""
    if not shutil.which("strace"):
        return None
    found = []
    for turn in range(2):  # what a QEMU can do is asked once for each binary, and kept
        trace = work / f"trace{turn}"
        pod = Launcher(work / f"p{turn}")
        try:
            pod.ready()
            strace = subprocess.Popen(
                ["strace", "-e", "trace=sendmsg", "-s", "65536", "-o", trace, "-p", str(pod.process.pid)],
                stderr=subprocess.PIPE, text=True)
            strace.stderr.readline()  # that it is attached
            pod.sync(pod.client(), manifest())
            strace.terminate()
            strace.wait()
            found = commands_of(trace.read_text())
        finally:
            pod.close()
    return found


def count_threads(pids):
    return sum(len(list(Path(f"/proc/{p}/task").iterdir())) for p in pids)


def at_rest(work):
    """Memory after a minute, processes and threads, then CPU and wake-ups, of a monitor and a launcher whose guest has
    booted with its agent."""
    pod = Launcher(work, monitor=True)
    try:
        pod.ready()
        client = pod.client()
        pod.sync(client, manifest())
        poll(lambda: client.ok("GetDomain")["vmlet"]["agentConnected"], "the agent", pause=0.1)
        client.close()
        time.sleep(SETTLE_SECONDS)
        pids = pod.own_pids()
        used, processes, threads = memory(pids), len(pids), count_threads(pids)
        cpu, switches = activity(pids)
        time.sleep(IDLE_SECONDS)
        cpu2, switches2 = activity(pids)
        client = pod.client()
        killed = pod.kill_guest(client)
    finally:
        pod.close()
    return used, processes, threads, (cpu2 - cpu) / IDLE_SECONDS, (switches2 - switches) / IDLE_SECONDS, killed


def ratio(batches, ours, raw):
    """The median of the ratios of the batches' medians, and the half of the 95 % interval of their mean."""
    mine, theirs = ([statistics.median(b[i]) for b in batches] for i in (ours, raw))
    return statistics.median(a / b for a, b in zip(mine, theirs)), compare(mine, theirs)[1]


def measure(options):
    work = Path(tempfile.mkdtemp(prefix="vb."))
    work.chmod(0o755)
    try:
        readies = ready(work, options.rounds or ROUNDS)
        batches = round_trips(work / "trips")
        (work / "c").mkdir()
        names = commands(work / "c")
        used, processes, threads, cpu, switches, killed = at_rest(work / "rest")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    private = used["Private_Clean"] + used["Private_Dirty"]
    median = statistics.median
    pauses, gets, raws, queries, relayed = ([value for batch in batches for value in batch[i]] for i in range(5))
    (pause, pause_error), (get, _), (relay, relay_error) = ratio(batches, 0, 2), ratio(batches, 1, 3), ratio(batches, 4, 2)
    return {
        "name": "launcher", "what": f"budgets of the launcher; at rest after {SETTLE_SECONDS} s, over {IDLE_SECONDS} s",
        "rows": [
            row("exec of virt-launcher to its socket", readies, "ms"),
            row("PauseVirtualMachine", pauses, "us"), row("raw QMP stop", raws, "us"), row("QMP stop through a relay", relayed, "us"),
            row("GetDomain", gets, "us"), row("raw QMP query-status", queries, "us"),
            row("monitor and launcher: PSS", [used["Pss"]], "MiB"),
            row("monitor and launcher: private dirty", [used["Private_Dirty"]], "MiB"),
            row("monitor and launcher: private clean", [used["Private_Clean"]], "MiB"),
        ],
        "notes": [f"Pause beside raw stop, which QEMU reads from its first byte on (the launcher has sent the beginning of its command "
                  f"ahead): {pause:.2f} ± {pause_error:.2f}; stop through a relay that only passes answers on: "
                  f"{relay:.2f} ± {relay_error:.2f}",
                  "QMP commands are not counted: strace is missing" if names is None else f"QMP commands of a start: {', '.join(names)}"],
        "budgets": [
            {"name": "exec to socket ready, ms, median", "value": median(readies), "limit": READY_LIMIT_MS},
            {"name": "Pause beside raw stop, ratio", "value": pause, "limit": PAUSE_LIMIT,
             "floor": (relay, "a relay that only passes answers on")},
            {"name": "GetDomain beside raw query-status, ratio", "value": get, "limit": GET_LIMIT},
            *([] if names is None else
              [{"name": "QMP commands until the guest runs", "value": len(names) or 1e9, "limit": COMMANDS_LIMIT}]),
            {"name": "private memory, both processes, MiB", "value": private, "limit": PRIVATE_LIMIT_MIB},
            {"name": "private dirty memory, both processes, MiB", "value": used["Private_Dirty"], "limit": DIRTY_LIMIT_MIB},
            {"name": "processes besides QEMU", "value": processes, "limit": PROCESSES_LIMIT},
            {"name": "threads of them", "value": threads, "limit": THREADS_LIMIT},
            {"name": "CPU at rest, ms a second, agent polled", "value": cpu, "limit": CPU_LIMIT},
            {"name": "wake-ups a second at rest, agent polled", "value": switches, "limit": WAKEUPS_LIMIT},
            {"name": "kill to no process left, ms", "value": killed, "limit": KILL_LIMIT_MS},
        ],
    }
