# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import socket
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from vmlet_lab import PATIENCE, VMLET, is_alive, wait_until


def test_exec_passes_output_and_code_on(lab):
    done = lab.run("--exec", "echo out; echo err >&2; exit 7")
    assert done.returncode == 7, done.stderr
    assert done.stdout == "out\n"
    assert done.stderr.endswith("err\n") or "\nerr\n" in done.stderr
    assert "the guest shut down" in done.stderr
    assert lab.leftovers() == []


def test_smoke_writes_junit(lab):
    report = lab.tmp / "out.xml"
    done = lab.run("--exec", "echo '<&\"'; exit 7", "--junit", report, "--json", verb="smoke")
    assert done.returncode == 7, done.stderr
    result = json.loads(done.stdout)
    assert result["exec"]["exitCode"] == 7 and result["exec"]["stdout"] == "<&\"\n"
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    boot, command = suite.findall("testcase")
    assert boot.get("name") == "boot" and float(boot.get("time")) > 0
    assert command.find("failure").get("message") == "exit code 7"
    assert command.find("system-out").text == "<&\"\n"


def test_smoke_passes(lab):
    report = lab.tmp / "out.xml"
    done = lab.run("--junit", report, verb="smoke")
    assert done.returncode == 0, done.stderr
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "0", "0")


def test_smoke_of_a_guest_that_does_not_come_up(lab):
    report = lab.tmp / "out.xml"
    done = lab.run("--exec", "true", "--junit", report, "--timeout", "6s", "--grace", "1s", verb="smoke", append="vmlet.noagent")
    assert done.returncode == 124, done.stderr
    assert "waited 6 s for the guest's command" in done.stderr and "--timeout" in done.stderr
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert (suite.get("errors"), suite.get("skipped")) == ("1", "1")
    assert suite.find("testcase/error").get("type") == "TimedOut"
    assert lab.leftovers() == []


def test_until_running_leaves_at_once(lab):
    done = lab.run("--until", "running", "--json")
    assert done.returncode == 0, done.stderr
    names = [e["name"] for e in json.loads(done.stdout)["timeline"]["events"]]
    assert names == ["exec", "manifest", "storage", "argv", "spawn", "greeting", "running"]
    assert lab.leftovers() == []


