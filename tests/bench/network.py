# SPDX-License-Identifier: Apache-2.0
"""Throughput of a guest's NIC, guest to node: netsetup's links beside the same bridge and tap made by hand with ip(8), and
(for masquerade) one rule by nft(8). Both guests are up all the time, of the same command line; they take turns."""
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_common import TOP, VMLET, guest, row

sys.path.insert(0, str(TOP / "tests" / "net"))
from conftest import Lab, run, until  # noqa: E402

PAIRS, SECONDS = 10, 2
LEAST = 0.98  # of what the links made by hand carry

BY_HAND = {
    "bridge": """
        ip addr flush dev eth0 scope global
        ip link set eth0 down
        ip link set eth0 name eth0-nic
        ip link add k6t-eth0 type bridge
        ip link set eth0-nic address 02:00:00:00:00:77 master k6t-eth0 up
    """,
    "masquerade": """
        ip link add k6t-eth0 type bridge
        ip addr add 10.0.2.1/24 dev k6t-eth0
        sysctl -qw net.ipv4.ip_forward=1
        nft add table ip nat
        nft 'add chain ip nat postrouting { type nat hook postrouting priority 100; }'
        nft add rule ip nat postrouting ip saddr 10.0.2.2 counter masquerade
    """,
}
TAP_BY_HAND = """
    ip tuntap add tap0 mode tap vnet_hdr
    ip link set k6t-eth0 mtu 1450 up
    ip link set tap0 mtu 1450 master k6t-eth0 up
"""


def image(directory):
    """The small guest, and iperf3 with its libraries in a second archive behind it."""
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    iperf = shutil.which("iperf3")
    shutil.copy(iperf, root / "bin" / "iperf3")
    for path in re.findall(r"(/\S+) \(0x", run("ldd", iperf).stdout):
        target = root / path.lstrip("/") if "ld-linux" in path else root / "lib" / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*"))) + "\n"
    more = subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=root, input=names.encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True)
    initrd = directory / "initrd.img"
    initrd.write_bytes((guest() / "initrd.img").read_bytes() + gzip.compress(more.stdout))
    return ["--kernel", guest() / "vmlinuz", "--initrd", initrd, "--append", "console=ttyS0 quiet"]


class Guest:
    """A VM on tap0 of a pod, with a fixed address."""

    def __init__(self, lab, pod, name, boot, address, gateway):
        self.lab, self.pod, self.state = lab, pod, lab.directory / name
        manifest = json.loads(lab.manifest([{"name": "default", "bridge": {}, "macAddress": "02:00:00:00:00:42" if name == "ours" else "02:00:00:00:00:43"}]).read_text())
        path = lab.directory / f"{name}.json"
        path.write_text(json.dumps(manifest))
        self.process = pod.popen(VMLET, "run", path, "--state-dir", self.state, "--accel", "tcg", "--net", "tap:tap0", "--grace", "1s",
                                 *boot, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lab.processes.append(self.process)
        until(lambda: self.exec("true", check=False).returncode == 0, f"the agent of {name}", 180)
        self.exec(f"killall udhcpc; ip -4 addr flush dev eth0; ip link set eth0 mtu 1450 up; ip addr add {address} dev eth0; "
                  f"ip route replace default via {gateway}")

    def exec(self, script, check=True):
        return run(VMLET, "exec", "--state-dir", self.state, "--timeout", "60s", "--", "/bin/sh", "-c", script, check=check, timeout=90)

    def mbit(self):
        done = json.loads(self.exec(f"iperf3 -c 10.244.1.1 -t {SECONDS} -O 1 -J").stdout)
        return done["end"]["sum_received"]["bits_per_second"] / 1e6

    def end(self):
        self.process.terminate()
        self.process.wait(60)


def measure_binding(binding, pairs):
    directory = Path(tempfile.mkdtemp(prefix="vmlet-net-"))
    lab = Lab(directory)
    guests = []
    try:
        boot = image(directory)
        manifest = lab.manifest(binding)
        lab.netsetup("apply", manifest)
        lab.serve(manifest)  # as in a pod: DHCP and advertisements
        lab.peer.sh(BY_HAND[binding] + TAP_BY_HAND)
        addresses = ("10.244.1.5/24", "10.244.1.6/24") if binding == "bridge" else ("10.0.2.2/24", "10.0.2.2/24")
        gateway = "10.244.1.1" if binding == "bridge" else "10.0.2.1"
        server = lab.node.popen("iperf3", "-s", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lab.processes.append(server)
        for pod, name, address in ((lab.pod, "ours", addresses[0]), (lab.peer, "by hand", addresses[1])):
            guests.append(Guest(lab, pod, name, boot, address, gateway))
        ours, hand = guests
        ours.mbit(), hand.mbit()  # not counted
        got = {ours: [], hand: []}
        for i in range(pairs):
            for one in (ours, hand) if i % 2 == 0 else (hand, ours):
                got[one].append(one.mbit())
        for one in guests:
            one.end()
        return got[ours], got[hand]
    finally:
        lab.close()
        shutil.rmtree(directory, ignore_errors=True)


def measure(options):
    result = {"name": "network", "what": f"TCP from the guest to its node, {SECONDS} s a turn, in turns; emulated guest", "rows": [],
              "budgets": [], "notes": []}
    if os.geteuid() or not shutil.which("iperf3") or not shutil.which("busybox"):
        result["notes"].append("not measured: it wants root, iperf3 and busybox")
        return result
    for binding in BY_HAND:
        ours, hand = measure_binding(binding, options.rounds or PAIRS)
        ratio = statistics.median(a / b for a, b in zip(ours, hand))
        result["rows"] += [row(f"{binding}, netsetup", ours, "Mbit/s"), row(f"{binding}, by hand", hand, "Mbit/s")]
        result["budgets"].append({"name": f"{binding}: by hand / netsetup (median of pairs)", "value": 1 / ratio, "limit": 1 / LEAST})
        result["notes"].append(f"{binding}: netsetup carries {ratio:.3f} of what the links made by hand do (at least {LEAST})")
    return result
