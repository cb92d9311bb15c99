# SPDX-License-Identifier: Apache-2.0
"""Many pods at once: launches per second, memory of ours per VM, and what all of them do while idle.

The guests have 64 MiB and stay at -S (startStrategy: Paused). As many are started as the free memory allows, 100 at most.
"""
import os
import shutil
import tempfile
import time
from pathlib import Path

from bench_common import row
from peers import Launcher, Libvirt, libvirt_missing, manifest, poll

STEPS = (1, 10, 50, 100)
NEEDS_MIB = 110  # of one QEMU with a guest of 64 MiB that never ran, with room to spare
IDLE_SECONDS = 30
PSS_LIMIT_MIB, WAKEUPS_LIMIT, CPU_LIMIT = 2.0, 25.0, 0.05
PROCESSES_LIMIT, THREADS_LIMIT = 2, 2


def free_mib():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def memory(pids):
    """{Pss, Private_Clean, Private_Dirty} of these processes together, MiB."""
    os.sync()  # of programs that were just linked, what no disk has yet would count as dirty
    total = {"Pss": 0.0, "Private_Clean": 0.0, "Private_Dirty": 0.0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name = line.split(":")[0]
            if name in total:
                total[name] += int(line.split()[1]) / 1024
    return total


def activity(pids):
    """(milliseconds on a CPU, voluntary context switches) of these processes, all threads."""
    cpu = switches = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            cpu += int((task / "schedstat").read_text().split()[0])
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    switches += int(line.split()[1])
    return cpu / 1e6, switches


def launch(work, first, count):
    """Starts them all, then syncs them all; the answers come when each guest is up."""
    pods, began = [], time.monotonic()
    for i in range(first, first + count):
        folder = work / str(i)
        folder.mkdir()
        uid = f"6f1b2a34-1111-4222-8333-{i:012x}"
        pods.append(Launcher(folder, monitor=True, uid=uid, standalone=manifest("64Mi", paused=True, uid=uid, name=f"p{i}")))
    took = []
    for pod in pods:
        pod.ready()
        client = pod.client()
        poll(lambda c=client: c.ok("GetDomain").get("domain", {}).get("Status", {}).get("Reason") == "User", "QEMU at -S", pause=0.01)
        took.append(time.monotonic() - began)
        pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
        client.close()
    return pods, took


def libvirt_memory(work):
    """PSS of libvirt's daemons with one VM up, MiB."""
    server = Libvirt(work)
    try:
        server.start()
        server.create(server.domain(memory_mib=64), 1)  # VIR_DOMAIN_START_PAUSED
        return memory([d.pid for d in server.daemons])
    finally:
        server.close()


def measure(options):
    most = min(STEPS[-1], (free_mib() - 2048) // NEEDS_MIB)
    steps = [s for s in STEPS if s <= most]
    work = Path(tempfile.mkdtemp(prefix="vb."))
    work.chmod(0o755)
    pods, rows, notes, plot = [], [], [], []
    if most < STEPS[-1]:
        notes.append(f"the free memory allows {most} VMs of {STEPS[-1]}")
    try:
        for step in steps:
            more, took = launch(work, len(pods), step - len(pods))
            pods += more
            ours = [memory(p.own_pids()) for p in pods]
            qemu = [memory([p.qemu])["Pss"] for p in pods]
            rows.append(row(f"{step} VMs: ours, PSS per VM", [m["Pss"] for m in ours], "MiB"))
            rows.append(row(f"{step} VMs: ours, private dirty per VM", [m["Private_Dirty"] for m in ours], "MiB"))
            rows.append(row(f"{step} VMs: ours, private clean per VM", [m["Private_Clean"] for m in ours], "MiB"))
            rows.append(row(f"{step} VMs: QEMU, PSS per VM", qemu, "MiB"))
            plot.append([step, sum(m["Pss"] for m in ours) / step])
            if len(more) > 1:
                notes.append(f"{len(more)} launched in parallel: {len(more) / max(took):.1f} a second, the slowest after {max(took):.2f} s")
        everyone = [p for pod in pods for p in pod.own_pids()]
        threads = sum(len(list(Path(f"/proc/{p}/task").iterdir())) for p in everyone)
        cpu, switches = activity(everyone)
        time.sleep(IDLE_SECONDS)
        cpu2, switches2 = activity(everyone)
        wakeups, used = (switches2 - switches) / IDLE_SECONDS, (cpu2 - cpu) / IDLE_SECONDS / len(pods)
    finally:
        for pod in pods:
            pod.close()
        shutil.rmtree(work, ignore_errors=True)
    libvirt = None
    if libvirt_missing():
        notes.append(f"libvirt is not compared: missing {libvirt_missing()}")
    else:
        work = Path(tempfile.mkdtemp(prefix="vb."))
        work.chmod(0o755)
        try:
            libvirt = libvirt_memory(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        rows += [row(f"libvirt's daemons with 1 VM: {n}", [v], "MiB") for n, v in libvirt.items()]
    return {
        "name": "pods", "what": f"up to {steps[-1]} VMs of 64 MiB at -S; idle over {IDLE_SECONDS} s", "rows": rows, "notes": notes,
        "budgets": [
            {"name": f"ours, PSS per VM at {steps[-1]} VMs, MiB", "value": plot[-1][1], "limit": PSS_LIMIT_MIB},
            {"name": f"wake-ups a second, all processes of ours of {steps[-1]} VMs", "value": wakeups, "limit": WAKEUPS_LIMIT},
            {"name": "CPU while idle, ms a second and VM", "value": used, "limit": CPU_LIMIT},
            {"name": "processes per VM besides QEMU", "value": len(everyone) / len(pods), "limit": PROCESSES_LIMIT},
            {"name": "threads per VM besides QEMU", "value": threads / len(pods), "limit": THREADS_LIMIT},
        ],
        "memory": plot, "libvirtPss": libvirt["Pss"] if libvirt else None,
    }
