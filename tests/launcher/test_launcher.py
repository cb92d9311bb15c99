# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import socket
import subprocess

import pytest
from launcher_lab import LAUNCHER, add_disk, mount_disk
from vmlet_lab import PATIENCE, UID, Client, is_alive, vmi, wait_until


def test_sync_run_shutdown(pod):
    client = pod.boot()
    domain = client.ok("GetDomain")
    assert domain["domain"]["Status"]["Status"] == "Running"
    assert domain["domain"]["Spec"]["Name"] == "ns_tiny"
    assert domain["vmlet"]["accel"] == "tcg" and domain["vmlet"]["accelReason"]
    assert client.ok("SyncVirtualMachine", vmi=vmi())["success"]  # again: nothing to do
    pod.wait_agent(client)
    result = client.ok("Exec", domainName="ns_tiny", Command="/bin/sh", Args=["-c", "echo hi; exit 3"], timeoutSeconds=30)
    assert (result["exitCode"], result["stdOut"]) == (3, "hi\n")
    assert client.ok("GuestPing", domainName="ns_tiny")
    assert client.ok("GetQemuVersion")["version"].count(".") == 2
    info = client.ok("GetGuestInfo")["guestInfoResponse"]
    assert info["guestAgentVersion"] and info["os"]
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end() == 0
    assert not is_alive(pod.qemu)
    assert "the guest shut down" in pod.text()
    left = sorted(p.name for p in pod.dir.iterdir())
    assert left == ["events.log", "qemu.log", "virt-serial0-log"]
    assert "vmlet guest down" in (pod.dir / "virt-serial0-log").read_text(errors="replace")


def test_standalone(pod):
    pod.start(standalone=json.dumps(vmi()))
    client = pod.client()
    wait_until(lambda: client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running", "it runs")
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    assert client.ok("KillVirtualMachine")["success"]
    assert pod.end() == 0


def test_term_without_a_vm_and_qemu_timeout(pod):
    pod.start()
    assert pod.client().ok("GetDomain").get("domain") is None
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end() == 0
    pod.start("--qemu-timeout", "200ms")
    assert pod.end() == 1
    assert "--qemu-timeout" in pod.text()


def test_faults_of_the_manifest_come_back_and_the_next_sync_works(pod):
    pod.start()
    client = pod.client()
    bad = vmi()
    bad["spec"]["domain"]["devices"]["disks"] = [{"name": "a", "disk": {"bus": "warp"}}]
    answer = client.call("SyncVirtualMachine", vmi=bad)
    assert answer["error"]["data"]["code"] == "BadManifest"
    assert any("spec.domain.devices.disks[0]" in f["path"] for f in answer["error"]["data"]["faults"])
    assert client.ok("SyncVirtualMachine", vmi=vmi())["success"]
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]


def test_no_kvm_and_no_emulation_allowed(pod):
    pod.start("--allow-emulation=false")
    answer = pod.client().call("SyncVirtualMachine", vmi=vmi())
    if "error" not in answer:
        pytest.skip("KVM works here")
    assert answer["error"]["data"]["code"] == "NoKvm"


def test_states_guard_methods(pod):
    pod.start()
    answer = pod.client().call("PauseVirtualMachine", vmi={})
    assert answer["error"]["data"]["code"] == "WrongState"
    assert "NoState" in json.dumps(answer)


def test_pause_is_kept_by_sync_and_unpause_resumes(pod):
    client = pod.boot()
    client.ok("PauseVirtualMachine", vmi={})
    status = client.ok("GetDomain")["domain"]["Status"]
    assert (status["Status"], status["Reason"]) == ("Paused", "User")
    client.ok("SyncVirtualMachine", vmi=vmi())
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Paused"
    client.ok("UnpauseVirtualMachine", vmi={})
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running"


def test_start_strategy_paused(pod):
    pod.start()
    client = pod.client()
    answer = client.ok("SyncVirtualMachine", vmi=vmi(startStrategy="Paused"))
    assert answer["success"]
    status = client.ok("GetDomain")
    pod.qemu = status["vmlet"]["pid"]
    assert status["domain"]["Status"]["Status"] == "Paused"


def freeze_status(client):
    return client.ok("GetDomain")["domain"]["Status"]["FSFreezeStatus"]["Status"]


