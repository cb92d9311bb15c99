# SPDX-License-Identifier: Apache-2.0
"""A real guest, under emulation, behind the tap that netsetup made, with the addresses that our server gave it."""
import subprocess
from pathlib import Path

import pytest
from conftest import BUILD, PATIENCE, POD_MAC
from test_traffic import Listener

VMLET = BUILD / "src" / "vmlet" / "vmlet"
RECIPE = Path(__file__).resolve().parent.parent / "guest" / "build-initramfs"


def image(model="virtio"):
    """The guest whose kernel has this NIC's driver: that for clouds has virtio's alone."""
    flavour = "cloud" if model == "virtio" else "generic"
    made = Path(subprocess.run([RECIPE, "--flavour", flavour], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    return ["--kernel", made / "vmlinuz", "--initrd", made / "initrd.img", "--append", "console=ttyS0 quiet"]


# The address by DHCP; then IPv6 from its start (the guest's DHCP script flushes what was there before): a solicitation of
# the guest's own, and our answer.
WAIT = "i=0; while [ $i -lt 300 ] && ! ip -4 addr show dev eth0 | grep -q inet; do i=$((i+1)); usleep 100000; done; " \
       "for v in 1 0; do echo $v >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; done; i=0; " \
       "while [ $i -lt 300 ] && ! ip -6 route | grep -q default; do i=$((i+1)); usleep 100000; done; "


def guest_exec(lab, manifest, command, model):
    """Boots, runs a shell command by the guest agent, and gives what it printed."""
    done = lab.pod.exec(VMLET, "run", manifest, "--state-dir", lab.directory / "vms", "--accel", "tcg", "--net", "tap:tap0", *image(model), "--grace", "1s",
                        "--exec", WAIT + command, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("model", ["virtio", "e1000"])
@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_guest_takes_its_address(lab, binding, model):
    manifest = lab.manifest([{"name": "default", binding: {}, "model": model, "macAddress": POD_MAC}])
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    out = guest_exec(lab, manifest, "ip addr show dev eth0; ip route; cat /etc/resolv.conf; "
                                    "ping -c 2 -W 5 192.0.2.1; ping -c 2 -W 5 -s 1422 192.0.2.1; ping -c 2 -W 5 2001:db8::1; "
                                    "ip -6 route; true", model)
    address, gateway = ("10.0.2.2/24", "10.0.2.1") if binding == "masquerade" else ("10.244.1.5/24", "10.244.1.1")
    assert f"inet {address}" in out and POD_MAC in out, out
    assert f"default via {gateway}" in out, out
    assert "nameserver 10.96.0.10" in out, out
    assert out.count("2 packets received") >= 2, out
    router = "fe80::ff:fe00:0" if binding == "masquerade" else "fe80::1"
    assert f"default via {router}" in out, out
    assert "mtu 1450" in out, out


def test_off_link_gateway(lab):
    """As Calico has it: a /32 address, and a gateway that only a route on the link leads to. The guest has every route of
    the pod (RFC 3442: by option 121 alone), and what each of them leads to answers."""
    lab.pod.sh("ip -4 addr flush dev eth0; ip addr add 10.233.90.7/32 dev eth0; "
               "ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1; "
               "ip route add 169.254.1.2 dev eth0 scope link; ip route add 10.8.0.0/16 via 169.254.1.2; "
               "ip route add 10.9.0.0/24 dev eth0 scope link")
    lab.node.sh("ip addr add 169.254.1.1/32 dev br0; ip route add 10.233.90.7 dev br0")
    lab.peer.sh("ip addr add 169.254.1.2/32 dev eth0; ip addr add 10.8.0.1/32 dev lo; ip addr add 10.9.0.1/32 dev lo; "
                "ip route add 10.233.90.7 dev eth0; ip route del default")
    manifest = lab.manifest([{"name": "default", "bridge": {}, "macAddress": POD_MAC}])
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    out = guest_exec(lab, manifest, "ip -4 -o addr show dev eth0; ip route; for a in 192.0.2.1 10.8.0.1 10.9.0.1; do "
                                    "ping -c 2 -W 5 $a | grep received; done; true", "virtio")
    routes = [" ".join(line.split()) for line in out.splitlines() if " dev eth0" in line]
    assert "inet 10.233.90.7/32" in out, out
    # without its own /32, which no busybox shows; nothing but what the pod had
    assert {r.removesuffix(" scope link").strip() for r in routes} == {
        "default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0", "169.254.1.2 dev eth0", "10.8.0.0/16 via 169.254.1.2 dev eth0",
        "10.9.0.0/24 dev eth0"}, out
    assert out.count("2 packets received") == 3, out


def test_guest_is_reached(lab):
    """A server in the guest, from another pod: by the pod's address, with the caller's own."""
    manifest = lab.manifest([{"name": "default", "masquerade": {}, "macAddress": POD_MAC}])
    lab.netsetup("apply", manifest)
    lab.serve(manifest)
    Listener(lab, lab.peer, 8000, "peer")
    command = ("echo ready-to-serve >/dev/console; echo hello from the guest | nc -l -p 8080 >/tmp/got; "
               "cat /tmp/got; nc 10.244.1.6 8000 </dev/null")
    process = lab.pod.popen(VMLET, "run", manifest, "--state-dir", lab.directory / "vms", "--accel", "tcg", "--net", "tap:tap0", *image(), "--grace", "1s", "--console", "--exec",
                            WAIT + command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lab.processes.append(process)
    seen = ""
    for line in process.stdout:
        seen += line
        if line.strip().endswith("ready-to-serve"):  # not the line that quotes the command
            break
    client = lab.peer.exec("sh", "-c", "i=0; while [ $i -lt 600 ]; do echo hello | busybox nc -w 30 10.244.1.5 8080 && break; "
                                       "i=$((i+1)); busybox usleep 100000; done").stdout
    assert "hello from the guest" in client, seen
    rest = process.stdout.read()
    assert process.wait(PATIENCE) == 0, seen + rest
    assert "10.244.1.5 peer" in rest, rest


def test_run_by_passt(lab):
    """`vmlet run --net passt`, on a host that nobody has prepared: the host's address in the guest, and the port that the
    manifest names, from the host itself and from nobody else."""
    manifest = lab.manifest([{"name": "default", "masquerade": {}, "ports": [{"port": 8080}]}])
    Listener(lab, lab.peer, 8000, "peer")
    command = ("ip -4 addr show dev eth0; (echo hello from the guest | nc -l -p 8080 >/tmp/got; echo >/tmp/served) "
               "</dev/null >/dev/null 2>&1 & echo ready-to-serve >/dev/console; mkfifo /tmp/open; i=0; "
               "while [ $i -lt 20 ] && ! nc -w 10 10.244.1.6 8000 <>/tmp/open | grep peer; do i=$((i+1)); done; i=0; "
               "while [ ! -e /tmp/served ] && [ $i -lt 600 ]; do i=$((i+1)); usleep 100000; done; cat /tmp/got")
    process = lab.pod.popen(VMLET, "run", manifest, "--state-dir", lab.directory / "vms", "--accel", "tcg", "--net", "passt",
                            *image(), "--grace", "1s", "--console", "--exec",
                            "i=0; while [ $i -lt 300 ] && ! ip -4 addr show dev eth0 | grep -q inet; do i=$((i+1)); usleep 100000; "
                            "done; " + command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lab.processes.append(process)
    seen = ""
    for line in process.stdout:
        seen += line
        if line.strip().endswith("ready-to-serve"):  # not the line that quotes the command
            break
    listening = lab.pod.exec("ss", "-Hltn").stdout.split()
    assert "127.0.0.1:8080" in listening and not any(a in listening for a in ("[::1]:8080", "*:8080", "0.0.0.0:8080", "[::]:8080")), listening
    client = lab.pod.exec("sh", "-c", "i=0; while [ $i -lt 600 ]; do echo from the host | busybox nc -w 30 127.0.0.1 8080 | grep hello && break; "
                                      "i=$((i+1)); busybox usleep 100000; done").stdout
    rest = process.stdout.read()
    assert process.wait(PATIENCE) == 0, seen + rest
    assert "hello from the guest" in client and "from the host" in rest, client + seen + rest
    assert "inet 10.244.1.5/24" in rest, rest
    assert "10.244.1.5 peer" in rest, rest
    assert not list((lab.directory / "vms").rglob("passt-*"))


def test_passt_says_why(lab):
    """A port of the manifest that is taken on the host: passt's own words, from the log that is named."""
    manifest = lab.manifest([{"name": "default", "masquerade": {}, "ports": [{"port": 8080}]}])
    Listener(lab, lab.pod, 8080, "pod")
    process = lab.pod.popen(VMLET, "run", manifest, "--state-dir", lab.directory / "vms", "--accel", "tcg", "--net", "passt",
                            *image(), "--until", "running", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lab.processes.append(process)
    said = process.stdout.read()
    assert process.wait(PATIENCE) == 3, said
    assert "passt ended at once" in said and "passt-default.log: " in said and "127.0.0.1/8080" in said, said


def test_tap_for_each_interface(lab):
    """--net tap:one,two: the first interface is on the first, the second on the second; the links know nothing else of it."""
    lab.pod.sh("for t in one two; do ip tuntap add dev $t mode tap vnet_hdr; ip link set $t up; done; "
               "ip addr add 10.1.0.1/24 dev one; ip addr add 10.2.0.1/24 dev two")
    manifest = lab.manifest([{"name": "default", "bridge": {}}, {"name": "blue", "bridge": {}}],
                            [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "blue"}}])
    command = "killall udhcpc; ip -4 addr flush dev eth0; ip addr add 10.1.0.2/24 dev eth0; ip link set eth1 up; " \
              "ip addr add 10.2.0.2/24 dev eth1; ping -c 1 -W 5 10.1.0.1; ping -c 1 -W 5 10.2.0.1; true"
    done = lab.pod.exec(VMLET, "run", manifest, "--state-dir", lab.directory / "vms", "--accel", "tcg", "--net", "tap:one,two", *image(),
                        "--grace", "1s", "--exec", command, check=False, timeout=200)
    assert done.returncode == 0 and done.stdout.count("1 packets received") == 2, done.stdout + done.stderr
