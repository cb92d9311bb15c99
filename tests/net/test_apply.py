# SPDX-License-Identifier: Apache-2.0
"""netsetup apply and teardown in real namespaces."""
import contextlib
import json
import os
import resource
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from conftest import NETSETUP, PATIENCE, POD_MAC, run, until

TWO = [{"name": "default", "masquerade": {}}, {"name": "blue", "bridge": {}}]
TWO_NETWORKS = [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "blue-conf"}}]
BLUE = "pod16477688c0e"  # pod + the first 11 hex digits of sha256("blue")


def calico(lab):
    """A /32 address, and a gateway that only a route on the link leads to: it must come back first."""
    lab.pod.sh("ip addr flush dev eth0 scope global; ip addr add 10.233.90.7/32 dev eth0; ip route add 169.254.1.1 dev eth0 "
               "scope link; ip route add default via 169.254.1.1; ip route add 10.8.0.0/16 via 169.254.1.1; "
               "ip -6 addr add fd00:244::7/128 dev eth0 nodad; ip -6 route add fd00:9::1 dev eth0; "
               "ip -6 route replace default via fd00:9::1 dev eth0")
    return lab.manifest("bridge")


def ipv6_only(lab, binding):
    lab.pod.sh("ip -4 addr flush dev eth0")
    return lab.manifest(binding)


def many_routes(lab):
    """What a CNI plug-in may give a pod beside its default route (CNI's route objects have mtu, advmss, table, priority)."""
    lab.pod.sh("""
        ip route replace default via 10.244.1.1 dev eth0 mtu 1400 advmss 1360
        ip route add default via 10.244.1.2 dev eth0 metric 700
        ip route add 10.20.0.0/16 via 10.244.1.2 dev eth0 mtu lock 1300
        ip route add 10.30.0.0/16 dev eth0 scope link
        ip route add 10.40.0.0/16 nexthop via 10.244.1.2 dev eth0 weight 2 nexthop via 10.244.1.3 dev eth0
        ip route add 10.50.0.0/16 via 10.244.1.2 dev eth0 table 100
        ip -6 route add fd00:20::/48 via fd00:244::2 dev eth0 mtu 1280
        ip rule add from 10.244.1.5 table 100
    """)
    return lab.manifest("bridge")


def gateway_by_ipv6(lab):
    """RTA_VIA (RFC 5549): IPv4 by a neighbour that has IPv6 alone, as some CNI plug-ins on routed fabrics have it."""
    lab.pod.sh("""
        ip -4 route replace default via inet6 fe80::1 dev eth0
        ip route add 10.20.0.0/16 via inet6 fd00:244::2 dev eth0 metric 7
        ip route add 10.30.0.0/16 via 10.244.1.2
        ip route add 10.40.0.0/16 nexthop via inet6 fe80::2 dev eth0 nexthop via 10.244.1.3 dev eth0 weight 3
    """)
    return lab.manifest("bridge")


def mtu(lab, size, binding):
    lab.pod.sh(f"ip link set eth0 mtu {size}")
    return lab.manifest(binding)


def has_dummy(lab):
    return run("ip", "-n", lab.node.name, "link", "add", "d0", "type", "dummy", check=False).returncode == 0


def test_bridge_is_the_link_list_of_the_documents(lab):
    lab.netsetup("apply", lab.manifest("bridge"))
    links = lab.pod.links()
    assert [n for n in links if n != "lo"] == ["eth0-nic", "k6t-eth0", "tap0", "ra0", "eth0"]
    for name in ("eth0-nic", "k6t-eth0", "tap0", "eth0"):
        assert links[name]["mtu"] == 1450
    assert links["eth0-nic"]["master"] == links["tap0"]["master"] == "k6t-eth0"
    assert links["eth0-nic"]["address"] == links["k6t-eth0"]["address"] != POD_MAC
    assert links["eth0"]["address"] == POD_MAC and "UP" not in links["eth0"]["flags"]
    assert links["eth0"]["linkinfo"]["info_kind"] == ("dummy" if has_dummy(lab) else "ifb")
    assert links["eth0"]["flags"] == ["BROADCAST", "NOARP"]
    tap = links["tap0"]["linkinfo"]["info_data"]
    assert tap["user"] in ("107", 107, "qemu") or str(tap["user"]) and tap["persist"]
    assert lab.pod.addresses("k6t-eth0") == ["169.254.75.10/32"]
    assert lab.pod.addresses("eth0") == ["10.244.1.5/24"]
    assert lab.pod.addresses("eth0-nic") == []
    port = json.loads(lab.pod.exec("bridge", "-d", "-j", "link", "show", "dev", "eth0-nic").stdout)[0]
    assert port["learning"] is False
    assert lab.pod.sh("cat /proc/sys/net/ipv4/conf/all/arp_ignore").strip() == "1"


