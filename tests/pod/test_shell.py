# SPDX-License-Identifier: Apache-2.0
"""qmp-shell inside the pod, as `kubectl exec` runs it: no argument but what is asked; through the command server."""
import json
import shutil
import subprocess

import pytest
from conftest import BUILD
from test_launcher import PATIENCE, UID, start, ubuntu  # noqa: F401
from vmlet_lab import initramfs, wait_until  # noqa: F401

SHELL = BUILD / "qmp" / "qmp-shell"


class Shell:
    def __init__(self, pod):
        self.pod = pod
        shutil.copy2(SHELL, pod.bin)

    def run(self, *arguments):
        enter = ["nsenter", "--target", str(self.pod.launcher), "--user", "--preserve-credentials", "--mount", "--pid", "--net",
                 "--ipc", "--uts", "--wd=/"]
        return subprocess.run([*enter, "/mnt/bin/qmp-shell", *arguments], capture_output=True, text=True, timeout=PATIENCE,
                              check=False)

    def ask(self, *lines):
        done = self.run("--json", *[word for line in lines for word in ("-c", line)])
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def pod(start):  # noqa: F811
    made = start()
    client = made.boot()
    made.wait_agent(client)
    # the last of the agent's first answers: each is an event, which the shell would show between its own
    wait_until(lambda: "fsFreezeStatus" in client.ok("GetGuestInfo")["guestInfoResponse"], "the agent told all")
    made.shell = Shell(made)
    made.client_of_test = client
    return made


def test_finds_the_pods_vm(pod):
    info, state, argv, disks, nics = pod.shell.ask("dominfo", "domstate", "argv", "domblklist", "domiflist")
    assert info["name"] == "default_ubuntu-amd" and info["memory-bytes"] == 256 << 20
    assert state["status"] == "running" and state["running"] and state["state"] == "Running" and state["since"]
    assert "qemu-system" in argv[0] and disks == [] and isinstance(nics, list)
    assert "Connected" not in pod.shell.run("-c", "domstate").stdout
    log = pod.log()
    assert "QMP query-status from pid" in log and "uid 107" in log


def test_what_the_guest_says(pod):
    clock, name, stats = pod.shell.ask("domtime", "domhostname", "domstats")
    assert abs(clock["ahead-of-host"]) < 24 * 3600 and clock["time"].endswith("Z")
    assert name["host-name"]
    assert stats["state"]["state"] == "Running" and stats["memory"]["base-memory"] == 256 << 20


def test_agent_by_the_command_server(pod):
    system, addresses = pod.shell.ask("agent guest-get-osinfo", "domifaddr")
    assert system["kernel-release"]
    assert {"interface", "mac", "family", "address"} >= set(addresses[0])
    assert any(row["address"].startswith("127.0.0.1/") for row in addresses)
    assert "agent command guest-get-osinfo from pid" in pod.log()
    done = pod.shell.run("-c", "agent guest-shutdown")
    assert done.returncode == 1 and "this shell is read-only" in done.stderr
    done = pod.shell.run("--write", "-c", "agent guest-shutdown")
    assert done.returncode == 1 and "this server is read-only" in done.stderr
    assert "refused agent command guest-shutdown" in pod.log()


def test_writes_are_refused_by_the_server(pod):
    for options, text in ((), "this shell is read-only"), (("--write",), "this server is read-only"):
        done = pod.shell.run(*options, "-c", "stop")
        assert done.returncode == 1 and text in done.stderr
    assert pod.shell.ask("domstate")[0]["running"]
    assert "refused QMP stop from pid" in pod.log()
    done = pod.shell.run("--json", "--write", "-c", "stop")
    assert json.loads(done.stderr)["error"]["code"] == "NotAllowed"


def test_exact_numbers(pod):
    done = pod.shell.run("--json", "-c", "device-list-properties typename=pcie-root-port")
    assert '"default-value": 18446744073709551615' in done.stdout


def test_past_events(pod):
    client = pod.client_of_test
    client.ok("PauseVirtualMachine", vmi=ubuntu())
    client.ok("UnpauseVirtualMachine", vmi=ubuntu())
    events = pod.shell.ask("events --past lifecycle")
    names = [event["event"] for event in events]
    assert all(name.startswith("Domain/") for name in names)
    assert names[-2:] == ["Domain/Paused", "Domain/Running"]
    assert 0 < events[-2]["timestamp-usec"] <= events[-1]["timestamp-usec"]
    assert [e["event"] for e in pod.shell.ask("events --past agent-lifecycle")] == ["Agent/Connected"]
    assert "the guest agent" in pod.shell.run("-c", "events --past Connected").stdout


def test_no_vm_in_the_pod(start):  # noqa: F811
    pod = start()
    pod.client()
    shell = Shell(pod)
    assert shell.ask("domstate") == [{"state": "NoState"}]
    done = shell.run("-c", "dominfo", "-c", "query-status")
    assert done.returncode == 1 and "not allowed in the state" in done.stderr