def test_until_agent(lab):
    done = lab.run("--until", "agent", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "agent" in [e["name"] for e in result["timeline"]["events"]]
    assert "the guest shut down" in result["outcome"]


def test_until_console_matches_a_line(lab):
    done = lab.run("--until", "console:^vmlet guest r[e]ady", "--console", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "vmlet guest ready" in done.stdout


def test_until_shutdown_is_reached_by_an_orderly_stop(lab):
    vm = lab.start("--until", "shutdown").wait_agent()
    vm.vmlet("stop")
    code, _, err = vm.end()
    assert code == 0, err


def test_console_streams_from_the_first_byte(lab):
    done = lab.run("--console", "--until", "agent")
    assert done.returncode == 0, done.stderr
    assert "Linux version" in done.stdout or "vmlet guest ready" in done.stdout


def test_bad_until_and_both_wishes(lab):
    assert lab.run("--until", "never").returncode == 2
    assert lab.run("--until", "console:[").returncode == 2
    assert lab.run("--until", "agent", "--exec", "true").returncode == 2
    assert lab.run("--net", "carrier-pigeon").returncode == 2
    assert lab.run("--disk", "novalue").returncode == 2
    assert lab.run("--timeout", "soon").returncode == 2


# ---- stopping ------------------------------------------------------------------------------------------------------------


def test_stop_is_orderly(lab):
    vm = lab.start().wait_agent()
    qemu = vm.qemu_pid()
    vm.vmlet("stop", "--wait")
    code, _, err = vm.end()
    assert code == 0, err
    assert "power button pressed" in err and not is_alive(qemu)
    assert lab.leftovers() == []


def test_stop_of_a_guest_that_ignores_the_button(lab):
    vm = lab.start(append="vmlet.ignoreacpi vmlet.noagent", grace=2).wait_running()
    wait_until(lambda: b"vmlet guest ready" in (vm.dir / "virt-serial0-log").read_bytes(), "the guest is up")
    vm.vmlet("stop")
    code, _, err = vm.end()
    assert code == 0
    assert "did not shut down in its grace period" in err


def test_stop_while_the_firmware_runs(lab):
    vm = lab.start(grace=1).wait_running()
    vm.vmlet("stop")
    _, _, err = vm.end()
    assert "ended" in err and lab.leftovers() == []


def test_stop_of_a_paused_guest(lab):
    vm = lab.start().wait_agent()
    vm.vmlet("pause")
    assert vm.status()["domain"]["Status"] == {**vm.status()["domain"]["Status"], "Status": "Paused", "Reason": "User"}
    vm.vmlet("stop")
    code, _, err = vm.end()
    assert code == 0 and "the guest shut down" in err


def test_interrupt_stops_and_a_second_one_kills(lab):
    vm = lab.start(append="vmlet.ignoreacpi vmlet.noagent", grace=600).wait_running()
    vm.process.send_signal(signal.SIGINT)
    wait_until(lambda: vm.status().get("vmlet", {}).get("stopping"), "the stop has begun")
    vm.process.send_signal(signal.SIGINT)
    code, _, err = vm.end()
    assert "asked twice" in err and code == 0
    assert lab.leftovers() == []


def test_kill_nine_leaves_no_qemu(lab):
    vm = lab.start().wait_running()
    qemu = vm.qemu_pid()
    vm.process.kill()
    vm.end()
    wait_until(lambda: not is_alive(qemu), "QEMU dies with its vmlet")
    # and the next run of the same VM takes over what is left of the old one
    done = lab.run("--until", "running")
    assert done.returncode == 0, done.stderr
    assert lab.leftovers() == []


def test_qemu_dies(lab):
    vm = lab.start().wait_running()
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    code, _, err = vm.end()
    assert code == 1 and "was killed by SIGKILL" in err
    assert lab.leftovers() == []


def test_guest_panic_is_a_failure(lab):
    text = """
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: tiny}
spec:
  domain:
    devices:
      panicDevices: [{model: pvpanic}]
    memory: {guest: 256Mi}
"""
    done = lab.run("--until", "agent", manifest=lab.manifest(text=text), append="vmlet.panic")
    assert done.returncode == 1, done.stderr
    assert "panicked" in done.stderr


# ---- more than one ---------------------------------------------------------------------------------------------------------


def test_two_vms_and_the_same_twice(lab):
    a, b = lab.start(name="a").wait_running(), lab.start(name="b").wait_running()
    again = lab.run(manifest=lab.tmp / "a.yaml")
    assert again.returncode == 1 and "already runs" in again.stderr and "vmlet stop a" in again.stderr
    assert a.qemu_pid() != b.qemu_pid()
    for vm in (a, b):
        vm.vmlet("kill")
        assert vm.end()[0] == 0
    assert lab.leftovers() == []


def test_console_for_several_viewers_with_replay(lab):
    vm = lab.start().wait_agent()
    viewers = []
    for _ in range(2):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(PATIENCE)
        s.connect(str(vm.dir / "virt-serial0"))
        viewers.append(s)
    viewers[0].sendall(b"echo typed-$((40+2))\n")
    for s in viewers:
        seen = b""
        while b"typed-42" not in seen:
            part = s.recv(65536)
            assert part, seen
            seen += part
        assert b"vmlet guest ready" in seen  # what was printed before it came
        s.close()
    vm.vmlet("kill")
    vm.end()


def test_pause_unpause_reset(lab):
    vm = lab.start().wait_agent()
    vm.vmlet("pause")
    assert vm.status()["domain"]["Status"]["Status"] == "Paused"
    vm.vmlet("pause")  # twice is no fault
    vm.vmlet("unpause")
    assert vm.status()["domain"]["Status"]["Status"] == "Running"
    vm.vmlet("reset")
    events = vm.vmlet("events", "--from", "1", "--json", "--no-follow", check=False).stdout
    assert "Reset" in events
    vm.vmlet("kill")
    vm.end()


# ---- a QEMU that does not do as it should ----------------------------------------------------------------------------------


def fake_qemu(lab, script):
    """A program that speaks like QEMU as far as the start-up's probe goes, and then does what the script says."""
    path = lab.tmp / "qemu-system-x86_64"
    path.write_text(
        "#!/bin/sh\n"
        "case \"$*\" in *'-machine none'*|*'-M none'*|*-version*|*--version*) exec /usr/bin/qemu-system-x86_64 \"$@\";; esac\n" + script
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path):
    """The fake's capabilities must not be taken for those of the real one, nor the other way round."""
    return {"VMLET_CACHE_DIR": str(tmp_path / "cache")}


def test_qemu_missing(lab, cache):
    done = lab.run("--qemu", "/nonexistent/qemu", env=cache)
    assert done.returncode == 3 and "/nonexistent/qemu" in done.stderr
    assert lab.leftovers() == []


def test_qemu_that_exits_at_once(lab, cache):
    done = lab.run("--qemu", fake_qemu(lab, "echo 'qemu: no such device flux-capacitor' >&2\nexit 1\n"), env=cache)
    assert done.returncode == 1
    assert "flux-capacitor" in done.stderr and "exited with code 1" in done.stderr
    assert lab.leftovers() == []


def test_qemu_that_hangs_before_its_greeting(lab, cache):
    done = lab.run("--qemu", fake_qemu(lab, "echo waiting for Godot >&2\nkill -STOP $$\n"), env=cache, timeout=PATIENCE)
    assert done.returncode == 124
    assert "QEMU hangs" in done.stderr and "no greeting within 30 s" in done.stderr and "Godot" in done.stderr
    assert lab.leftovers() == []


def test_a_kernel_that_is_not_there(lab):
    done = lab.run("--kernel", "/nonexistent/vmlinuz", boot=False)
    assert done.returncode != 0 and "/nonexistent/vmlinuz" in done.stderr
    assert lab.leftovers() == []


def test_state_dir_that_cannot_be_made(lab):
    (lab.tmp / "s").write_text("a file")
    done = lab.run("--until", "running")
    assert done.returncode == 1 and "cannot create the directory" in done.stderr


def test_state_dir_path_too_long_for_sockets(lab):
    done = lab.run("--until", "running", "--state-dir", lab.tmp / ("x" * 120))
    assert done.returncode == 2 and "107" in done.stderr


def test_help_names_every_option():
    import subprocess

    for verb in ("run", "smoke"):
        text = subprocess.run([VMLET, verb, "--help"], capture_output=True, text=True, check=True).stdout
        for option in ("--disk", "--accel", "--net", "--kernel", "--initrd", "--append", "--timeout", "--console", "--state-dir", "--json"):
            assert option in text
    assert Path(VMLET).exists()


def test_link_down_is_seen_by_the_guest(lab):
    text = """
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: tiny}
spec:
  domain:
    devices:
      interfaces: [{name: default, masquerade: {}, state: down}]
    memory: {guest: 256Mi}
  networks: [{name: default, pod: {}}]
"""
    done = lab.run("--exec", "cat /sys/class/net/eth0/carrier", manifest=lab.manifest(text=text))
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_exec_verb(lab):
    vm = lab.start().wait_agent()
    done = vm.vmlet("exec", "--", "sh", "-c", "echo \"$1\" --json; echo no >&2; exit 5", "x", "a b", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "a b --json\n", "no\n")
    done = vm.vmlet("exec", "--timeout", "1s", "--", "sleep", "60", check=False)
    assert done.returncode == 124, done.stderr
    assert vm.vmlet("exec", check=False).returncode == 2
    assert vm.vmlet("exec", "--", "/nonexistent", check=False).returncode == 1
    vm.vmlet("kill")
    vm.end()
