# SPDX-License-Identifier: Apache-2.0
"""The launcher's servers, as uid 107, with real clients: busybox udhcpc, dhcpcd, systemd-networkd."""
import json
import re
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import POD_MAC, run, until
from test_traffic import Listener, ask

OPTIONS = {"bootFileName": "pxelinux.0", "tftpServerName": "10.0.0.7", "ntpServers": ["10.0.0.9"],
           "privateOptions": [{"option": 232, "value": "extra"}]}


@pytest.fixture
def bridge(lab):
    manifest = lab.manifest([{"name": "default", "bridge": {}, "dhcpOptions": OPTIONS}], subdomain="web")
    lab.netsetup("apply", manifest)
    return manifest


def capture(lab, guest, expression):
    """tcpdump on the guest's NIC, into a text file; a function that gives its text so far."""
    path = lab.directory / "capture.txt"
    process = guest.popen("tcpdump", "-l", "-n", "-vv", "-i", "eth0", expression, stdout=open(path, "w"),
                          stderr=subprocess.PIPE)
    lab.processes.append(process)
    until(lambda: "listening on" in process.stderr.readline(), "tcpdump listens")
    return path.read_text


def test_server_is_unprivileged(lab, bridge):
    process = lab.serve(bridge)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["107"] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
    assert status["NoNewPrivs"].strip() == "1"


def test_bridge_lease_with_every_option(lab, bridge, udhcpc):
    lab.serve(bridge)
    guest = lab.guest(POD_MAC)
    text = capture(lab, guest, "udp port 67")
    lease = udhcpc(guest)
    assert lease["ip"] == "10.244.1.5" and lease["mask"] == "24" and lease["router"] == "10.244.1.1"
    assert lease["dns"] == "10.96.0.10"
    assert lease["mtu"] == "1450" and lease["lease"] == str(999 * 86400) and lease["serverid"] == "169.254.75.10"
    assert lease["hostname"] == "testvm" and lease["domain"] == "web.default.svc.cluster.local"
    assert lease["search"].split() == ["web.default.svc.cluster.local", "default.svc.cluster.local", "svc.cluster.local",
                                       "cluster.local"]
    assert lease["ntpsrv"] == "10.0.0.9" and lease["tftp"] == "10.0.0.7" and lease["bootfile"] == "pxelinux.0"
    assert lease["opt232"] == "extra".encode().hex()
    assert guest.exec("ping", "-c", "1", "-W", "30", "192.0.2.1", check=False).returncode == 0
    until(lambda: all(word in text() for word in ("Discover", "Offer", "Request", "ACK")), "all four messages in the capture")


def test_masquerade_lease(lab, udhcpc):
    manifest = lab.manifest("masquerade")
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    guest = lab.guest("52:54:00:12:34:56")  # whoever asks
    lease = udhcpc(guest)
    assert (lease["ip"], lease["mask"], lease["router"], lease["serverid"]) == ("10.0.2.2", "24", "10.0.2.1", "10.0.2.1")
    assert guest.exec("ping", "-c", "1", "-W", "30", "10.244.1.6", check=False).returncode == 0


def test_32_with_a_gateway_off_the_link_and_every_route(lab, udhcpc):
    """As Calico gives a pod its address (peers: kubevirt#6820, #5762, #10683)."""
    lab.pod.sh("""
        ip addr flush dev eth0; ip addr add 10.244.1.5/32 dev eth0
        ip route add 169.254.1.1 dev eth0 scope link
        ip route add default via 169.254.1.1
        ip route add 10.9.0.0/16 via 169.254.1.1
    """)
    lab.node.sh("ip addr add 169.254.1.1/32 dev br0; ip route add 10.244.1.5/32 dev br0; ip addr add 10.9.0.1/32 dev outside")
    manifest = lab.manifest("bridge")
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    guest = lab.guest(POD_MAC)
    lease = udhcpc(guest)
    assert lease["ip"] == "10.244.1.5" and lease["mask"] == "32"
    assert lease["staticroutes"].split() == ["169.254.1.1/32", "0.0.0.0", "10.9.0.0/16", "169.254.1.1", "0.0.0.0/0",
                                             "169.254.1.1"]
    assert guest.exec("ping", "-c", "1", "-W", "30", "192.0.2.1", check=False).returncode == 0
    assert guest.exec("ping", "-c", "1", "-W", "30", "10.9.0.1", check=False).returncode == 0


