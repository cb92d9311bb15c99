# SPDX-License-Identifier: Apache-2.0
"""Each exchange of the launcher's servers with a client as distributions have it, captured on the guest's NIC and compared
with captures/NAME.txt: all that the server says, and of what the client says that which decides the answer.
VMLET_REGENERATE=1 writes these files anew, for review by git diff."""
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, POD_MAC, until
from test_dhcp import OPTIONS, start_dhcpcd

HERE = Path(__file__).resolve().parent / "captures"
GUEST_MAC = "52:54:00:12:34:56"  # under masquerade

# ---- packets as text -------------------------------------------------------------------------------------------------

TYPES4 = {1: "DISCOVER", 2: "OFFER", 3: "REQUEST", 4: "DECLINE", 5: "ACK", 6: "NAK", 7: "RELEASE", 8: "INFORM"}
TYPES6 = {1: "SOLICIT", 2: "ADVERTISE", 3: "REQUEST", 4: "CONFIRM", 5: "RENEW", 6: "REBIND", 7: "REPLY", 8: "RELEASE"}


def ip4(data):
    return socket.inet_ntop(socket.AF_INET, data)


def ip6(data):
    return socket.inet_ntop(socket.AF_INET6, data)


def list_of(size, text):
    return lambda data: " ".join(text(data[i:i + size]) for i in range(0, len(data), size))


def number(data):
    return str(int.from_bytes(data, "big"))


def names(data):
    """RFC 1035's form, without compression."""
    found, at, labels = [], 0, []
    while at < len(data):
        length = data[at]
        if not length:
            if labels:
                found.append(".".join(labels))
            labels = []
        labels += [data[at + 1:at + 1 + length].decode()] if length else []
        at += 1 + length
    return " ".join(found)


def routes(data):
    """RFC 3442."""
    found, at = [], 0
    while at < len(data):
        prefix, size = data[at], (data[at] + 7) // 8
        to = ip4(data[at + 1:at + 1 + size] + bytes(4 - size))
        found.append(f"{to}/{prefix} via {ip4(data[at + 1 + size:at + 5 + size])}")
        at += 5 + size
    return ", ".join(found)


OPTIONS4 = {1: ("subnet mask", ip4), 3: ("router", list_of(4, ip4)), 6: ("name servers", list_of(4, ip4)), 12: ("host name", bytes.decode),
            15: ("domain", bytes.decode), 26: ("MTU", number), 42: ("NTP servers", list_of(4, ip4)), 50: ("requested address", ip4),
            51: ("lease, seconds", number), 54: ("server", ip4), 56: ("message", bytes.decode), 58: ("renew after, seconds", number),
            59: ("rebind after, seconds", number), 66: ("TFTP server", bytes.decode), 67: ("boot file", bytes.decode),
            119: ("search list", names), 121: ("classless routes", routes), 232: ("private", bytes.decode)}
OF_CLIENT4 = (50, 54)


def dhcp4(data):
    assert data[236:240] == bytes([99, 130, 83, 99])
    found, at = {}, 240
    while data[at] != 255:
        if data[at]:
            found[data[at]] = data[at + 2:at + 2 + data[at + 1]]
        at += 2 + data[at + 1] if data[at] else 1
    kind, ours = TYPES4[found.pop(53)[0]], data[0] == 2
    fields = [f"{name} {ip4(data[i:i + 4])}" for name, i in (("client", 12), ("your", 16), ("next server", 20)) if any(data[i:i + 4])]
    lines = ["DHCP " + ", ".join([kind, *fields])]
    for code, value in found.items():
        name, text = OPTIONS4.get(code, (f"option {code}", bytes.hex))
        if ours or code in OF_CLIENT4:
            lines.append(f"    {code:3} {name}: {text(value)}")
    return lines


def options6(data, depth=1):
    lines, at = [], 0
    while at < len(data):
        code, size = struct.unpack_from("!HH", data, at)
        value = data[at + 4:at + 4 + size]
        pad, at = "    " * depth, at + 4 + size
        if code == 2:
            lines.append(f"{pad}{code:3} server DUID: {value.hex()}")
        elif code == 3:
            lines.append(f"{pad}{code:3} IA_NA: renew after {number(value[4:8])} s, rebind after {number(value[8:12])} s")
            lines += options6(value[12:], depth + 1)
        elif code == 5:
            lines.append(f"{pad}{code:3} address {ip6(value[:16])}: preferred {number(value[16:20])} s, valid {number(value[20:24])} s")
        elif code == 13:
            lines.append(f"{pad}{code:3} status {number(value[:2])}: {value[2:].decode()}")
        elif code == 14:
            lines.append(f"{pad}{code:3} rapid commit")
        elif code == 23:
            lines.append(f"{pad}{code:3} name servers: {list_of(16, ip6)(value)}")
        elif code == 24:
            lines.append(f"{pad}{code:3} search list: {names(value)}")
        elif code != 1:  # the client's own identifier
            lines.append(f"{pad}{code:3} {value.hex()}")
    return lines


