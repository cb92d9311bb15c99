# SPDX-License-Identifier: Apache-2.0
"""virt-launcher in a pod's namespace that netsetup prepared: uid 107, no capability but NET_BIND_SERVICE, a real guest."""
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import BUILD, PATIENCE, POD_MAC, RESOLV, run, until
from test_guest import image
from test_traffic import Listener
from vmlet_lab import Client, need_user_namespaces

LAUNCHER = BUILD / "src" / "launcher" / "virt-launcher"
MONITOR = BUILD / "src" / "monitor" / "virt-launcher-monitor"
UNPRIVILEGED = [
    "setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all,+net_bind_service",
    "--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service", "--no-new-privs",
]


def call(path, method, **params):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(str(path))
        s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        answer = json.loads(s.makefile().readline())
    assert "result" in answer, answer
    return answer["result"]


class Launcher:
    """virt-launcher in the pod, as the node agent's pod has it; may be killed and started again."""

    def __init__(self, lab, manifest, monitored=False):
        self.lab, self.manifest = lab, manifest
        self.dirs = {name: lab.directory / name for name in ("share", "eph", "cd", "hp", "ed")}
        for path in self.dirs.values():
            path.mkdir(exist_ok=True)
            os.chown(path, 107, 107)
        self.log = lab.directory / "launcher.log"
        self.program = shutil.copy2(LAUNCHER, lab.directory)  # the build may be below a folder that 107 cannot enter
        if monitored:
            self.program = shutil.copy2(MONITOR, lab.directory)
        self.resolv = lab.directory / "resolv.conf"
        self.resolv.write_text(RESOLV)
        self.socket = self.dirs["share"] / "sockets" / "launcher-sock"
        self.start()

    def start(self):
        dirs = self.dirs
        self.process = self.lab.pod.popen(
            *self.lab.with_tun(self.resolv), *UNPRIVILEGED, "env", f"STANDALONE_VMI={self.manifest.read_text()}",
            "VMLET_CACHE_DIR=/nonexistent", self.program, "--name", "testvm", "--allow-emulation", "--run-as-nonroot",
            "--kubevirt-share-dir", dirs["share"], "--private-dir", self.lab.cache, "--ephemeral-disk-dir", dirs["eph"],
            "--container-disk-dir", dirs["cd"], "--hotplug-disk-dir", dirs["hp"], "--empty-disk-dir", dirs["ed"],
            stdout=subprocess.DEVNULL, stderr=open(self.log, "a"),
        )
        self.lab.processes.append(self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def domain(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return call(self.socket, "GetDomain")
        except (FileNotFoundError, ConnectionError, AssertionError):
            return {}

    def wait_agent(self):
        until(lambda: self.domain().get("vmlet", {}).get("agentConnected"), "the agent answers", PATIENCE)

    def interfaces(self):
        return self.domain().get("vmlet", {}).get("interfaces", [])

    def settled(self):
        """The interfaces without link-local addresses, which come when the guest has found that nobody has them."""
        return [dict(nic, ipAddresses=[a for a in nic.get("ipAddresses", []) if not a.startswith("fe80:")])
                for nic in self.interfaces()]

    def wait_address(self, address, source="guest-agent"):
        def there():
            return [nic for nic in self.interfaces() if address in nic.get("ipAddresses", []) and source in nic["infoSource"]]

        return until(there, f"the guest has {address}, says {source}", PATIENCE)[0]

    def exec(self, script):
        done = call(self.socket, "Exec", Command="/bin/sh", Args=["-c", script], timeoutSeconds=60)
        assert done["exitCode"] == 0, done
        return done.get("stdOut", "")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        assert "the guest shut down" in self.log.read_text()


@pytest.fixture
def launch(lab):
    def make(interfaces, networks=None, monitored=False, **more):
        kernel = image()
        boot = lab.directory / "cd" / "kernel-boot"
        boot.mkdir(parents=True)
        # 107 cannot enter root's cache: copies, not links
        for option, name in ((1, "vmlinuz"), (3, "initrd.img")):
            (boot / name).write_bytes(kernel[option].read_bytes())
        manifest = lab.manifest(interfaces, networks, domain={"firmware": {"kernelBoot": {
            "kernelArgs": "console=ttyS0 quiet",
            "container": {"image": "x", "kernelPath": "/vmlinuz", "initrdPath": "/initrd.img"}}}}, **more)
        lab.netsetup("apply", manifest)
        return Launcher(lab, manifest, monitored)

    return make


# In the guest: a client that stays, and is told to renew: "renewed" once it has its answer.
RENEW = """
grep -q ' renew' /etc/udhcpc || exit 1
(udhcpc -f -i eth0 -s /tmp/note -p /run/client.pid >/dev/null 2>&1 &)
i=0; while [ ! -e /run/bound ] && [ $i -lt 300 ]; do i=$((i+1)); usleep 100000; done
kill -USR1 $(cat /run/client.pid)
i=0; while [ ! -e /run/renew ] && [ $i -lt 300 ]; do i=$((i+1)); usleep 100000; done
kill $(cat /run/client.pid)
ls /run/renew
"""
NOTE = "printf '#!/bin/sh\\necho $ip >/run/$1\\n' >/tmp/note; chmod +x /tmp/note; rm -f /run/bound /run/renew; "


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_launcher_gives_the_guest_its_address(lab, launch, binding):
    """…and so does the next one, after the first was killed; meanwhile no link, address or route of the pod changes."""
    vm = launch([{"name": "default", binding: {}, "macAddress": POD_MAC}])
    # KubeVirt: a masqueraded guest is known by its pod's addresses, whatever it says itself.
    vm.wait_address("10.244.1.5", "domain")
    vm.wait_agent()
    nic = vm.wait_address("10.244.1.5")
    assert (nic["name"], nic["mac"], nic["interfaceName"], nic["podInterfaceName"], nic["linkState"]) == (
        "default", POD_MAC, "eth0", "eth0", "up")
    assert nic["infoSource"] == "domain, guest-agent"
    ping = lab.peer.exec("ping", "-c", "2", "-W", "30", "10.244.1.5").stdout
    assert "2 received" in ping or "2 packets received" in ping, ping
    lease = until(lambda: vm.domain()["vmlet"]["leases"]["default"], "a lease")
    assert lease["client"] == POD_MAC and lease["boundAt"] > 0
    before = vm.settled()

    changes = lab.directory / "changes"
    monitor = lab.pod.popen("ip", "monitor", "link", "address", "route", stdout=open(changes, "w"))
    lab.processes.append(monitor)
    vm.kill()
    vm.start()
    # From its first answer on: as it was, before the agent has said anything to this launcher.
    assert until(vm.settled, "the new launcher answers", PATIENCE) == before
    vm.wait_agent()
    again = vm.domain()["vmlet"]["leases"]["default"]
    assert (again["client"], again["boundAt"]) == (POD_MAC, lease["boundAt"])
    assert vm.exec(NOTE + RENEW).strip() == "/run/renew"
    renewed = vm.domain()["vmlet"]["leases"]["default"]
    assert renewed["boundAt"] == lease["boundAt"] and renewed["replies"] >= again["replies"] + 2
    assert lab.peer.exec("ping", "-c", "2", "-W", "30", "10.244.1.5", check=False).returncode == 0
    assert vm.settled() == before
    # The tap of the advertisements is let go and taken again with its launcher: its carrier, and what follows from it, a
    # bridge that tells its other ports' state once more.
    flapped = [line for line in changes.read_text().splitlines() if line[:1] not in " \t" and "ra0" not in line
               and not (",LOWER_UP>" in line and "state UP" in line and not line.startswith("Deleted"))]
    assert flapped == [], flapped
    # An agent that is restarted takes no address away.
    watcher = Client(vm.socket)
    watcher.ok("Subscribe")
    call(vm.socket, "Exec", Command="/bin/sh", Args=["-c", "(usleep 300000; killall qemu-ga) >/dev/null 2>&1 </dev/null &"])
    watcher.event(lambda e: (e["type"], e["reason"]) == ("Agent", "Disconnected"))
    watcher.close()
    assert vm.settled() == before
    vm.wait_agent()
    assert vm.settled() == before
    vm.stop()


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_cable_is_pulled(lab, launch, binding):
    """The node's side of the pod's NIC goes down and comes back: the guest keeps its link, address and lease, and traffic goes
    on by itself. Who looks sees it where it is: the NIC in the pod has no carrier, the guest's link is up."""
    vm = launch([{"name": "default", binding: {}, "macAddress": POD_MAC}])
    vm.wait_agent()
    before = vm.wait_address("10.244.1.5")
    lease = until(lambda: vm.domain()["vmlet"]["leases"]["default"], "a lease")
    nic = "eth0-nic" if binding == "bridge" else "eth0"
    own = vm.exec("ip -4 -o addr show dev eth0; ip -4 route")

    def reached():
        return lab.peer.exec("ping", "-c", "1", "-W", "5", "10.244.1.5", check=False).returncode == 0

    until(reached, "the guest is reached", PATIENCE)
    lab.node.ip("link", "set", lab.cable, "down")
    until(lambda: "NO-CARRIER" in lab.pod.links()[nic]["flags"], "the pod's NIC has lost its carrier")
    assert not reached()
    assert vm.exec("cat /sys/class/net/eth0/carrier").strip() == "1"
    assert vm.exec("ip -4 -o addr show dev eth0; ip -4 route") == own
    assert [n["linkState"] for n in vm.interfaces()] == ["up"]  # KubeVirt's meaning: the plug in the guest's own NIC
    lab.node.ip("link", "set", lab.cable, "up")
    until(reached, "traffic goes on", PATIENCE)
    again = vm.domain()["vmlet"]["leases"]["default"]
    assert (again["client"], again["boundAt"]) == (lease["client"], lease["boundAt"])
    assert vm.wait_address("10.244.1.5")["linkState"] == before["linkState"]
    vm.stop()


@pytest.mark.parametrize("where", ["where it shuts itself in", "where the pod's filter refuses namespaces"])
def test_passt(lab, launch, where):
    """The unprivileged binding: no tap, no bridge, no rules; the pod's own address in the guest, TCP both ways, one port in.
    The monitor's filter refuses namespaces and mounts, as a container runtime's default profile does."""
    monitored = "filter" in where
    if not monitored:
        need_user_namespaces()
    before = [n for n in lab.pod.links()]
    vm = launch([{"name": "default", "binding": {"name": "passt"}, "macAddress": POD_MAC,
                  "ports": [{"port": 80}, {"port": 5353, "protocol": "UDP"}]}], monitored=monitored)
    assert [n for n in lab.pod.links()] == before
    vm.wait_agent()
    assert vm.wait_address("10.244.1.5")["interfaceName"] == "eth0"
    Listener(lab, lab.peer, 8000, "peer")
    # A standard input that does not end: a connection that the guest has half closed stays open in this passt.
    fetch = "mkfifo /tmp/open 2>/dev/null; nc -w 30 10.244.1.6 8000 <>/tmp/open"
    assert "10.244.1.5 peer" in vm.exec(fetch)
    assert "mtu 1450" in vm.exec("ip link show dev eth0")
    assert "nameserver 10.96.0.10" in vm.exec("cat /etc/resolv.conf")
    vm.exec("(echo hello from the guest | nc -l -p 80 >/dev/null 2>&1 &)")
    assert "hello from the guest" in lab.peer.exec(
        "sh", "-c", "i=0; while [ $i -lt 600 ]; do busybox nc -w 10 10.244.1.5 80 </dev/null && break; i=$((i+1)); "
                    "busybox usleep 100000; done").stdout
    passt = [int(p) for p in run("ip", "netns", "pids", lab.pod.name).stdout.split()
             if (Path("/proc") / p / "comm").read_text().startswith("passt")]
    assert len(passt) == 1
    status = dict(line.split(":", 1) for line in Path(f"/proc/{passt[0]}/status").read_text().splitlines())
    assert status["Uid"].split()[0] == "107" and int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
    mounts = [Path(f"/proc/{pid}/ns/mnt").readlink() for pid in (passt[0], vm.process.pid)]
    assert (mounts[0] == mounts[1]) == monitored
    if monitored:
        # Its own filter came on top of ours and the monitor's.
        assert int(status["Seccomp_filters"]) > 2
        vm.stop()
        return
    # It outlives the launcher as QEMU does, and serves on.
    vm.kill()
    vm.start()
    vm.wait_agent()
    assert "10.244.1.5 peer" in vm.exec(fetch)
    vm.stop()
    until(lambda: not Path(f"/proc/{passt[0]}").exists() or "Z" in Path(f"/proc/{passt[0]}/stat").read_text(), "passt has ended")


def test_two_nics(lab, launch):
    """Masquerade on the pod network and a bridge on another one, each with a server of its own on port 67."""
    link = "pod16477688c0e"  # pod + the first 11 hex digits of sha256("blue")
    lab.node.sh("ip link add blue type bridge; ip link set blue up; ip addr add 192.168.9.1/24 dev blue")
    lab.plug(lab.pod, link, "ca:5f:48:41:7d:99", "192.168.9.5/24", bridge="blue", gateway=False)
    vm = launch([{"name": "default", "masquerade": {}, "macAddress": POD_MAC}, {"name": "blue", "bridge": {}}],
                [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "b"}}])
    vm.wait_agent()
    blue = vm.wait_address("192.168.9.5")
    assert (blue["name"], blue["mac"], blue["podInterfaceName"]) == ("blue", "ca:5f:48:41:7d:99", link)
    assert [nic["name"] for nic in vm.interfaces()] == ["default", "blue"]
    assert vm.interfaces()[0]["ipAddresses"][0] == "10.244.1.5"
    seen = vm.exec("ip -4 -o addr; ping -c 2 -W 5 192.168.9.1; ping -c 2 -W 5 192.0.2.1; ping -c 1 -W 2 -I eth1 10.244.1.6; true")
    assert "inet 10.0.2.2/24" in seen and "inet 192.168.9.5/24" in seen, seen
    assert seen.count("2 packets received") == 2 and "1 packets received" not in seen, seen
    vm.stop()


