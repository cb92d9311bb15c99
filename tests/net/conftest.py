# SPDX-License-Identifier: Apache-2.0
"""A node, a gateway, two pods and a guest, each a network namespace of its own, made for one test and removed with it.

    gateway = node bridge 10.244.1.1, fd00:244::1, fe80::1 ── pod (eth0 10.244.1.5) ── k6t-eth0 ── guest
                                                            └─ peer, another pod (10.244.1.6)

The guest here is a namespace on a veth in the pod's bridge, in the place of the tap: the same frames, no emulator.
"""
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
NETSETUP = BUILD / "netsetup" / "netsetup"
SERVE = BUILD / "tests" / "net" / "net-serve"

POD_MAC = "ca:5f:48:41:7d:5d"
RESOLV = """nameserver 10.96.0.10
nameserver fd00:96::a
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""


# Emulation on a busy machine: a deadline that only a fault reaches.
PATIENCE = 120


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="not-root: network namespaces are made"))


def run(*argv, check=True, timeout=PATIENCE, **more):
    argv = [str(a) for a in argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, **more)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def until(condition, what, seconds=PATIENCE):
    """Waits for a fact that nothing can announce (the kernel's duplicate address detection, say)."""
    end = time.monotonic() + seconds
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Namespace:
    def __init__(self, name):
        self.name = name
        run("ip", "netns", "add", name)
        # Addresses are final at once: nothing here is to wait for duplicate address detection.
        self.sh("for f in all default; do echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad; "
                "echo 0 >/proc/sys/net/ipv6/conf/$f/dad_transmits; done; ip link set lo up")

    @property
    def path(self):
        return f"/var/run/netns/{self.name}"

    def exec(self, *argv, **more):
        return run("ip", "netns", "exec", self.name, *argv, **more)

    def ip(self, *argv, **more):
        return run("ip", "-n", self.name, *argv, **more).stdout

    def sh(self, script, **more):
        return self.exec("sh", "-ec", script, **more).stdout

    def popen(self, *argv, **more):
        return subprocess.Popen(["ip", "netns", "exec", self.name, *map(str, argv)], text=True, **more)

    def links(self):
        return {link["ifname"]: link for link in json.loads(self.ip("-d", "-j", "link"))}

    def addresses(self, link, family="inet"):
        data = json.loads(self.ip("-j", "addr", "show", "dev", link))
        return [f"{a['local']}/{a['prefixlen']}" for a in data[0]["addr_info"] if a["family"] == family]

    def settled(self):
        """What the kernel does behind the caller's back is done: no address waits for duplicate address detection, a link's
        state says what its carrier does, and a link with a carrier has its link-local address."""
        def quiet():
            for link in json.loads(self.ip("-j", "addr")):
                flags = link["flags"]
                if "UP" not in flags or link["ifname"] == "lo":
                    continue
                if ("LOWER_UP" in flags) == ("NO-CARRIER" in flags):
                    return False
                v6 = [a for a in link["addr_info"] if a["family"] == "inet6"]
                if any(a.get("tentative") for a in v6) or ("LOWER_UP" in flags and not any(a["scope"] == "link" for a in v6)):
                    return False
            return True

        until(quiet, f"the links of {self.name} settle")

    def dump(self):
        """All that netsetup could change. Routes are sorted: the kernel lists equal ones in the order they came."""
        self.settled()
        parts = {
            "links": re.sub(r"(timer|last_use) +[0-9.]+", r"\1", self.ip("-d", "-o", "link")),
            "addresses": self.ip("-d", "-o", "addr"),
            "routes": "\n".join(sorted(self.ip("route", "show", "table", "all").splitlines())),
            "routes6": "\n".join(sorted(self.ip("-6", "route", "show", "table", "all").splitlines())),
            "policy": self.ip("rule") + self.ip("-6", "rule"),
            "rules": self.exec("nft", "-s", "-a", "list", "ruleset").stdout,
            "sysctls": self.sh(r"grep -rs '' /proc/sys/net/ipv4 /proc/sys/net/ipv6 | "
                               r"grep -vE 'route/flush|/(base_)?(reachable|retrans)_time|stable_secret|tcp_fastopen_key'"),
        }
        return parts

    def close(self):
        """Who is still in it was started for it: a QEMU outlives its launcher, also when a test has failed."""
        for pid in run("ip", "netns", "pids", self.name, check=False).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "del", self.name, check=False)