def test_bridge_without_ipv6_has_no_more_than_that_list(lab):
    lab.pod.sh("ip -6 addr del fd00:244::5/64 dev eth0")
    lab.netsetup("apply", lab.manifest("bridge"))
    assert [n for n in lab.pod.links() if n != "lo"] == ["eth0-nic", "k6t-eth0", "tap0", "eth0"]


def test_masquerade_links(lab):
    lab.netsetup("apply", lab.manifest("masquerade"))
    links = lab.pod.links()
    assert links["k6t-eth0"]["address"] == "02:00:00:00:00:00"
    assert lab.pod.addresses("k6t-eth0") == ["10.0.2.1/24"]
    assert "fd10:0:2::1/120" in lab.pod.addresses("k6t-eth0", "inet6")
    assert lab.pod.addresses("eth0") == ["10.244.1.5/24"]
    rules = lab.pod.exec("nft", "list", "table", "ip", "nat").stdout
    assert "KUBEVIRT_PREINBOUND" in rules and "dnat to 10.0.2.2" in rules
    assert "fd10:0:2::2" in lab.pod.exec("nft", "list", "table", "ip6", "nat").stdout


CASES = {
    "bridge": lambda lab: lab.manifest("bridge"),
    "masquerade": lambda lab: lab.manifest("masquerade"),
    "masquerade with ports": lambda lab: lab.manifest(
        [{"name": "default", "masquerade": {}, "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}]),
    "off-link gateway": calico,
    "IPv6 only, masquerade": lambda lab: ipv6_only(lab, "masquerade"),
    "IPv6 only, bridge": lambda lab: ipv6_only(lab, "bridge"),
    "many routes": many_routes,
    "IPv4 by an IPv6 gateway": gateway_by_ipv6,
    "MTU 9000": lambda lab: mtu(lab, 9000, "bridge"),
    "MTU 1280": lambda lab: mtu(lab, 1280, "masquerade"),
    "passt": lambda lab: lab.manifest([{"name": "default", "binding": {"name": "passt"}}]),
    "two networks": lambda lab: (
        lab.plug(lab.pod, BLUE, "ca:5f:48:41:7d:99", "192.168.9.5/24", gateway=False), lab.manifest(TWO, TWO_NETWORKS))[1],
}


@pytest.fixture(params=CASES)
def case(request, lab):
    lab.pod.sh("ip route add 10.8.0.0/16 via 10.244.1.1 src 10.244.1.5 metric 5; ip addr add 10.244.1.55/24 dev eth0; "
               "ip route add 10.9.9.9/32 dev eth0 scope link; ip addr add 10.244.1.56/24 dev eth0 label eth0:x; "
               "ip addr add fd00:244::77/64 dev eth0 nodad preferred_lft 0")
    return CASES[request.param](lab)


def test_teardown_restores_the_last_address_and_route(lab, case):
    before = lab.pod.dump()
    lab.netsetup("apply", case)
    assert lab.pod.dump() != before
    lab.netsetup("teardown", case)
    assert lab.pod.dump() == before
    assert list(lab.state.iterdir()) == [] and list(lab.cache.iterdir()) == []
    lab.netsetup("apply", case)
    lab.netsetup("teardown", case)
    assert lab.pod.dump() == before


def test_failure_at_every_step_restores(lab, case):
    before = lab.pod.dump()
    steps = len(lab.plan(case)["steps"])
    assert steps > 1
    for step in range(1, steps + 2):
        done = lab.netsetup("apply", case, "--fail-at", step, check=False)
        assert done.returncode == 1
        assert "for a test" in done.stderr and "could not be restored" not in done.stderr
        assert step == steps + 1 or f"step {step} of {steps}" in done.stderr
        assert lab.pod.dump() == before, f"after a failure at step {step}"
        assert list(lab.state.iterdir()) == [] and list(lab.cache.iterdir()) == []
    lab.netsetup("apply", case)  # nothing was left that is in the way


def test_second_apply_changes_nothing(lab, case):
    """…and nothing flaps: the kernel has no event to tell."""
    lab.netsetup("apply", case)
    after = lab.pod.dump()
    path = lab.directory / "monitor"
    monitor = lab.pod.popen("ip", "monitor", "link", "address", "route", stdout=open(path, "w"))
    lab.processes.append(monitor)

    def mark(address):
        """An event of our own: what the kernel told before it has been written down."""
        def seen():
            lab.pod.sh(f"ip addr add {address}/32 dev lo; ip addr del {address}/32 dev lo")
            return f"Deleted local {address} " in path.read_text()
        until(seen, "the monitor listens")

    mark("127.1.1.1")
    start = len(path.read_text())
    lab.netsetup("apply", case)
    mark("127.2.2.2")
    told = [line for line in path.read_text()[start:].splitlines() if "127.1.1.1" not in line and "127.2.2.2" not in line
            and not line.startswith(" ")]
    assert told == []
    assert lab.pod.dump() == after


def test_link_that_vanishes(lab):
    manifest = lab.manifest("bridge")
    lab.netsetup("apply", manifest)
    lab.pod.sh("ip link del eth0-nic")
    done = lab.netsetup("apply", manifest, check=False)
    assert done.returncode == 1 and "left by something that failed" in done.stderr
    lab.netsetup("teardown", manifest, check=False)
    assert [n for n in lab.pod.links() if n != "lo"] == []


def test_started_and_not_finished_is_critical(lab):
    manifest = lab.manifest("bridge")
    before = lab.pod.dump()
    lab.netsetup("apply", manifest)
    state = json.loads((lab.state / "eth0").read_text())
    assert state == {"iface": {"name": "default"}, "podIP": "10.244.1.5", "podIPs": ["10.244.1.5", "fd00:244::5"],
                     "networkState": 2}
    (lab.state / "eth0").write_text(json.dumps({**state, "networkState": 1}))
    done = lab.netsetup("apply", manifest, check=False)
    assert done.returncode == 1 and "started and not finished" in done.stderr
    lab.netsetup("teardown", manifest)
    assert lab.pod.dump() == before


@pytest.mark.parametrize("count", [1, 8, 9, 15, 26])
def test_killed_half_way(lab, count):
    """The journal was written before the first step: teardown undoes as much as was done, and no more."""
    manifest = lab.manifest("bridge")
    before = lab.pod.dump()
    journal = lab.directory / "keep"
    lab.netsetup("apply", manifest)
    journal.write_bytes((lab.state / "journal.json").read_bytes())
    lab.netsetup("teardown", manifest)
    (lab.state / "journal.json").write_bytes(journal.read_bytes())
    (lab.state / "eth0").write_text('{"networkState": 1}')
    # What the first steps of the plan leave, by hand.
    steps = lab.plan(manifest)["steps"][:count]
    for step in steps:
        if step["op"] == "link-down":
            lab.pod.ip("link", "set", step["link"], "down")
        elif step["op"] == "link-up":
            lab.pod.ip("link", "set", step["link"], "up")
        elif step["op"] == "link-rename":
            lab.pod.ip("link", "set", step["link"], "name", step["value"])
        elif step["op"] == "link-mac":
            lab.pod.ip("link", "set", step["link"], "address", step["value"])
        elif step["op"] == "route-delete":
            lab.pod.ip("route", "del", step["route"]["to"], "dev", step["link"])
        elif step["op"] == "address-delete":
            lab.pod.ip("addr", "del", step["address"]["address"], "dev", step["link"])
        elif step["op"] == "bridge-add":
            lab.pod.ip("link", "add", step["link"], "type", "bridge")
        elif step["op"] == "tap-add":
            lab.pod.ip("tuntap", "add", step["link"], "mode", "tap")
    lab.netsetup("teardown", manifest)
    assert lab.pod.dump() == before


def test_links_that_are_not_ours(lab):
    lab.pod.sh("ip link add k6t-eth0 type bridge; ip tuntap add tap0 mode tap")
    before = lab.pod.dump()
    done = lab.netsetup("apply", lab.manifest("masquerade"), check=False)
    assert done.returncode == 1 and "does not say that they were made for it" in done.stderr
    assert lab.pod.dump() == before


@pytest.mark.parametrize("first, second", [("bridge", "masquerade"), ("masquerade", "bridge"), ("bridge", "bridge")])
def test_second_vm_in_the_same_pod(lab, first, second):
    """Refused, and told why and what to do; the first one's network stays as it is, and is still the first one's."""
    lab.netsetup("apply", lab.manifest(first))
    mine = (lab.directory / "vmi.json").read_text()
    after = lab.pod.dump()
    other = lab.directory / "other.json"
    vmi = json.loads(lab.manifest(second).read_text())
    vmi["metadata"].update(name="second", uid="11111111-5264-4040-9261-2ff5827e9540")
    other.write_text(json.dumps(vmi))
    command = [NETSETUP, "apply", other, "--netns", lab.pod.path, "--cache-dir", lab.cache, "--state-dir"]
    for state in (lab.directory / "state2", lab.state):  # its own, as by its uid; and by mistake the first one's
        done = run(*command, state, check=False)
        said = json.loads(done.stderr)
        assert done.returncode == 1 and "default_second" in said["reason"], done.stderr
        assert "serves one VM" in said["reason"] + said["remedy"], done.stderr
        assert lab.pod.dump() == after
    assert run(NETSETUP, "teardown", other, "--netns", lab.pod.path, "--cache-dir", lab.cache, "--state-dir",
               lab.directory / "state2", check=False).returncode == 0
    assert lab.pod.dump() == after
    (lab.directory / "vmi.json").write_text(mine)
    lab.netsetup("apply", lab.directory / "vmi.json")
    lab.netsetup("teardown", lab.directory / "vmi.json")
    assert lab.pod.links().keys() == {"lo", "eth0"}


def test_names_that_are_not_ascii(lab):
    """The schema's names are ASCII, as Kubernetes': refused by name and place, in the text as it was written."""
    manifest = lab.manifest([{"name": "näme", "masquerade": {}}], [{"name": "näme", "pod": {}}])
    vmi = json.loads(manifest.read_text())
    vmi["metadata"]["name"] = "größe"
    manifest.write_text(json.dumps(vmi, ensure_ascii=False))
    before = lab.pod.dump()
    done = lab.netsetup("apply", manifest, check=False)
    assert done.returncode == 2
    told = [line.partition("vmi.json:")[2].partition(": ")[2] for line in done.stderr.splitlines()]
    for path, name in (("metadata.name", "größe"), ("spec.domain.devices.interfaces[0].name", "näme"), ("spec.networks[0].name", "näme")):
        assert any(line.startswith(f'{path}: "{name}" must be ') for line in told), done.stderr
    assert lab.pod.dump() == before


def test_missing_link_is_named(lab):
    done = lab.netsetup("apply", lab.manifest(TWO, TWO_NETWORKS), check=False)
    assert done.returncode == 1 and f"no link {BLUE} for network blue" in done.stderr


def test_ordinal_names(lab):
    lab.plug(lab.pod, "net1", "ca:5f:48:41:7d:99", "192.168.9.5/24", gateway=False)
    lab.netsetup("apply", lab.manifest(TWO, TWO_NETWORKS))
    assert {"net1-nic", "k6t-net1", "tap1", "net1"} <= set(lab.pod.links())
    assert lab.pod.addresses("k6t-net1") == ["169.254.75.11/32"]


def test_interface_added_later(lab):
    """Hotplug: what is there stays, what is new is made, and teardown takes both away."""
    before = lab.pod.dump()
    lab.netsetup("apply", lab.manifest("masquerade"))
    lab.plug(lab.pod, BLUE, "ca:5f:48:41:7d:99", "192.168.9.5/24", gateway=False)
    both = lab.manifest(TWO, TWO_NETWORKS)
    lab.netsetup("apply", both)
    assert "k6t-16477688c0e" in lab.pod.links()
    lab.netsetup("teardown", both)
    lab.pod.sh(f"ip link del {BLUE}")
    assert lab.pod.dump() == before


def test_nft_table_of_somebody_else_stays(lab):
    lab.pod.sh("nft add table ip nat; nft add chain ip nat THEIRS; nft add rule ip nat THEIRS counter accept")
    manifest = lab.manifest("masquerade")
    lab.netsetup("apply", manifest)
    lab.netsetup("teardown", manifest)
    rules = lab.pod.exec("nft", "list", "ruleset").stdout
    assert "THEIRS" in rules and "KUBEVIRT" not in rules and "postrouting" not in rules


def test_journal_that_was_changed_is_refused(lab):
    manifest = lab.manifest("masquerade")
    lab.netsetup("apply", manifest)
    after = lab.pod.dump()
    path = lab.state / "journal.json"
    good = json.loads(path.read_text())
    for bad in (
        {"op": "link-delete", "link": "somebody", "value": "bridge"},
        {"op": "sysctl", "link": "kernel/core_pattern", "value": "1"},
        {"op": "sysctl", "link": "net/ipv4/../../kernel/panic", "value": "1"},
        {"op": "nft", "link": "k6t-eth0", "rules": {"nftables": [{"flush": {"ruleset": None}}]}},
        {"op": "exec", "link": "eth0"},
    ):
        path.write_text(json.dumps({**good, "undo": [*good["undo"], bad]}))
        done = lab.netsetup("teardown", manifest, check=False)
        assert done.returncode == 1, bad
        assert lab.pod.dump() == after, bad
    path.write_text(json.dumps(good))
    lab.netsetup("teardown", manifest)


def test_cache_is_written_as_the_launcher(lab):
    """A link that the launcher laid leads the privileged part nowhere."""
    victim = lab.directory / "victim"
    victim.write_text("untouched")
    victim.chmod(0o600)
    (lab.cache / "vif-cache-eth0.json").symlink_to(victim)
    lab.netsetup("apply", lab.manifest("masquerade"))
    cache = lab.cache / "vif-cache-eth0.json"
    assert victim.read_text() == "untouched"
    assert not cache.is_symlink() and cache.stat().st_uid == 107
    got = json.loads(cache.read_text())
    assert got["vmlet"]["podIPs"] == ["10.244.1.5", "fd00:244::5"]
    assert got["IP"] == "10.0.2.2/24" and got["AdvertisingIPAddr"] == "10.0.2.1" and got["Mtu"] == 1450
    (lab.cache / ".vif-cache-eth0.json.new").symlink_to(victim)
    lab.netsetup("teardown", lab.directory / "vmi.json")
    lab.netsetup("apply", lab.directory / "vmi.json")
    assert victim.read_text() == "untouched"


def test_pid_of_a_pod(lab):
    """--pid: the namespace and the root directory of a process in the pod."""
    process = lab.pod.popen("sleep", "1000")
    lab.processes.append(process)
    pid = until(lambda: os.path.exists(f"/proc/{process.pid}/ns/net") and process.pid, "the process is there")
    until(lambda: os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(lab.pod.path).st_ino, "it is in the pod")
    manifest = lab.manifest("bridge")
    run(NETSETUP, "apply", manifest, "--pid", pid, "--state-dir", lab.state, "--cache-dir", lab.cache)
    assert "tap0" in lab.pod.links()
    run(NETSETUP, "teardown", manifest, "--pid", pid, "--state-dir", lab.state, "--cache-dir", lab.cache)
    assert "tap0" not in lab.pod.links()


def test_without_net_admin(lab):
    done = lab.pod.exec("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", NETSETUP, "apply", lab.manifest("bridge"),
                        "--state-dir", lab.state, "--cache-dir", lab.cache, check=False)
    assert done.returncode == 3 and "CAP_NET_ADMIN" in done.stderr


def test_what_is_given_up_before_the_manifest_is_read(lab):
    """The manifest is a pipe that nobody has written to yet: what the process may do while it waits for it."""
    pipe = lab.directory / "vmi.pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen([NETSETUP, "apply", pipe, "--netns", lab.pod.path, "--state-dir", lab.state, "--cache-dir", lab.cache],
                               stderr=subprocess.PIPE, text=True)
    lab.processes.append(process)

    def status():
        return dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line)

    until(lambda: status()["Seccomp"].strip() == "2", "the filter is loaded")
    until(lambda: status()["State"].startswith("S"), "it waits for the pipe")
    now = status()
    net_admin = 1 << 12  # linux/capability.h
    assert [int(now[k], 16) for k in ("CapEff", "CapPrm", "CapBnd")] == [net_admin] * 3
    assert [int(now[k], 16) for k in ("CapInh", "CapAmb")] == [0, 0]
    assert now["NoNewPrivs"].strip() == "1"
    writers = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(writers) == 1  # what writes into the launcher's folder: as its owner, with no capability at all
    child = dict(line.split(":\t", 1) for line in Path(f"/proc/{writers[0]}/status").read_text().splitlines() if ":\t" in line)
    assert int(child["CapEff"], 16) == 0 and child["Uid"].split() == ["107"] * 4 and child["NoNewPrivs"].strip() == "1"
    before = lab.pod.dump()
    pipe.write_text("{")  # opens it, and what comes is no manifest
    assert process.wait(PATIENCE) == 2 and "vmi.pipe" in process.stderr.read()
    assert lab.pod.dump() == before


def test_multiqueue_tap_can_be_opened_by_its_owner(lab):
    manifest = lab.manifest("bridge", devices={"networkInterfaceMultiqueue": True}, domain={"cpu": {"cores": 2}})
    plan = lab.plan(manifest)
    assert plan["interfaces"][0]["queues"] == 2
    lab.netsetup("apply", manifest)
    script = """
import fcntl, os, struct
for _ in range(2):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | 0x4000 | 0x0100))
    globals().setdefault("kept", []).append(fd)
"""
    user = ["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    lab.pod.exec(*lab.with_tun(), *user, "/usr/bin/python3", "-c", script)
    other = ["setpriv", "--reuid=108", "--regid=108", "--groups=107", "--bounding-set=-all", "--inh-caps=-all"]
    os.chmod(lab.directory / "tun", 0o666)
    assert lab.pod.exec(*lab.with_tun(), *other, "/usr/bin/python3", "-c", script, check=False).returncode != 0


@contextlib.contextmanager
def first_in_line():
    """This process, and what it starts, before all others on a processor; False where that is not allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.parametrize("binding", ["bridge", "masquerade"])
def test_apply_takes_no_time(lab, binding):
    """At most 15 ms for one interface, both families. Beside other work the same instructions take a processor longer (its
    cores and caches are shared), and being first in line for one does not help against the kernel's own locks: there
    the least is judged. The median, and the clock, where the machine does nothing else."""
    manifest = lab.manifest(binding)
    argv = [NETSETUP, "apply", manifest, "--netns", lab.pod.path, "--state-dir", lab.state, "--cache-dir", lab.cache]
    clock, processor, load = [], [], os.getloadavg()[0]
    for _ in range(11):
        with first_in_line() as is_first:
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(argv, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            clock.append((time.monotonic() - start) * 1000)
        processor.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
        lab.netsetup("teardown", manifest)
    clock, processor = sorted(clock), sorted(processor)
    print(f"apply, {binding}, IPv4 and IPv6: {[round(t, 1) for t in clock]} ms, "
          f"of it on a processor: {[round(t, 1) for t in processor]} ms")
    assert processor[0] <= 15
    if load < 1 and "PYTEST_XDIST_WORKER" not in os.environ:  # no other test runs beside this one
        assert statistics.median(processor) <= 15
        assert not is_first or clock[len(clock) // 4] <= 15
