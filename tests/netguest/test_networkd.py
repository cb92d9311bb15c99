# SPDX-License-Identifier: Apache-2.0
"""A whole Debian with systemd-networkd behind the links that netsetup made and the launcher's servers."""
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests" / "net"))
from conftest import BUILD, POD_MAC, lab, pytest_collection_modifyitems  # noqa: E402, F401
from test_traffic import Listener  # noqa: E402

VMLET = BUILD / "src" / "vmlet" / "vmlet"

# cloud-init's own description, so that it renders systemd-networkd's through netplan.
NETWORK = """version: 2
ethernets:
  nic:
    match: {name: "en*"}
    dhcp4: true
    dhcp6: true
"""

# Each line of output is looked for below; what fails leaves its line out.
SCRIPT = r"""bash <<'END'
cloud-init status --wait >/dev/null
for i in $(seq 100); do networkctl --no-legend list | grep -q routable && ip -6 addr | grep -q fd && break; sleep 1; done
systemctl is-active systemd-networkd
ip -o addr; ip route; ip -6 route
echo; cat /run/systemd/netif/leases/*; cat /run/systemd/netif/links/*
dev=$(ls /sys/class/net | grep '^en' | head -n1)
echo "mtu $(cat /sys/class/net/$dev/mtu)"
# a pause where a neighbour is still unknown: the first packet may wait
ping -c 3 -W 5 192.0.2.1 >/dev/null && echo ping4
ping -c 3 -W 5 -M do -s 1422 192.0.2.1 >/dev/null && echo full-size
ping -c 1 -W 5 -M do -s 1423 192.0.2.1 >/dev/null 2>&1 || echo no-more
ping -c 3 -W 5 2001:db8::1 >/dev/null && echo ping6
exec 3<>/dev/tcp/10.244.1.6/8000 && head -c 100 <&3
exec 3<>/dev/tcp/fd00:244::6/8000 && head -c 100 <&3
networkctl renew $dev && echo renewed
ping -c 3 -W 5 192.0.2.1 >/dev/null && echo still-there
true
END
"""


@pytest.fixture(scope="session")
def disk():
    done = subprocess.run([TOP / "tests/guest/build-debian"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_debian_takes_its_addresses(lab, disk, binding):  # noqa: F811
    manifest = lab.manifest(
        [{"name": "default", binding: {}, "macAddress": POD_MAC}],
        devices={"disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "seed", "disk": {"bus": "virtio"}}], "rng": {}},
        volumes=[{"name": "root", "containerDisk": {"image": "registry.example/debian:12"}},
                 {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config\nhostname: testvm\n", "networkData": NETWORK}}],
        domain={"memory": {"guest": "1Gi"}, "cpu": {"cores": 2}})
    lab.netsetup("apply", manifest)
    server = lab.serve(manifest)
    Listener(lab, lab.peer, 8000, "peer")
    done = lab.pod.exec(VMLET, "smoke", manifest, "--disk", f"root={disk}", "--accel", "tcg", "--timeout", "14m", "--net", "tap:tap0",
                        "--state-dir", lab.directory / "vms", "--exec", SCRIPT, check=False, timeout=880)
    out = done.stdout
    assert done.returncode == 0, out + done.stderr
    v4, v6, gateway = (("10.0.2.2/24", "fd10:0:2::2/128", "10.0.2.1") if binding == "masquerade"
                       else ("10.244.1.5/24", "fd00:244::5/128", "10.244.1.1"))
    router = "fe80::ff:fe00:0" if binding == "masquerade" else "fe80::1"
    assert out.startswith("active\n"), out
    for fact in (f"inet {v4}", f"inet6 {v6}", f"default via {gateway}", f"default via {router}", "mtu 1450", "10.96.0.10",
                 "fd00:96::a", "default.svc.cluster.local", "ping4", "full-size", "no-more", "ping6", "10.244.1.5 peer",
                 "fd00:244::5 peer", "renewed", "still-there"):
        assert fact in out, f"{fact} is missing\n{out}"
    state = lab.stop(server)["k6t-eth0"]
    assert state["client"] == POD_MAC and state["refused"] == 0