class Lab:
    """One pod with its neighbours, and netsetup and the servers in it."""

    def __init__(self, directory):
        self.directory = directory
        self.state, self.cache = directory / "state", directory / "cache"
        self.cache.mkdir()
        os.chown(self.cache, 107, 107)
        directory.chmod(0o755)
        self.tag = f"vmlet-{secrets.token_hex(3)}"
        self.namespaces, self.processes = [], []
        try:
            self.node, self.pod, self.peer = (self.namespace(n) for n in ("node", "pod", "peer"))
            self.make_node()
            self.cable = self.plug(self.pod, "eth0", POD_MAC, "10.244.1.5/24", "fd00:244::5/64")
            self.plug(self.peer, "eth0", "ca:5f:48:41:7d:66", "10.244.1.6/24", "fd00:244::6/64")
        except BaseException:
            self.close()
            raise

    def namespace(self, name):
        made = Namespace(f"{self.tag}-{name}")
        self.namespaces.append(made)
        return made

    def make_node(self):
        self.node.sh("""
            ip link add br0 type bridge
            ip link set br0 address 02:11:22:33:44:55 mtu 1450 up
            ip addr add 10.244.1.1/24 dev br0
            ip addr add fd00:244::1/64 dev br0 nodad
            ip addr add fe80::1/64 dev br0 nodad
            sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip link add outside type bridge
            ip link set outside up
            ip addr add 192.0.2.1/32 dev outside
            ip addr add 2001:db8::1/128 dev outside nodad
        """)

    def plug(self, pod, link, mac, v4=None, v6=None, bridge="br0", gateway=True):
        """A pod's NIC, as a CNI plug-in makes it."""
        outer = f"v{secrets.token_hex(4)}"
        self.node.sh(f"""
            ip link add {outer} mtu 1450 type veth peer name {link} netns {pod.name} mtu 1450 address {mac}
            ip link set {outer} master {bridge} up
        """)
        if v4:
            pod.sh(f"ip addr add {v4} brd + dev {link}")
        if v6:
            pod.sh(f"ip addr add {v6} dev {link} nodad")
        pod.sh(f"ip link set {link} up")
        if gateway and v4:
            pod.sh("ip route add default via 10.244.1.1")
        if gateway and v6:
            pod.sh(f"ip -6 route add default via fe80::1 dev {link}")
        pod.settled()
        return outer

    def manifest(self, interfaces=None, networks=None, **spec):
        """A VMI with these interfaces; a name for short: bridge or masquerade on the pod network."""
        if isinstance(interfaces, str):
            interfaces = [{"name": "default", interfaces: {}}]
        networks = networks or [{"name": "default", "pod": {}}]
        devices = {"interfaces": interfaces, **spec.pop("devices", {})}
        vmi = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"name": "testvm", "namespace": "default", "uid": "9eae133d-5264-4040-9261-2ff5827e9540",
                         "annotations": spec.pop("annotations", {})},
            "spec": {"domain": {"memory": {"guest": "256Mi"}, "devices": devices, **spec.pop("domain", {})},
                     "networks": networks, **spec},
        }
        path = self.directory / "vmi.json"
        path.write_text(json.dumps(vmi))
        return path

    def netsetup(self, command, manifest, *more, check=True, where=None):
        done = run(NETSETUP, command, manifest, "--netns", (where or self.pod).path, "--state-dir", self.state,
                   "--cache-dir", self.cache, *more, check=False)
        if check and done.returncode:
            raise AssertionError(f"netsetup {command} exited with {done.returncode}\n{done.stderr}")
        return done

    def plan(self, manifest, *more):
        return json.loads(self.netsetup("plan", manifest, "--json", *more).stdout)

    def with_tun(self, resolv=None):
        """What a program is started by that is to see /dev/net/tun as a pod does: there, and the launcher's to open; and the
        pod's resolv.conf."""
        node = self.directory / "tun"
        if not node.exists():
            os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
            os.chown(node, 107, 107)
        more = f"mount --bind {resolv} /etc/resolv.conf; " if resolv else ""
        return ["unshare", "-m", "sh", "-ec", f'mount --bind {node} /dev/net/tun; {more}exec "$0" "$@"']

    def serve(self, manifest, hostname="testvm", resolv=RESOLV, lease=None):
        """The servers of the launcher, as uid 107, with leases of so many seconds; ready when this returns."""
        (self.directory / "resolv.conf").write_text(resolv)
        state = self.directory / "dhcp.json"
        if not state.exists():
            state.touch()
        os.chown(state, 107, 107)
        log = open(self.directory / "serve.log", "a")
        process = self.pod.popen(*self.with_tun(), SERVE, manifest, self.cache, self.directory / "resolv.conf", hostname,
                                 state, stdout=subprocess.PIPE, stderr=log,
                                 env={**os.environ, **({"SERVE_LEASE_SECONDS": str(lease)} if lease else {})})
        self.processes.append(process)
        assert process.stdout.readline() == "ready\n", (self.directory / "serve.log").read_text()
        return process

    def stop(self, process):
        """Ends one of ours, and gives back what it left as state."""
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, (self.directory / "serve.log").read_text()
        return json.loads((self.directory / "dhcp.json").read_text())

    def guest(self, mac, bridge="k6t-eth0", name="guest"):
        """A namespace whose eth0 is in the pod's bridge with the guest's MAC."""
        made = self.namespace(name)
        outer = f"g{secrets.token_hex(3)}"
        mtu = self.pod.links()[bridge]["mtu"]
        self.pod.sh(f"""
            ip link add {outer} mtu {mtu} type veth peer name eth0 netns {made.name} mtu {mtu} address {mac}
            ip link set {outer} master {bridge} up
        """)
        made.sh("ip link set eth0 up")
        made.settled()
        return made

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for namespace in self.namespaces:
            namespace.close()


