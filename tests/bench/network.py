# SPDX-License-Identifier: Apache-2.0
"""Throughput of a guest's NIC, guest to node: netsetup's links beside the same bridge and tap made by hand with ip(8), and
(for masquerade) one rule by nft(8). One guest with a NIC in each, so that nothing but the links differs: two guests of one
command line differ by up to a tenth between runs, by where their emulator's memory lies. The NICs take turns."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_common import TOP, VMLET, child_running, compare, image_with, pin, row

sys.path.insert(0, str(TOP / "tests" / "net"))
from conftest import Lab, run, until  # noqa: E402

PAIRS, BATCH = 120, 8  # BATCH: pairs in one call of the agent
BYTES = "48M"  # a turn: under half a second, since a shared machine's speed drifts by a third within seconds
APPLIES, APPLY_MS = 15, 15
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
        ip addr add 10.0.3.1/24 dev k6t-eth0
        sysctl -qw net.ipv4.ip_forward=1
        nft add table ip nat
        nft 'add chain ip nat postrouting { type nat hook postrouting priority 100; }'
        nft add rule ip nat postrouting ip saddr 10.0.3.2 counter masquerade
    """,
}
# Of the guest's two NICs: the address, the next hop (none: the node is on the link), and the node's address that leads there.
NICS = {"bridge": (("eth0", "10.244.1.5", None, "10.244.1.2"), ("eth1", "10.244.1.6", None, "10.244.1.3")),
        "masquerade": (("eth0", "10.0.2.2", "10.0.2.1", "10.244.1.2"), ("eth1", "10.0.3.2", "10.0.3.1", "10.244.1.3"))}
TAP_BY_HAND = """
    ip link set k6t-eth0 mtu 1450 up
    ip link set tap-hand mtu 1450 master k6t-eth0 up
"""


def image(directory):
    """The small guest, and iperf3."""
    boot = image_with(directory, "iperf3")
    return ["--kernel", boot / "vmlinuz", "--initrd", boot / "initrd.img", "--append", "console=ttyS0 quiet"]


class Guest:
    """A VM whose eth0 is on the tap that netsetup made, and its eth1 on one that is then moved to the links made by hand."""

    def __init__(self, lab, binding, boot):
        self.lab, self.state = lab, lab.directory / "vms"
        nics = [{"name": "default", binding: {}, "macAddress": "02:00:00:00:00:42"}]
        networks = [{"name": "default", "pod": {}}]
        lab.netsetup("apply", lab.manifest(nics, networks))
        lab.serve(lab.manifest(nics, networks))  # as in a pod: DHCP and advertisements
        lab.pod.sh("ip tuntap add tap-hand mode tap vnet_hdr")
        manifest = lab.manifest([*nics, {"name": "hand", "bridge": {}, "macAddress": "02:00:00:00:00:43"}],
                                [*networks, {"name": "hand", "multus": {"networkName": "hand"}}])
        self.process = lab.pod.popen(VMLET, "run", manifest, "--state-dir", self.state, "--accel", "tcg", "--net", "tap:tap0,tap-hand",
                                     "--grace", "1s", *boot, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
        lab.processes.append(self.process)
        until(lambda: self.exec("true", check=False).returncode == 0, "the guest's agent", 180)
        lab.pod.sh(f"ip link set tap-hand netns {lab.peer.name}")
        lab.peer.sh(BY_HAND[binding] + TAP_BY_HAND)
        self.exec("killall udhcpc; sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
        for nic, address, via, node in NICS[binding]:
            lab.node.sh(f"ip addr add {node}/32 dev br0")
            self.exec(f"ip -4 addr flush dev {nic}; ip link set {nic} mtu 1450 up; ip addr add {address}/24 dev {nic}; "
                      f"ip route add {node} {'via ' + via if via else ''} dev {nic} src {address}")
        pin(child_running(self.process.pid, "qemu-system"))  # the server is where the rest of the emulator is

    def exec(self, script, check=True):
        return run(VMLET, "exec", "--state-dir", self.state, "--timeout", "60s", "--", "/bin/sh", "-c", script, check=check, timeout=90)

    def mbit(self, nodes):
        """What the node received from each in turn, in Mbit/s."""
        text, got = self.exec("; ".join(f"iperf3 -c {node} -n {BYTES} -J" for node in nodes)).stdout, []
        while text := text.lstrip():
            one, end = json.JSONDecoder().raw_decode(text)
            got.append(one["end"]["sum_received"]["bits_per_second"] / 1e6)
            text = text[end:]
        return got

    def end(self):
        self.process.terminate()
        self.process.wait(60)


def measure_binding(binding, pairs):
    directory = Path(tempfile.mkdtemp(prefix="vmlet-net-"))
    lab = Lab(directory)
    try:
        guest = Guest(lab, binding, image(directory))
        server = lab.node.popen("taskset", "-c", str(max(os.sched_getaffinity(0))), "iperf3", "-s", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lab.processes.append(server)
        ours, hand = (node for _, _, _, node in NICS[binding])
        guest.mbit([ours, hand])  # not counted
        got = {ours: [], hand: []}
        for _ in range(-(-pairs // BATCH)):
            turns = [ours, hand, hand, ours] * (BATCH // 2)
            for node, mbit in zip(turns, guest.mbit(turns)):
                got[node].append(mbit)
        guest.end()
        return got[ours], got[hand]
    finally:
        lab.close()
        shutil.rmtree(directory, ignore_errors=True)


def measure_apply(binding):
    """From exec to exit, in milliseconds, for one interface with IPv4 and IPv6."""
    directory = Path(tempfile.mkdtemp(prefix="vmlet-net-"))
    lab = Lab(directory)
    try:
        manifest, took = lab.manifest(binding), []
        for _ in range(APPLIES):
            start = time.monotonic()
            lab.netsetup("apply", manifest)
            took.append((time.monotonic() - start) * 1000)
            lab.netsetup("teardown", manifest)
        return took
    finally:
        lab.close()
        shutil.rmtree(directory, ignore_errors=True)


def measure(options):
    result = {"name": "network", "what": f"TCP from the guest to its node, {BYTES} a turn, in turns; emulated guest", "rows": [],
              "budgets": [], "notes": []}
    if os.geteuid() or not shutil.which("iperf3") or not shutil.which("busybox"):
        result["notes"].append("not measured: it wants root, iperf3 and busybox")
        return result
    for binding in BY_HAND:
        ours, hand = measure_binding(binding, options.rounds or PAIRS)
        ratio, error = compare(ours, hand)
        result["rows"] += [row(f"{binding}, netsetup", ours, "Mbit/s"), row(f"{binding}, by hand", hand, "Mbit/s")]
        result["budgets"].append({"name": f"{binding}: by hand / netsetup (geometric mean of pairs)", "value": 1 / ratio, "limit": 1 / LEAST})
        applied = measure_apply(binding)
        result["rows"].append(row(f"netsetup apply, {binding}", applied, "ms"))
        result["budgets"].append({"name": f"netsetup apply, {binding}, one interface (ms)", "value": statistics.median(applied),
                                  "limit": APPLY_MS})
        result["notes"].append(f"{binding}: netsetup carries {ratio:.3f} of what the links made by hand do (at least {LEAST}; 95 % "
                               f"of such means within ± {error:.3f})")
    return result