def test_freeze_thaws_by_itself(pod):
    client = pod.start("--allow-qmp-writes").client()
    client.ok("SyncVirtualMachine", vmi=add_disk(vmi()))
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    pod.wait_agent(client)
    mount_disk(client)
    watcher = pod.client()
    watcher.ok("Subscribe")
    assert client.ok("FreezeVirtualMachine", unfreezeTimeoutSeconds=1)["success"]
    assert watcher.event(lambda e: e["reason"] == "Frozen")["filesystems"] >= 1
    watcher.event(lambda e: e["reason"] == "Thawed")
    assert freeze_status(client) == "thawed"
    # past the method that is made for it, and known as soon as the agent says so
    assert client.ok("AgentCommand", command="guest-fsfreeze-freeze")["return"] >= 1
    watcher.event(lambda e: e["reason"] == "FSFreezeStatus" and e["status"] == "frozen")
    assert freeze_status(client) == "frozen"
    assert client.ok("UnfreezeVirtualMachine")["success"]
    assert freeze_status(client) == "thawed"


def test_qmp_is_read_only(pod):
    client = pod.boot()
    assert client.ok("Qmp", command="query-status")["return"]["status"] == "running"
    answer = client.call("Qmp", command="quit")
    assert answer["error"]["data"]["code"] == "NotAllowed"
    assert is_alive(pod.qemu)
    assert "QMP query-status from pid" in pod.text()


def test_agent_commands_are_read_only(pod):
    client = pod.boot()
    pod.wait_agent(client)
    assert client.ok("AgentCommand", command="guest-get-osinfo")["return"]["kernel-release"]
    answer = client.call("AgentCommand", command="guest-shutdown", arguments={"mode": "halt"})
    assert answer["error"]["data"]["code"] == "NotAllowed"
    answer = client.call("AgentCommand", command="guest-get-nonsense")
    assert answer["error"]["data"]["code"] == "AgentError"
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running"
    assert "agent command guest-get-osinfo from pid" in pod.text()
    assert "refused agent command guest-shutdown from pid" in pod.text()


def test_console_socket_is_multiplexed_and_private(pod):
    client = pod.boot()
    path = client.ok("GetDomain")["vmlet"]["sockets"]["console"]
    assert os.stat(path).st_mode & 0o777 == 0o600
    for entry in pod.dir.iterdir():
        assert entry.stat().st_mode & 0o077 == 0, entry


def test_qemu_crash_is_told(pod):
    client = pod.boot()
    os.kill(pod.qemu, signal.SIGKILL)
    assert pod.end() == 1
    assert "was killed by SIGKILL" in pod.text()
    client.close()


# ---- the guest outlives its launcher -----------------------------------------------------------------------------------


def test_adoption_after_kill(pod):
    client = pod.boot()
    pod.wait_agent(client)
    watcher = pod.client()
    next_event = watcher.ok("Subscribe")["next"]
    before = client.ok("GetDomain")
    for _ in range(3):
        pod.process.kill()
        pod.process.wait()
        assert is_alive(pod.qemu)
        pod.start()
        client = pod.client()
        after = client.ok("GetDomain")
        assert after["vmlet"]["pid"] == pod.qemu
        assert after["domain"]["Spec"]["UUID"] == before["domain"]["Spec"]["UUID"]
        wait_until(lambda: client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running", "the state is known")
        pod.wait_agent(client)
    again = pod.client()
    answer = again.ok("Subscribe", **{"from": next_event})
    assert answer["lost"] == 0
    again.event(lambda e: "took over" in e.get("message", ""))
    result = client.ok("Exec", Command="/bin/sh", Args=["-c", "cut -d. -f1 /proc/uptime"])
    assert result["exitCode"] == 0
    client.ok("ShutdownVirtualMachine", vmi={})
    assert pod.end() == 0
    assert not is_alive(pod.qemu)


def test_many_connections_wait_for_a_qemu_that_hangs(pod):
    """Each launcher that is killed meanwhile leaves one; the next must still be able to connect."""
    pod.boot()
    os.kill(pod.qemu, signal.SIGSTOP)
    waiting = []
    try:
        for name in ("qmp.sock", "agent.sock"):
            for _ in range(20):
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(pod.dir / name))
    finally:
        for connection in waiting:
            connection.close()
        os.kill(pod.qemu, signal.SIGCONT)