def test_wrong_address_gets_a_nak(lab, bridge, udhcpc):
    """A guest that moved asks for its old address and is told at once, where KubeVirt says nothing (kubevirt#13601)."""
    lab.serve(bridge)
    guest = lab.guest(POD_MAC)
    reply = exchange(guest, POD_MAC, message(3, POD_MAC, {50: bytes([192, 168, 122, 4])}))
    assert reply and option(reply, 53) == b"\x06"


def test_other_macs_are_not_answered(lab, bridge, udhcpc):
    """Others on the pod's network: not by their own MAC, and not with the guest's in the message alone."""
    process = lab.serve(bridge)
    guest = lab.guest("ca:5f:48:41:00:01", name="stranger")
    done, lease = udhcpc(guest, "-t", "2", check=False)
    assert done.returncode != 0 and not lease
    assert exchange(guest, "ca:5f:48:41:00:01", message(1, POD_MAC), seconds=1) is None
    state = lab.stop(process)
    assert state["k6t-eth0"]["replies"] <= 1  # the one advertisement at the start
    assert state["k6t-eth0"]["client"] == ""


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


def message(kind, mac, options=None, xid=0x12345678, client=bytes(4)):
    packet = struct.pack("!BBBBIHH", 1, 1, 6, 0, xid, 0, 0x8000) + client + bytes(12) + mac_bytes(mac) + bytes(202)
    packet += bytes([99, 130, 83, 99, 53, 1, kind])
    for code, value in (options or {}).items():
        packet += bytes([code, len(value)]) + value
    return packet + b"\xff"


def option(packet, code):
    at = 240
    while at < len(packet) and packet[at] != 255:
        if packet[at] == code:
            return packet[at + 2:at + 2 + packet[at + 1]]
        at += 2 + packet[at + 1] if packet[at] else 1
    return None


EXCHANGE = """
import socket, sys, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
s.bind(("eth0", 0))
s.settimeout({seconds})
mac, payloads = bytes.fromhex({mac!r}), [bytes.fromhex(p) for p in {payloads!r}]
def checksum(b):
    t = sum(struct.unpack("!%dH" % (len(b) // 2), b)); t = (t >> 16) + (t & 0xffff); return ~(t + (t >> 16)) & 0xffff
for p in payloads:
    udp = struct.pack("!HHHH", 68, 67, 8 + len(p), 0) + p
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes(4), b"\\xff" * 4)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    for _ in range({times}):
        s.send(b"\\xff" * 6 + mac + b"\\x08\\x00" + head + udp)
try:
    while {wait}:
        f = s.recv(2000)
        if f[23] == 17 and f[36:38] == b"\\x00\\x44":
            print(f[42:].hex()); break
except TimeoutError:
    pass
"""


def exchange(guest, mac, *payloads, seconds=30, wait=True, times=1):
    """Sends these DHCP messages in frames of this MAC, and gives the first reply."""
    script = EXCHANGE.format(seconds=seconds, mac=mac.replace(":", ""), payloads=[p.hex() for p in payloads], wait=wait,
                             times=times)
    out = guest.exec("python3", "-c", script).stdout.strip()
    return bytes.fromhex(out) if out else None


def test_malformed_and_flooding_requests_harm_nobody(lab, bridge, udhcpc):
    process = lab.serve(bridge)
    guest = lab.guest(POD_MAC)
    good = message(1, POD_MAC)
    exchange(guest, POD_MAC, *(good[:n] for n in range(0, len(good), 7)), good[:240] + bytes([53, 255]), wait=False)
    exchange(guest, POD_MAC, good[:-1] + bytes([50, 200]), wait=False, times=5)
    exchange(guest, POD_MAC, good, wait=False, times=3000)
    assert process.poll() is None
    cpu = Path(f"/proc/{process.pid}/stat").read_text().split()
    assert (int(cpu[13]) + int(cpu[14])) / 100 < 0.5  # seconds for 3000 requests: most were never looked at
    assert udhcpc(guest)["ip"] == "10.244.1.5"
    state = lab.stop(process)["k6t-eth0"]
    assert state["dropped"] > 0 and state["requests"] < 2000


def test_renewal_and_adoption(lab, bridge, udhcpc):
    """A launcher that takes over knows who has the address, and renews it to the guest's own address."""
    process = lab.serve(bridge)
    guest = lab.guest(POD_MAC)
    udhcpc(guest)
    state = lab.stop(process)["k6t-eth0"]
    assert state["client"] == POD_MAC and state["boundAt"] > 0
    process = lab.serve(bridge)
    text = capture(lab, guest, "udp port 68")
    client = bytes([10, 244, 1, 5])
    renew = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.bind(("10.244.1.5", 68)); s.settimeout(30)