FETCH = "i=0; while [ $i -lt 600 ]; do busybox nc -w 5 {} {} </dev/null && break; i=$((i+1)); busybox usleep 200000; done"


@pytest.mark.parametrize("ports", [[], [{"port": 8080}]], ids=["every port", "one port"])
def test_masqueraded_guest_is_reached(lab, launch, ports):
    """By the pod's address, by the pod's own localhost, and by itself through the pod's address; other ports are the pod's."""
    vm = launch([{"name": "default", "masquerade": {}, "macAddress": POD_MAC, "ports": ports}])
    vm.wait_agent()
    vm.wait_address("10.244.1.5")
    for port in (8080, 8081):
        vm.exec(f"(nc -ll -p {port} -e /bin/echo guest{port} >/dev/null 2>&1 </dev/null &)")
    Listener(lab, lab.pod, 8081, "pod")
    for who, address in ((lab.peer, "10.244.1.5"), (lab.node, "10.244.1.5"), (lab.pod, "127.0.0.1")):
        assert "guest8080" in who.exec("sh", "-c", FETCH.format(address, 8080)).stdout, (who.name, address)
    assert "guest8080" in vm.exec(FETCH.format("10.244.1.5", 8080)), "hairpin"
    other = lab.peer.exec("sh", "-c", FETCH.format("10.244.1.5", 8081)).stdout
    assert ("pod" in other) if ports else ("guest8081" in other), other
    vm.stop()
