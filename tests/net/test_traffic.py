# SPDX-License-Identifier: Apache-2.0
"""What packets do: masquerade and bridge, from the guest, to the guest, and past its own address."""
import json
import re
import subprocess

import pytest
from conftest import POD_MAC, run, until

GUEST4, GUEST6 = "10.0.2.2", "fd10:0:2::2"


class Listener:
    """A TCP server that answers each connection with the address that it saw, then the text."""

    def __init__(self, lab, namespace, port, text, udp=False):
        script = f"""
import socket, socketserver, sys
class H(socketserver.BaseRequestHandler):
    def handle(self):
        reply = (self.client_address[0] + " {text}").encode()
        if {udp}:
            self.request[1].sendto(reply, self.client_address)
        else:
            self.request.sendall(reply)
class S(socketserver.{'UDPServer' if udp else 'TCPServer'}):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
s = S(("::", {port}), H)
print("ready", flush=True)
s.serve_forever()
"""
        self.process = namespace.popen("python3", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lab.processes.append(self.process)
        assert self.process.stdout.readline() == "ready\n"


def ask(namespace, address, port, udp=False, seconds=30):
    """What a server there says, or None."""
    script = f"""
import socket
s = socket.socket(socket.AF_INET6 if ":" in "{address}" else socket.AF_INET, socket.SOCK_{'DGRAM' if udp else 'STREAM'})
s.settimeout({seconds})
s.connect(("{address}", {port}))
if {udp}: s.send(b"?")
print(s.recv(200).decode())
"""
    done = namespace.exec("python3", "-c", script, check=False)
    return done.stdout.strip().removeprefix("::ffff:") if done.returncode == 0 else None


def ping(namespace, address, *more):
    return namespace.exec("ping", "-c", "2", "-i", "0.2", "-W", "30", *more, address, check=False).returncode == 0


@pytest.fixture
def masquerade(lab):
    def make(**more):
        manifest = lab.manifest([{"name": "default", "masquerade": {}, **more}])
        lab.netsetup("apply", manifest)
        guest = lab.guest("52:54:00:12:34:56")
        guest.sh(f"""
            ip addr add {GUEST4}/24 dev eth0
            ip addr add {GUEST6}/120 dev eth0 nodad
            ip route add default via 10.0.2.1
            ip -6 route add default via fd10:0:2::1
        """)
        return guest

    return make


def test_masquerade_out(lab, masquerade):
    guest = masquerade()
    Listener(lab, lab.node, 8000, "node")
    Listener(lab, lab.peer, 8000, "peer")
    assert ask(guest, "10.244.1.6", 8000) == "10.244.1.5 peer"  # seen as the pod
    assert ask(guest, "192.0.2.1", 8000) == "10.244.1.5 node"   # by the gateway
    assert ask(guest, "fd00:244::6", 8000) == "fd00:244::5 peer"
    assert ask(guest, "2001:db8::1", 8000) == "fd00:244::5 node"
    assert ping(guest, "192.0.2.1") and ping(guest, "2001:db8::1")


def test_masquerade_in_without_ports(lab, masquerade):
    guest = masquerade()
    Listener(lab, guest, 8080, "guest")
    Listener(lab, guest, 5353, "guest", udp=True)
    assert ask(lab.peer, "10.244.1.5", 8080) == "10.244.1.6 guest"  # with the caller's address
    assert ask(lab.peer, "10.244.1.5", 5353, udp=True) == "10.244.1.6 guest"
    assert ask(lab.peer, "fd00:244::5", 8080) == "fd00:244::6 guest"
    assert ask(lab.node, "10.244.1.5", 8080).endswith(" guest")


def test_masquerade_in_with_ports(lab, masquerade):
    guest = masquerade(ports=[{"name": "web", "port": 8080}, {"port": 5353, "protocol": "UDP"}])
    Listener(lab, guest, 8080, "guest")
    Listener(lab, guest, 8081, "guest")
    Listener(lab, guest, 5353, "guest", udp=True)
    Listener(lab, lab.pod, 8081, "pod")
    assert ask(lab.peer, "10.244.1.5", 8080) == "10.244.1.6 guest"
    assert ask(lab.peer, "10.244.1.5", 5353, udp=True) == "10.244.1.6 guest"
    assert ask(lab.peer, "10.244.1.5", 8081) == "10.244.1.6 pod"  # a port that was not named stays the pod's
    assert ask(lab.peer, "fd00:244::5", 8080) == "fd00:244::6 guest"


def test_localhost_of_the_pod_is_the_guest(lab, masquerade):
    guest = masquerade()
    Listener(lab, guest, 8080, "guest")
    assert ask(lab.pod, "127.0.0.1", 8080) == "10.0.2.1 guest"


def test_localhost_by_ipv6(lab, masquerade):
    """The rules are KubeVirt's; whether ::1 may leave a host is the kernel's to say (it has no route_localnet)."""
    guest = masquerade()
    Listener(lab, guest, 8080, "guest")
    got = ask(lab.pod, "::1", 8080, seconds=3)
    assert got in (None, "fd10:0:2::1 guest")


def test_hairpin(lab, masquerade):
    """The guest reaches its own service by the pod's address."""
    guest = masquerade(ports=[{"port": 8080}])
    Listener(lab, guest, 8080, "guest")
    assert ask(guest, "10.244.1.5", 8080) == "10.0.2.1 guest"
    assert ask(guest, "fd00:244::5", 8080) == "fd10:0:2::1 guest"


def test_other_guest_network(lab):
    manifest = lab.manifest([{"name": "default", "masquerade": {}}],
                            [{"name": "default", "pod": {"vmNetworkCIDR": "172.30.9.0/28", "vmIPv6NetworkCIDR": "fd77::/64"}}])
    lab.netsetup("apply", manifest)
    guest = lab.guest("52:54:00:12:34:56")
    guest.sh("""
        ip addr add 172.30.9.2/28 dev eth0; ip route add default via 172.30.9.1
        ip addr add fd77::2/64 dev eth0 nodad; ip -6 route add default via fd77::1
    """)
    Listener(lab, lab.peer, 8000, "peer")
    assert ask(guest, "10.244.1.6", 8000) == "10.244.1.5 peer"
    assert ask(guest, "fd00:244::6", 8000) == "fd00:244::5 peer"


def test_migration_ports_stay_the_pods(lab):
    manifest = lab.manifest("masquerade")
    lab.netsetup("apply", manifest, "--migration-tcp")
    guest = lab.guest("52:54:00:12:34:56")
    guest.sh(f"ip addr add {GUEST4}/24 dev eth0; ip route add default via 10.0.2.1")
    Listener(lab, lab.pod, 49152, "pod")
    Listener(lab, guest, 49152, "guest")
    Listener(lab, guest, 80, "guest")
    assert ask(lab.peer, "10.244.1.5", 49152) == "10.244.1.6 pod"
    assert ask(lab.peer, "10.244.1.5", 80) == "10.244.1.6 guest"


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_full_size_packet(lab, binding):
    """MTU 1450: 1422 bytes of ICMP payload pass without fragments, one more does not."""
    lab.netsetup("apply", lab.manifest(binding))
    guest = lab.guest(POD_MAC if binding == "bridge" else "52:54:00:12:34:56")
    address, gateway = ("10.244.1.5/24", "10.244.1.1") if binding == "bridge" else ("10.0.2.2/24", "10.0.2.1")
    guest.sh(f"ip addr add {address} dev eth0; ip route add default via {gateway}")
    assert ping(guest, "192.0.2.1", "-M", "do", "-s", "1422")
    assert not ping(guest, "192.0.2.1", "-M", "do", "-s", "1423")
    for link in ("tap0", "k6t-eth0"):
        assert lab.pod.links()[link]["mtu"] == 1450


def test_bridge_moves_mac_and_address_into_the_guest(lab):
    lab.netsetup("apply", lab.manifest("bridge"))
    guest = lab.guest(POD_MAC)
    guest.sh("""
        ip addr add 10.244.1.5/24 dev eth0; ip route add default via 10.244.1.1
        ip addr add fd00:244::5/64 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0
    """)
    Listener(lab, guest, 8080, "guest")
    Listener(lab, lab.peer, 8000, "peer")
    assert ask(lab.peer, "10.244.1.5", 8080) == "10.244.1.6 guest"
    assert ask(guest, "10.244.1.6", 8000) == "10.244.1.5 peer"
    assert ask(guest, "fd00:244::6", 8000) == "fd00:244::5 peer"
    assert ping(guest, "192.0.2.1") and ping(guest, "2001:db8::1") and ping(lab.peer, "fd00:244::5")
    # The peer knows the guest's MAC as the pod's old one, and nobody else answers for the address.
    near = json.loads(lab.peer.ip("-j", "neigh", "show", "10.244.1.5"))
    assert near[0]["lladdr"] == POD_MAC
    replies = lab.peer.exec("busybox", "arping", "-c", "2", "-w", "30", "-I", "eth0", "10.244.1.5", check=False).stdout
    answers = re.findall(r"reply from.*\[(\S+)\]", replies.lower())
    assert set(answers) == {POD_MAC} and len(answers) <= 2, replies  # one for each question that was answered in time


def test_two_networks(lab):
    lab.node.sh("ip link add blue type bridge; ip link set blue up; ip addr add 192.168.9.1/24 dev blue")
    link = "pod16477688c0e"
    lab.plug(lab.pod, link, "ca:5f:48:41:7d:99", "192.168.9.5/24", bridge="blue", gateway=False)
    lab.netsetup("apply", lab.manifest([{"name": "default", "masquerade": {}}, {"name": "blue", "bridge": {}}],
                                       [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "b"}}]))
    guest = lab.guest("ca:5f:48:41:7d:99", bridge="k6t-16477688c0e")
    guest.sh("ip addr add 192.168.9.5/24 dev eth0")
    assert ping(guest, "192.168.9.1")
    assert not ping(guest, "10.244.1.6")


def test_captures_are_text(lab, masquerade):
    """The path as packets: before and behind the translation."""
    guest = masquerade()
    Listener(lab, guest, 8080, "guest")
    dumps = {}
    for link in ("eth0", "k6t-eth0"):
        out = open(lab.directory / f"capture-{link}.txt", "w+")
        process = lab.pod.popen("tcpdump", "-l", "-n", "-i", link, "tcp", "port", "8080", stdout=out, stderr=subprocess.PIPE)
        lab.processes.append(process)
        until(lambda p=process: "listening on" in p.stderr.readline(), "tcpdump listens")
        dumps[link] = out
    assert ask(lab.peer, "10.244.1.5", 8080)

    def text(link):
        dumps[link].flush()
        return (lab.directory / f"capture-{link}.txt").read_text()

    until(lambda: "10.244.1.6" in text("eth0") and "> 10.244.1.5.8080" in text("eth0"), "the outer half")
    until(lambda: "> 10.0.2.2.8080" in text("k6t-eth0"), "the inner half")