s.sendto(bytes.fromhex("%s"), ("255.255.255.255", 67))
print(s.recv(2000).hex())
""" % message(3, POD_MAC, client=client).hex()
    reply = bytes.fromhex(guest.exec("python3", "-c", renew).stdout.strip())
    assert option(reply, 53) == b"\x05" and reply[16:20] == client
    until(lambda: "> 10.244.1.5.68" in text(), "the answer went to the guest's address, not to all")
    again = lab.stop(process)["k6t-eth0"]
    assert again["boundAt"] == state["boundAt"] and again["requests"] == state["requests"] + 1


def test_unicast_renewal_that_reaches_the_bridge(lab, bridge, udhcpc):
    """To the server's own address, by a guest that finds it on its link: the bridge answers ARP for it, the server the rest."""
    lab.serve(bridge)
    guest = lab.guest(POD_MAC)
    udhcpc(guest)
    guest.sh("ip route add 169.254.75.10 dev eth0")
    text = capture(lab, guest, "udp port 67 or arp")
    renew = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.244.1.5", 68)); s.settimeout(30)
s.sendto(bytes.fromhex("%s"), ("169.254.75.10", 67))
print(s.recv(2000).hex())
""" % message(3, POD_MAC, client=bytes([10, 244, 1, 5])).hex()
    reply = bytes.fromhex(guest.exec("python3", "-c", renew).stdout.strip())
    assert option(reply, 53) == b"\x05" and reply[16:20] == bytes([10, 244, 1, 5])
    until(lambda: "Reply 169.254.75.10 is-at" in text() and "169.254.75.10.67 > 10.244.1.5.68" in text(), "the exchange in the capture")


@pytest.mark.parametrize("client", ["udhcpc", "networkd"])
def test_lease_is_renewed_by_broadcast(lab, bridge, client):
    """As KubeVirt's, the server's address is off the guest's link: unicast renewals go to the gateway and are lost; the client
    asks all once it rebinds, before its lease is over, and keeps its address all the while."""
    if client == "networkd":
        need_networkd()
    lab.serve(bridge, lease=60)
    guest = lab.guest(POD_MAC)
    text = capture(lab, guest, "udp port 67")
    if client == "networkd":
        start_networkd(lab, guest)
    else:
        script = lab.directory / "udhcpc.sh"
        script.write_text('#!/bin/sh\necho "$1" >>"$LOG"\n[ "$1" != bound ] || ip addr add "$ip/$mask" dev eth0\n'
                          '[ "$1" != bound ] || ip route add default via "$router"\n')
        script.chmod(0o755)
        lab.processes.append(guest.popen("env", f"LOG={lab.directory / 'told'}", "busybox", "udhcpc", "-f", "-i", "eth0", "-s", script,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    until(lambda: has_address(guest, "10.244.1.5/24"), "a lease")
    changes = lab.directory / "changes"
    lab.processes.append(guest.popen("ip", "-4", "monitor", "address", stdout=open(changes, "w")))

    def exchanges():
        return re.findall(r"(\S+) > (\S+): .*?DHCP-Message \(53\), length 1: (\w+)", text(), re.S)

    def again():
        """An answer after the first one."""
        return [kind for _, _, kind in exchanges()].count("ACK") >= 2

    until(again, "the lease is renewed", 180)
    asked = [to for _, to, kind in exchanges() if kind == "Request"]
    assert "169.254.75.10.67" in asked and asked[-1] == "255.255.255.255.67", exchanges()
    assert has_address(guest, "10.244.1.5/24") and "Deleted" not in changes.read_text(), changes.read_text()
    if client == "udhcpc":
        told = until(lambda: (lab.directory / "told").read_text().split()[-1] == "renew" and (lab.directory / "told").read_text().split(),
                     "the client says so")
        assert told == ["deconfig", "bound", "renew"]


def test_marker_of_two_networks(lab, udhcpc):
    """Two servers on port 67, each on its own bridge."""
    link = "pod16477688c0e"
    lab.plug(lab.pod, link, "ca:5f:48:41:7d:99", "192.168.9.5/24", gateway=False)
    manifest = lab.manifest([{"name": "default", "masquerade": {}}, {"name": "blue", "bridge": {}}],
                            [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "b"}}])
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    first, second = lab.guest("52:54:00:12:34:56"), lab.guest("ca:5f:48:41:7d:99", "k6t-16477688c0e", "second")
    assert udhcpc(first)["ip"] == "10.0.2.2"
    lease = udhcpc(second)
    assert lease["ip"] == "192.168.9.5" and lease["serverid"] == "169.254.75.11" and "router" not in lease


# ---- IPv6: advertisements and DHCPv6, by clients as distributions have them ------------------------------------------

def private_client(guest, script, **more):
    """Runs a client that writes to /etc, /run and /var/lib, in a mount namespace where these are its own."""
    prepare = """
mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mount -t tmpfs none /tmp; mkdir -p /run/lock
cp /etc/passwd /etc/group /etc/nsswitch.conf /tmp/; [ -d /etc/systemd ] && cp -r /etc/systemd /tmp/etc-systemd
mount --bind /tmp /mnt 2>/dev/null || true
"""
    return guest.popen("unshare", "-m", "sh", "-ec", prepare + script, **more)


def has_address(guest, address):
    return address in guest.addresses("eth0", "inet6") + guest.addresses("eth0")


def start_dhcpcd(lab, guest):
    config = lab.directory / "dhcpcd.conf"
    config.write_text("duid ll\nslaac hwaddr\nnohook resolv.conf\noption domain_name_servers, domain_search, interface_mtu\n"
                      "option dhcp6_name_servers\nrequire dhcp_server_identifier\n")
    log = open(lab.directory / "dhcpcd.log", "w")
    process = guest.popen("unshare", "-m", "sh", "-ec",
                          f"mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mkdir -p /var/lib/dhcpcd; exec dhcpcd "
                          f"-B -f {config} -c /bin/true eth0", stdout=log, stderr=log)
    lab.processes.append(process)
    return process


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_dhcpcd_both_families(lab, binding):
    manifest = lab.manifest(binding)
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    guest = lab.guest(POD_MAC if binding == "bridge" else "52:54:00:12:34:56")
    text = capture(lab, guest, "icmp6 or udp port 546 or udp port 67")
    start_dhcpcd(lab, guest)
    v6 = "fd10:0:2::2/128" if binding == "masquerade" else "fd00:244::5/128"
    v4 = "10.0.2.2/24" if binding == "masquerade" else "10.244.1.5/24"
    until(lambda: has_address(guest, v4), "an IPv4 lease")
    until(lambda: has_address(guest, v6), "an IPv6 lease")
    via = "fe80::ff:fe00:0" if binding == "masquerade" else "fe80::1"
    until(lambda: f"default via {via}" in guest.ip("-6", "route"), "a default router by advertisement")
    target = "fd00:244::6"
    assert guest.exec("ping", "-c", "1", "-W", "30", target, check=False).returncode == 0, guest.ip("-6", "route")
    assert guest.exec("ping", "-c", "1", "-W", "30", "2001:db8::1", check=False).returncode == 0
    until(lambda: "router advertisement" in text() and "dhcp6 reply" in text(), "the exchange in the capture")
    if binding == "bridge":  # nobody else hears our advertisements
        assert "default via fe80::1" in lab.peer.ip("-6", "route")
        assert lab.peer.ip("-6", "route").count("default") == 1


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_pod_with_ipv6_alone(lab, binding, udhcpc):
    """As KubeVirt has it, the guest gets the families that the pod has: no IPv4 address, no rule, no server on port 67."""
    lab.pod.sh("ip -4 addr flush dev eth0")
    manifest = lab.manifest(binding)
    lab.netsetup("apply", manifest)
    process = lab.serve(manifest)
    guest = lab.guest(POD_MAC if binding == "bridge" else "52:54:00:12:34:56")
    start_dhcpcd(lab, guest)
    own = "fd10:0:2::2" if binding == "masquerade" else "fd00:244::5"
    until(lambda: has_address(guest, f"{own}/128"), "an IPv6 lease")
    until(lambda: "default via fe80::" in guest.ip("-6", "route"), "a default router by advertisement")
    for target in ("fd00:244::6", "2001:db8::1"):
        assert guest.exec("ping", "-c", "2", "-W", "30", target, check=False).returncode == 0, guest.ip("-6", "route")
    Listener(lab, guest, 8080, "guest")
    Listener(lab, lab.peer, 8000, "peer")
    assert ask(lab.peer, "fd00:244::5", 8080) == "fd00:244::6 guest"
    assert ask(guest, "fd00:244::6", 8000) == "fd00:244::5 peer"
    assert lab.pod.addresses("k6t-eth0") == [] and lab.pod.sh("cat /proc/sys/net/ipv4/ip_forward").strip() == "0"
    assert "table ip " not in lab.pod.exec("nft", "list", "ruleset").stdout
    assert ":67 " not in lab.pod.exec("ss", "-Hlun").stdout
    done, lease = udhcpc(guest, "-t", "2", check=False)
    assert done.returncode != 0 and not lease
    cache = json.loads((lab.cache / "vif-cache-eth0.json").read_text())
    assert cache["IPAMDisabled"] is True and (cache["IP"], cache["Gateway"], cache["Routes"]) == ("", "", [])
    assert cache["vmlet"]["podIPs"] == ["fd00:244::5"]
    assert lab.stop(process)["k6t-eth0"]["client"] == ""


def test_bridge_with_a_global_gateway(lab):
    """No advertisement can come from a gateway that is only known by a global address: the pod passes packets on to it."""
    lab.pod.sh("ip -6 route del default; ip -6 route add default via fd00:244::1 dev eth0")
    before = lab.pod.dump()
    manifest = lab.manifest("bridge")
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    guest = lab.guest(POD_MAC)
    out = guest.exec("rdisc6", "-1", "-w", "30000", "eth0", check=False).stdout
    assert "Router lifetime" in out and "Stateful address conf." in out, out
    guest.sh("ip addr add fd00:244::5/64 dev eth0 nodad")
    until(lambda: "default via fe80::" in guest.ip("-6", "route"), "a default router")
    assert guest.exec("ping", "-c", "2", "-W", "30", "2001:db8::1", check=False).returncode == 0
    for namespace in list(lab.namespaces):
        if namespace is guest:
            namespace.close()
    lab.netsetup("teardown", manifest)
    assert lab.pod.dump()["routes6"] == before["routes6"]


NETWORKD = Path("/lib/systemd/systemd-networkd")


def need_networkd():
    if not NETWORKD.exists():
        pytest.skip("no systemd-networkd")


def start_networkd(lab, guest):
    """In a mount namespace of its own, as private as a service; gives its state's folder. Its log is networkd.log."""
    configuration = lab.directory / "networkd"
    configuration.mkdir()
    (configuration / "eth0.network").write_text(
        "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\nKeepConfiguration=no\n[DHCPv4]\nUseMTU=yes\nUseDomains=yes\n"
        "ClientIdentifier=mac\n")
    log = open(lab.directory / "networkd.log", "w")
    state = lab.directory / "run-systemd"
    state.mkdir()
    shutil.chown(state, "systemd-network", "systemd-network")
    for above in [state, *state.parents]:
        above.chmod(above.stat().st_mode | 0o055)
    process = guest.popen(
        "unshare", "-m", "sh", "-ec",
        f"mount -t tmpfs -o mode=755 none /run; mkdir -p /run/systemd/network /run/systemd/netif; "
        f"mount --bind {state} /run/systemd/netif; cp {configuration}/eth0.network /run/systemd/network/; "
        f"mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp; "
        f"chown -R systemd-network:systemd-network /run/systemd/netif; "
        f"mount -o remount,ro /sys 2>/dev/null || mount -t sysfs -o ro none /sys; "
        f"SYSTEMD_LOG_LEVEL=debug exec {NETWORKD}", stdout=log, stderr=log)
    lab.processes.append(process)
    return state


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_systemd_networkd(lab, binding):
    """As most guests' distributions do it: both families, DNS and search list."""
    need_networkd()
    manifest = lab.manifest(binding)
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    guest = lab.guest(POD_MAC if binding == "bridge" else "52:54:00:12:34:56")
    state = start_networkd(lab, guest)
    v4, v6 = ("10.0.2.2/24", "fd10:0:2::2/128") if binding == "masquerade" else ("10.244.1.5/24", "fd00:244::5/128")

    def show():
        return (lab.directory / "networkd.log").read_text()[-3000:]

    try:
        until(lambda: has_address(guest, v4), "an IPv4 lease")
        until(lambda: has_address(guest, v6), "an IPv6 lease")
    except AssertionError as e:
        raise AssertionError(f"{e}\n{show()}") from e
    links = until(lambda: [f for f in (state / "links").iterdir() if "ROUTER" in f.read_text() or "DNS" in f.read_text()],
                  "a state file")[0]
    until(lambda: "10.96.0.10" in links.read_text() and "fd00:96::a" in links.read_text(), "both DNS servers")
    assert "default.svc.cluster.local" in links.read_text()
    assert guest.links()["eth0"]["mtu"] == 1450
    assert guest.exec("ping", "-c", "1", "-W", "30", "192.0.2.1", check=False).returncode == 0
    assert guest.exec("ping", "-c", "1", "-W", "30", "2001:db8::1", check=False).returncode == 0