def dhcp6(data, ours):
    wanted = ("  2 ", "  3 ", "  5 ", " 14 ")  # of the client's
    lines = options6(data[4:])
    if not ours:
        lines = [re.sub(r": (renew|preferred) .*", "", line) for line in lines if line.lstrip().split(" ")[0] in
                 {w.strip() for w in wanted}]
    return [f"DHCPv6 {TYPES6[data[0]]}", *lines]


def icmp6(data):
    if data[0] == 133:
        return ["router solicitation"]
    _, _, _, hops, flags, lifetime, reachable, retrans = struct.unpack_from("!BBHBBHII", data)
    lines = [f"router advertisement: hop limit {hops}, managed {flags >> 7}, other {flags >> 6 & 1}, lifetime {lifetime} s, "
             f"reachable {reachable}, retransmit {retrans}"]
    at = 16
    while at < len(data):
        code, value = data[at], data[at:at + 8 * data[at + 1]]
        text = {1: lambda v: f"source MAC {v[2:8].hex(':')}", 5: lambda v: f"MTU {number(v[4:8])}",
                3: lambda v: f"prefix {ip6(v[16:32])}/{v[2]}, on the link {v[3] >> 7}, autonomous {v[3] >> 6 & 1}",
                24: lambda v: f"route {ip6((v[8:] + bytes(16))[:16])}/{v[2]}",
                25: lambda v: f"name servers {list_of(16, ip6)(v[8:])}", 31: lambda v: f"search list {names(v[8:])}"}[code](value)
        lines.append(f"    {code:3} {text}")
        at += len(value)
    return lines


def packet(frame):
    """Lines for one frame, or None if it is of no exchange of ours."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0800 and frame[23] == 17:
        source, target = ip4(frame[26:30]), ip4(frame[30:34])
        at = 14 + 4 * (frame[14] & 15)
        body = dhcp4(frame[at + 8:]) if frame[at + 2:at + 4] in (b"\0\x43", b"\0\x44") else None
    elif kind == 0x86dd and frame[20] in (17, 58):
        source, target = ip6(frame[22:38]), ip6(frame[38:54])
        if frame[20] == 58:
            body = icmp6(frame[54:]) if frame[54] in (133, 134) else None
        else:
            port = int.from_bytes(frame[56:58], "big")
            body = dhcp6(frame[62:], port == 546) if port in (546, 547) else None
    else:
        return None
    return body and [f"{source} > {target}  {body[0]}", *body[1:]]


class Capture:
    def __init__(self, lab, guest):
        self.path = lab.directory / "exchange.pcap"
        self.process = guest.popen("tcpdump", "-i", "eth0", "--immediate-mode", "-U", "-w", self.path, "udp or icmp6", stderr=subprocess.PIPE)
        lab.processes.append(self.process)
        until(lambda: "listening on" in self.process.stderr.readline(), "tcpdump listens")
        self.start = 24  # behind the file's header

    def mark(self, last=None):
        """What follows is another exchange. `last`: the message that ends the one before, which tcpdump may see late."""
        if last:
            until(lambda: self.taken([last]), f"{last} in the capture")
        self.start = self.path.stat().st_size

    def packets(self):
        data, at, found = self.path.read_bytes(), self.start, []
        while at + 16 <= len(data):
            size, = struct.unpack_from("<I", data, at + 8)
            if at + 16 + size > len(data):
                break
            lines = packet(data[at + 16:at + 16 + size])
            if lines and (not found or found[-1] != lines):  # not what a client has asked again
                found.append(lines)
            at += 16 + size
        return found

    def taken(self, kinds):
        """The messages of these kinds in this order, once they have come."""
        left, got = list(kinds), []
        for lines in self.packets():
            if left and re.search(rf"{left[0]}\b", lines[0]):
                left.pop(0)
                got.append(lines)
        return None if left else got

    def show(self, name, kinds):
        """Waits until messages of these kinds have come in this order, and compares them with the file."""
        try:
            got = until(lambda: self.taken(kinds), f"{' '.join(kinds)} in the capture")
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.packets()}") from e
        text = "\n".join("\n".join(lines) for lines in got) + "\n"
        text = re.sub(r"fe80::5054:ff:fe12:3456|fe80::c85f:48ff:fe41:7d5d", "GUEST", text)  # of its MAC
        golden = HERE / f"{name}.txt"
        if os.environ.get("VMLET_REGENERATE"):
            golden.write_text(text)
        assert text == golden.read_text()


# ---- the exchanges ---------------------------------------------------------------------------------------------------

@pytest.fixture
def exchange(lab):
    """The guest behind a pod of this binding, a capture of its NIC, and the servers."""
    def make(binding, pod="", **interface):
        if pod:
            lab.pod.sh(pod)
        manifest = lab.manifest([{"name": "default", binding: {}, **interface}])
        lab.netsetup("apply", manifest)
        server = lab.serve(manifest)
        guest = lab.guest(POD_MAC if binding == "bridge" else GUEST_MAC)
        return guest, Capture(lab, guest), server

    return make


EVERY_ROUTE = """
    ip addr flush dev eth0 scope global; ip addr add 10.244.1.5/32 dev eth0
    ip route add 169.254.1.1 dev eth0 scope link
    ip route add default via 169.254.1.1
    ip route add 10.9.0.0/16 via 169.254.1.1
    ip route add 10.10.0.0/16 dev eth0 scope link
