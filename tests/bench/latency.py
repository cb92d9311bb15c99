# SPDX-License-Identifier: Apache-2.0
"""Round trips of the command server, alone and with eight clients at once, beside raw QMP and libvirt; events; stop,
kill and adoption. (The launcher's own budgets for Pause and GetDomain are in launcher.py.)"""
import shutil
import signal
import statistics
import tempfile
import threading
from pathlib import Path

from bench_common import monotonic_usec, row
from peers import Launcher, Libvirt, libvirt_missing, manifest, poll

CALLS, CLIENTS = 300, 8
# Each method that leaves the VM as it is, and its parameters.
METHODS = {
    "Ping": {}, "GetDomain": {}, "GetDomainStats": {}, "GetVMStats": {}, "GetMetrics": {}, "GetTimeline": {}, "GetGuestInfo": {},
    "GetUsers": {}, "GetFilesystems": {}, "GetQemuVersion": {}, "GetDisks": {}, "Describe": {}, "Qmp": {"command": "query-status"},
    "SyncVirtualMachine": {"vmi": manifest()},
}
# What the guest answers, or takes its time for: (method, parameters) each, in turns.
GUEST = {
    "GuestPing": [("GuestPing", {})],
    "Exec of true": [("Exec", {"Command": "/bin/true"})],
    "Freeze and Unfreeze": [("FreezeVirtualMachine", {}), ("UnfreezeVirtualMachine", {})],
    "Pause and Unpause": [("PauseVirtualMachine", {"vmi": {}}), ("UnpauseVirtualMachine", {"vmi": {}})],
    "GetScreenshot": [("GetScreenshot", {})],
}
GUEST_CALLS = 20
KILL_LIMIT_MS = 250.0
ROUNDS = 5


def timed(call, count=CALLS):
    took = []
    for _ in range(count):
        start = monotonic_usec()
        call()
        took.append(monotonic_usec() - start)
    return took


def together(pod, method, params):
    """All round trips of eight clients that call at once, each as fast as it can."""
    took, clients = [], [pod.client() for _ in range(CLIENTS)]
    threads = [threading.Thread(target=lambda c=c: took.extend(timed(lambda: c.ok(method, **params), CALLS // CLIENTS))) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    return took


def events(pod, count=50):
    """From the call that stops or resumes the vCPUs to the event at a subscriber: command, QMP event, delivery."""
    caller, listener = pod.client(), pod.client()
    listener.ok("Subscribe", **{"from": 0})
    took = []
    for i in range(count):
        method, reason = (("PauseVirtualMachine", "Paused"), ("UnpauseVirtualMachine", "Running"))[i % 2]
        start = monotonic_usec()
        caller.ok(method, vmi={})
        listener.event(lambda e, r=reason: e.get("type") == "Domain" and e.get("reason") == r)
        took.append(monotonic_usec() - start)
    caller.close()
    listener.close()
    return took


def adoption(pod):
    """kill -9 of the launcher; from the exec of the next one until its socket serves the VM. Milliseconds."""
    pod.process.send_signal(signal.SIGKILL)
    pod.process.wait()
    pod.socket.unlink(missing_ok=True)
    pod.spawn()
    pod.ready()
    client = pod.client()
    poll(lambda: client.ok("GetDomain").get("domain", {}).get("Status", {}).get("Status") == "Running", "the VM is taken over")
    took = (monotonic_usec() - pod.started) / 1000
    client.close()
    return took


def measure(options):
    rounds = options.rounds or ROUNDS
    work = Path(tempfile.mkdtemp(prefix="vb."))
    work.chmod(0o755)
    rows, notes, kills, adopted, spread = [], [], [], [], {}
    try:
        pod = Launcher(work / "p")
        try:
            pod.ready()
            client = pod.client()
            pod.sync(client, manifest())
            client.ok("PauseVirtualMachine", vmi={})  # a guest that boots would take the CPU from what is measured
            for method, params in METHODS.items():
                alone = timed(lambda m=method, p=params: client.ok(m, **p))
                rows.append(row(f"{method}", alone, "us"))
                rows.append(row(f"{method}, {CLIENTS} clients at once", together(pod, method, params), "us"))
                if method in ("GetDomain", "SyncVirtualMachine"):
                    spread[method] = alone
            client.ok("UnpauseVirtualMachine", vmi={})
            poll(lambda: client.ok("GetDomain")["vmlet"]["agentConnected"], "the agent", pause=0.1)
            for name, calls in GUEST.items():
                rows.append(row(name, timed(lambda c=calls: [client.ok(m, **p) for m, p in c], GUEST_CALLS), "us"))
            spread["event"] = events(pod)
            rows.append(row("Pause or Unpause: call to event at a subscriber", spread["event"], "us"))
            client.close()
            for _ in range(rounds):
                adopted.append(adoption(pod))
            client = pod.client()
            kills.append(pod.kill_guest(client))
        finally:
            pod.close()
        for i in range(rounds):
            pod = Launcher(work / f"k{i}")
            try:
                pod.ready()
                client = pod.client()
                pod.sync(client, manifest())
                kills.append(pod.kill_guest(client))
            finally:
                pod.close()
        rows += [row("adoption: exec of the new launcher to the VM served", adopted, "ms"), row("kill to no process left", kills, "ms")]
        if libvirt_missing():
            notes.append(f"libvirt is not compared: missing {libvirt_missing()}")
        else:
            measure_libvirt(work / "lv", rows, spread)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "name": "latency", "what": f"round trips, {CALLS} of each (of the guest's, {GUEST_CALLS}: it is emulated)", "rows": rows, "notes": notes,
        "budgets": [{"name": "kill to no process left, ms, median", "value": statistics.median(kills), "limit": KILL_LIMIT_MS}],
        "latency": {n: sorted(round(v, 1) for v in values) for n, values in spread.items()},
    }


def measure_libvirt(work, rows, spread):
    server = Libvirt(work)
    try:
        server.start()
        domain, _ = server.create(server.domain(), 1)
        took = timed(domain.info)
        rows.append(row("libvirt: virDomainGetInfo", took, "us"))
        rows.append(row("libvirt: virDomainGetXMLDesc", timed(domain.XMLDesc), "us"))
        spread["libvirt GetInfo"] = took
        domain.resume()
        rows.append(row("libvirt: suspend", [t for _ in range(10) for t in timed(domain.suspend, 1) if domain.resume() == 0], "us"))
        start = monotonic_usec()
        domain.destroy()
        rows.append(row("libvirt: destroy", [(monotonic_usec() - start) / 1000], "ms"))
    finally:
        server.close()