@pytest.fixture
def lab():
    directory = Path(tempfile.mkdtemp(prefix="vmlet-net-"))  # pytest's own can be entered by root alone, not by uid 107
    made = Lab(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


UDHCPC_SCRIPT = r"""#!/bin/sh
# Sets what the lease says, and leaves the lease as KEY=VALUE lines.
case "$1" in
deconfig) ip -4 addr flush dev "$interface" ;;
bound|renew)
    ip -4 addr flush dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    ip addr add "$ip/$mask" dev "$interface"
    if [ -n "$staticroutes" ]; then
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            [ "$2" = 0.0.0.0 ] && ip route replace "$1" dev "$interface" || ip route replace "$1" via "$2" dev "$interface"
            shift 2
        done
    elif [ -n "$router" ]; then
        ip route replace default via "$router" dev "$interface"
    fi
    env >"$LEASE.new"; mv "$LEASE.new" "$LEASE" ;;
esac
"""


@pytest.fixture
def udhcpc(lab):
    """Runs busybox's client in a guest until it has a lease; gives the lease's variables."""
    script = lab.directory / "udhcpc.sh"
    script.write_text(UDHCPC_SCRIPT)
    script.chmod(0o755)

    def ask(guest, *more, check=True):
        lease = lab.directory / f"lease-{guest.name}"
        lease.unlink(missing_ok=True)
        done = guest.exec("env", f"LEASE={lease}", "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "6", "-T", "1",
                          "-O", "search", "-O", "mtu", "-O", "staticroutes", "-O", "ntpsrv", "-O", "tftp", "-O", "bootfile",
                          "-O", "232", "-s", script, *more, check=check)
        values = dict(line.split("=", 1) for line in lease.read_text().splitlines() if "=" in line) if lease.exists() else {}
        return values if check else (done, values)

    return ask


def command_is_there(name):
    return shutil.which(name) is not None
