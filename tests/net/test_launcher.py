# SPDX-License-Identifier: Apache-2.0
"""virt-launcher in a pod's namespace that netsetup prepared: uid 107, no capability but NET_BIND_SERVICE, a real guest."""
import json
import os
import shutil
import signal
import socket
import subprocess

import pytest
from conftest import BUILD, POD_MAC, until
from test_guest import image

LAUNCHER = BUILD / "src" / "launcher" / "virt-launcher"
UNPRIVILEGED = [
    "setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all,+net_bind_service",
    "--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service", "--no-new-privs",
]


def call(path, method, **params):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(str(path))
        s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        answer = json.loads(s.makefile().readline())
    assert "result" in answer, answer
    return answer["result"]


@pytest.mark.parametrize("binding", ["masquerade", "bridge"])
def test_launcher_gives_the_guest_its_address(lab, binding):
    kernel = image()
    boot = lab.directory / "cd" / "kernel-boot"
    boot.mkdir(parents=True)
    # 107 cannot enter root's cache: copies, not links
    for option, name in ((1, "vmlinuz"), (3, "initrd.img")):
        (boot / name).write_bytes(kernel[option].read_bytes())
    manifest = lab.manifest(
        [{"name": "default", binding: {}, "macAddress": POD_MAC}],
        domain={"firmware": {"kernelBoot": {
            "kernelArgs": "console=ttyS0 quiet",
            "container": {"image": "x", "kernelPath": "/vmlinuz", "initrdPath": "/initrd.img"}}}},
    )
    lab.netsetup("apply", manifest)
    dirs = {name: lab.directory / name for name in ("share", "eph", "cd", "hp", "ed")}
    for path in dirs.values():
        path.mkdir(exist_ok=True)
        os.chown(path, 107, 107)
    log = lab.directory / "launcher.log"
    launcher = shutil.copy2(LAUNCHER, lab.directory)  # the build may be below a folder that 107 cannot enter
    process = lab.pod.popen(
        *lab.with_tun(), *UNPRIVILEGED, "env", f"STANDALONE_VMI={manifest.read_text()}", "VMLET_CACHE_DIR=/nonexistent",
        launcher, "--name", "testvm", "--allow-emulation", "--run-as-nonroot",
        "--kubevirt-share-dir", dirs["share"], "--private-dir", lab.cache, "--ephemeral-disk-dir", dirs["eph"],
        "--container-disk-dir", dirs["cd"], "--hotplug-disk-dir", dirs["hp"], "--empty-disk-dir", dirs["ed"],
        stdout=subprocess.DEVNULL, stderr=open(log, "w"),
    )
    lab.processes.append(process)
    command = dirs["share"] / "sockets" / "launcher-sock"

    def agent():
        assert process.poll() is None, log.read_text()
        return command.exists() and call(command, "GetDomain").get("vmlet", {}).get("agentConnected")

    until(agent, "the agent answers", 120)
    address = "10.0.2.2" if binding == "masquerade" else "10.244.1.5"

    def addressed():
        found = call(command, "GetDomain")["domain"]["Status"]["Interfaces"]
        return any(address in nic.get("IPs", []) for nic in found)

    until(addressed, f"the guest has {address}", 60)
    ping = lab.peer.exec("ping", "-c", "2", "-W", "5", "10.244.1.5").stdout
    assert "2 received" in ping or "2 packets received" in ping, ping
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, log.read_text()
    assert "the guest shut down" in log.read_text()