def test_adoption_keeps_a_users_pause(pod):
    client = pod.boot()
    client.ok("PauseVirtualMachine", vmi={})
    pod.process.kill()
    pod.process.wait()
    pod.start()
    client = pod.client()
    wait_until(lambda: client.ok("GetDomain")["domain"]["Status"]["Status"] == "Paused", "paused")
    assert client.ok("GetDomain")["domain"]["Status"]["Reason"] == "User"
    client.ok("SyncVirtualMachine", vmi=vmi())
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Paused"


def test_adoption_takes_up_a_running_stop(pod):
    client = pod.boot(append="vmlet.ignoreacpi vmlet.noagent")
    client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=4)
    pod.process.kill()
    pod.process.wait()
    pod.start()
    assert pod.end() == 0
    assert not is_alive(pod.qemu)
    events = [json.loads(line) for line in (pod.dir / "events.log").read_text().splitlines()]
    deadlines = [(e["reason"], e["deadlineUsec"]) for e in events if "deadlineUsec" in e]
    assert deadlines == [("ShuttingDown", deadlines[0][1]), ("Forcing", deadlines[0][1])]  # the first launcher's, kept


def test_hangup_executes_the_launcher_anew(pod):
    client = pod.boot()
    pid = pod.process.pid
    pod.process.send_signal(signal.SIGHUP)
    assert client.file.readline() == b""  # the old program's connection ends
    client = None

    def answers():
        try:
            c = Client(pod.socket)
            pod.clients.append(c)
            c.ok("Ping")
        except (OSError, ValueError):
            return None
        return c

    client = wait_until(answers, "the new program answers")
    assert client.ok("GetDomain")["vmlet"]["pid"] == pod.qemu
    assert pod.process.poll() is None and pod.process.pid == pid
    client.ok("KillVirtualMachine", vmi={})
    assert pod.end() == 0


def test_stale_state_is_recognised(pod):
    pod.dir.mkdir(parents=True)
    state = {"version": 1, "bootId": "another", "pid": 1, "startTime": 1, "manifest": "{}"}
    for change in ({}, {"bootId": open("/proc/sys/kernel/random/boot_id").read().strip()}, {"version": 99}):
        (pod.dir / "domain.json").write_text(json.dumps({**state, **change}))
        pod.start()
        assert pod.client().ok("GetDomain").get("domain") is None
        pod.process.send_signal(signal.SIGTERM)
        assert pod.end() == 0
        assert not (pod.dir / "domain.json").exists()
    (pod.dir / "domain.json").write_text("{ half")
    pod.start()
    assert "nothing to take over" in pod.text()


# ---- flags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--grace-period-seconds", "-1"], "0 or more"),
        (["--qemu-timeout", "never"], "a duration"),
        (["--no-such-flag"], "no such flag"),
        (["stray"], "not expected"),
        (["--name"], "needs a value"),
    ],
)
def test_bad_flags(arguments, text):
    done = subprocess.run([LAUNCHER, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2 and text in done.stderr


def test_a_crash_that_is_asked_for(tmp_path):
    done = subprocess.run([LAUNCHER, "--simulate-crash"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGABRT and "--simulate-crash" in done.stderr


def test_flags_of_the_agent(tmp_path):
    names = ["qemu-agent-sys", "qemu-agent-file", "qemu-agent-user", "qemu-agent-version", "qemu-fsfreeze-status"]
    done = subprocess.run([LAUNCHER, "--help", *[f"--{n}-interval=120s" for n in names]], capture_output=True, text=True,
                          timeout=PATIENCE, check=False)
    assert done.returncode == 0 and done.stderr == ""
    done = subprocess.run([LAUNCHER, *[f"--{n}-interval=soon" for n in names]], capture_output=True, text=True, timeout=PATIENCE,
                          check=False)
    assert done.returncode == 2 and done.stderr.count("not valid (a duration") == 5


def test_flags_of_libvirt_are_accepted(tmp_path):
    done = subprocess.run(
        [LAUNCHER, "--help", "--hook-sidecars", "0", "--libvirt-log-filters=3:x", "--vgpu-dedicated-hook", "-v", "2"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )
    assert done.returncode == 0 and done.stderr.count("has no effect") == 3
    assert UID and "--qemu-timeout" in done.stdout