"""


@pytest.mark.parametrize("name", ["bridge", "masquerade", "bridge-every-route"])
def test_lease_and_renewal(lab, exchange, udhcpc, name):
    binding = name.split("-")[0]
    guest, capture, _ = exchange(binding, EVERY_ROUTE if "route" in name else "", dhcpOptions=OPTIONS)
    udhcpc(guest)
    capture.show(f"dhcp-lease-{name}", ["DISCOVER", "OFFER", "REQUEST", "ACK"])
    capture.mark()
    log = open(lab.directory / "client.log", "w")
    client = guest.popen("busybox", "udhcpc", "-i", "eth0", "-f", "-t", "6", "-T", "1", "-s", "/bin/true", stdout=log, stderr=log)
    lab.processes.append(client)
    bound = lab.directory / "client.log"
    until(lambda: "lease of" in bound.read_text(), "the client that stays has its lease")
    capture.mark(last="ACK")
    client.send_signal(signal.SIGUSR1)  # udhcpc(8): renew
    until(lambda: bound.read_text().count("lease of") >= 2, "the renewed lease")
    # With the bridge binding the server's address (169.254.75.10, KubeVirt's) is behind the guest's gateway, which drops what
    # is sent there: the client asks everybody next. Our answer goes to the guest's own address.
    asked = r"> 255\.255\.255\.255  DHCP REQUEST" if binding == "bridge" else "10.0.2.2 > 10.0.2.1  DHCP REQUEST"
    capture.show(f"dhcp-renew-{name}", [asked, "ACK"])


def test_nak(lab, exchange):
    """A guest that comes up with the lease of another pod (dhcpcd asks for its former address again) is told at once, and has
    its new one: KubeVirt says nothing (kubevirt#13601)."""
    guest, capture, server = exchange("bridge")
    log = open(lab.directory / "client.log", "w")
    kept = lab.directory / "dhcpcd-leases"
    kept.mkdir()
    script = ("mount -t tmpfs none /run; mount --bind {} /var/lib; mkdir -p /var/lib/dhcpcd; exec dhcpcd -4 -B {} "
              "-c /bin/true --noarp -f /dev/null eth0")

    def client(more):
        process = guest.popen("unshare", "-m", "sh", "-ec", script.format(shlex.quote(str(kept)), more), stdout=log, stderr=log)
        lab.processes.append(process)
        return process

    client("--oneshot").wait(PATIENCE)
    until(lambda: "10.244.1.5/24" in guest.addresses("eth0"), "the first lease")
    guest.sh("ip -4 addr flush dev eth0")
    # Another pod: the same guest, and other addresses.
    manifest = lab.directory / "vmi.json"
    lab.stop(server)
    (lab.directory / "dhcp.json").unlink()
    cache = lab.cache / "vif-cache-eth0.json"
    cache.write_text(cache.read_text().replace("10.244.1.5", "10.244.1.77"))
    lab.serve(manifest)
    capture.mark(last="ACK")
    client("")
    until(lambda: "10.244.1.77/24" in guest.addresses("eth0"), "the lease of the new pod")
    capture.show("dhcp-nak", ["REQUEST", "NAK", "DISCOVER", "OFFER", "REQUEST", "ACK"])


@pytest.mark.parametrize("binding", ["bridge", "masquerade"])
def test_ipv6(lab, exchange, binding):
    guest, capture, _ = exchange(binding)
    out = guest.exec("rdisc6", "-1", "-w", "30000", "eth0", check=False).stdout
    assert "Router lifetime" in out, out
    capture.show(f"ra-{binding}", ["router solicitation", "router advertisement"])
    capture.mark()
    client = start_dhcpcd(lab, guest)
    capture.show(f"dhcpv6-lease-{binding}", ["SOLICIT", "ADVERTISE", "REQUEST", "REPLY"])
    own = "fd10:0:2::2/128" if binding == "masquerade" else "fd00:244::5/128"
    until(lambda: own in guest.addresses("eth0", "inet6"), "the address")
    capture.mark()
    asked = [0]

    def renewed():
        """dhcpcd(8): SIGUSR1 is renew. It takes no notice of one before it has settled, which nothing tells."""
        if time.monotonic() > asked[0] + 3:
            asked[0] = time.monotonic()
            client.send_signal(signal.SIGUSR1)
        return any("RENEW" in lines[0] for lines in capture.packets())

    until(renewed, "a renewal in the capture")
    capture.show(f"dhcpv6-renew-{binding}", ["RENEW", "REPLY"])
