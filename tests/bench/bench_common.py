# SPDX-License-Identifier: Apache-2.0
"""What benchmarks share: places, statistics, and a look at a running QEMU."""
import functools
import gzip
import math
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = TOP / "build" / "src" / "vmlet" / "vmlet"
BARE = TOP / "build" / "tests" / "bench" / "bare-qemu"
RELAY = TOP / "build" / "tests" / "bench" / "relay"


@functools.cache
def guest():
    """The folder with vmlinuz and initrd.img."""
    run = subprocess.run([TOP / "tests/guest/build-initramfs"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(run.stdout.strip())


def image_with(directory, program):
    """A folder with vmlinuz and initrd.img of the small guest, and a program of the host with its libraries in it."""
    root, boot = Path(directory) / "root", Path(directory) / "boot"
    (root / "bin").mkdir(parents=True)
    boot.mkdir()
    path = shutil.which(program)
    shutil.copy(path, root / "bin" / program)
    libraries = subprocess.run(["ldd", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", libraries):
        target = root / library.lstrip("/") if "ld-linux" in library else root / "lib" / Path(library).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*"))) + "\n"
    more = subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=root, input=names.encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True)
    (boot / "initrd.img").write_bytes((guest() / "initrd.img").read_bytes() + gzip.compress(more.stdout, 1))
    os.symlink(guest() / "vmlinuz", boot / "vmlinuz")
    return boot


def row(name, values, unit):
    return {
        "name": name, "unit": unit, "median": statistics.median(values), "min": min(values), "max": max(values),
        "values": [round(v, 4) for v in values],
    }


def compare(mine, theirs):
    """The geometric mean of the ratios, and the half of its 95 % interval, as a factor less one."""
    logs = [math.log(a / b) for a, b in zip(mine, theirs)]
    return math.exp(statistics.mean(logs)), math.expm1(1.96 * statistics.stdev(logs) / math.sqrt(len(logs)))


def pin(qemu):
    """The guest's processor on one of ours, the rest of its emulator on the last: else the scheduler decides anew in each turn
    who shares one, and the readings spread by a third."""
    cpus = sorted(os.sched_getaffinity(0))
    for task in Path(f"/proc/{qemu}/task").iterdir():
        first = (task / "comm").read_text().startswith("CPU ")
        os.sched_setaffinity(int(task.name), {cpus[0] if first else cpus[-1]})


def monotonic_usec():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) / 1000


def clock_offset_usec():
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, from the closest of several readings."""
    best = None
    for _ in range(20):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        real = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if best is None or after - before < best[0]:
            best = (after - before, real - (after + before) / 2)
    return best[1] / 1000


def child_running(parent, name, seconds=30):
    """The process id of the child of `parent` whose program's name starts with `name`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            for pid in task.read_text().split():
                try:
                    # within its exec a process has the new program, and no arguments yet
                    if (os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(name)
                            and Path(f"/proc/{pid}/cmdline").read_bytes()):
                        return int(pid)
                except OSError:
                    continue
        time.sleep(0.01)
    raise SystemExit(f"bench: process {parent} started no {name} within {seconds} s")


def sockets_by_inode():
    found = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        # Flags 00010000: it listens (__SO_ACCEPTCON of the kernel's include/linux/net.h).
        if len(fields) >= 8 and fields[3] == "00010000":
            found[fields[6]] = fields[7]
    return found


def log_file(pid):
    """The log that a QEMU has open."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    logs = {target for target in links if target.endswith("-log")}
    if len(logs) != 1:
        raise SystemExit(f"bench: cannot tell the log that QEMU has open from {links}")
    return logs.pop()


def inherited_fds(pid, argv):
    """{number: (kind, path)} of the descriptors that the arguments name: what QEMU was given by its parent."""
    listening = sockets_by_inode()
    found = {}
    added = {int(n) for text in argv for n in re.findall(r"^set=\d+,fd=(\d+)", text)}
    for number in {int(n) for text in argv for n in re.findall(r'"?\bfd"?[=:] ?"?(\d+)', text)}:
        # -add-fd: QEMU has a duplicate in its set; it closes the number, which another of its files may have by now
        target = log_file(pid) if number in added else os.readlink(f"/proc/{pid}/fd/{number}")
        inode = re.fullmatch(r"socket:\[(\d+)\]", target)
        if inode and inode.group(1) in listening:
            found[number] = ("listen", listening[inode.group(1)])
        elif target == "/dev/net/tun":
            found[number] = ("tap", re.search(r"^iff:\s*(\S+)", Path(f"/proc/{pid}/fdinfo/{number}").read_text(), re.M).group(1))
        elif target.startswith("/") and not target.startswith("/dev/"):
            found[number] = ("log", target)
        else:
            raise SystemExit(f"bench: QEMU was given fd {number} = {target}, which the bare peer cannot make")
    return found
