# SPDX-License-Identifier: Apache-2.0
"""qmp-shell with a real QEMU: its lines, its exit codes, and its terminal on a pty."""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
from vmlet_lab import listens, wait_until

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
SHELL = BUILD / "qmp" / "qmp-shell"
QEMU = shutil.which("qemu-system-x86_64")
WAIT = 30

pytestmark = [
    pytest.mark.skipif(not SHELL.exists(), reason="qmp-shell is not built"),
    pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64"),
]


@pytest.fixture
def vm(tmp_path):
    """A stopped machine with a disk, a network card and a balloon; the path of its QMP socket."""
    path = tmp_path / "qmp.sock"
    listener, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    for one, name in (listener, path), (other, tmp_path / "other.sock"):
        one.bind(str(name))
        one.listen(5)
    process = subprocess.Popen(
        [QEMU, "-name", "shelltest", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none", "-S",
         "-chardev", f"socket,id=m,fd={listener.fileno()},server=on,wait=off", "-mon", "chardev=m,mode=control",
         "-chardev", f"socket,id=o,fd={other.fileno()},server=on,wait=off", "-mon", "chardev=o,mode=control",
         "-device", "virtio-balloon,id=balloon0", "-object", "memory-backend-ram,id=spare,size=1M",
         "-blockdev", f"driver=file,node-name=n0,filename={make_image(tmp_path)}",
         "-device", "virtio-blk-pci,drive=n0,id=disk0",
         "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:00:00:01"],
        pass_fds=[listener.fileno(), other.fileno()])
    listener.close()
    other.close()
    yield path
    process.kill()
    process.wait()


def make_image(directory):
    image = directory / "disk.img"
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    return image


def other_monitor(vm, command):
    """Runs a command on the VM's second monitor; its result."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(vm.parent / "other.sock"))
        stream = connection.makefile("rw")
        for name in "qmp_capabilities", command:
            print(json.dumps({"execute": name, "id": name}), file=stream, flush=True)
        while (message := json.loads(stream.readline())).get("id") != command:
            pass
        return message["return"]


def run(vm, *arguments, **options):
    return subprocess.run([SHELL, vm, *arguments], capture_output=True, text=True, timeout=WAIT, **options)


def ask(vm, *lines, write=False):
    """The JSON results of some lines."""
    arguments = ["--json"] + (["--write"] if write else [])
    for line in lines:
        arguments += ["-c", line]
    done = run(vm, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---- lines -------------------------------------------------------------------------------------------------------


def test_views(vm):
    info, state, disks, sizes, stats, errors, nics, memory, cpus, argv, machine, able = ask(
        vm, "dominfo", "domstate", "domblklist", "domblkinfo disk0", "domblkstat", "domblkerror", "domiflist",
        "dommemstat", "vcpuinfo", "argv", "dumpmachine", "capabilities")
    assert info["name"] == "shelltest" and info["vcpus"] == 1 and info["memory-bytes"] == 64 << 20
    assert state == {"status": "prelaunch", "running": False}
    assert disks[0]["device"] == "disk0" and disks[0]["node"] == "n0"
    assert sizes[0]["capacity"] == 1 << 20
    assert stats[0]["rd_operations"] == 0 and errors == []
    assert nics == [{"device": "nic0", "mac": "52:54:00:00:00:01", "model": "virtio-net-pci", "netdev": "net0",
                     "backend": "user"}]
    assert memory["base-memory"] == 64 << 20 and memory["actual"] == 64 << 20
    assert cpus[0]["vcpu"] == 0 and cpus[0]["thread"] > 0
    assert argv[0].endswith("qemu-system-x86_64") and "shelltest" in argv
    assert machine["domain"]["name"] == "shelltest" and machine["nics"] == [
        {"device": "nic0", "mac": "52:54:00:00:00:01", "model": "virtio-net-pci", "netdev": "net0"}]
    assert any(name.startswith("pc-q35") for name in able["machines"]) and "BLOCK_IO_ERROR" in able["events"]


def test_table(vm):
    done = run(vm, "-c", "domblklist", "-c", "domstate")
    assert re.match(r"Device +Node +Format +Read-only +File\ndisk0 +n0 +file +false +/\S+/disk.img\n", done.stdout)
    assert "status   prelaunch\n" in done.stdout


def test_for_people(vm):
    """Sizes as people say them, long lists folded, a table of virsh's events, QEMU's commands by pattern."""
    done = run(vm, "-c", "domblkinfo", "-c", "dommemstat", "-c", "query-rx-filter name=nic0", "-c", "events --list",
               "-c", "help block-job-*", "-c", "domstats")
    assert done.returncode == 0, done.stderr
    assert re.search(r"disk0 +1 MiB +\S+ (B|KiB) +file", done.stdout)
    assert re.search(r"base-memory +64 MiB \(67108864\)", done.stdout)
    assert '"vlan-table": [4095…0]' in done.stdout
    assert re.search(r"io-error-reason +yes +\S.*BLOCK_IO_ERROR", done.stdout)
    assert re.search(r"metadata-change +no ", done.stdout)
    assert "block-job-cancel" in done.stdout and '"rd_operations": 0' in done.stdout
    listed = {row["name"] for row in ask(vm, "events --list")[0]}
    assert listed == VIRSH_EVENTS


# `virsh event --list`
VIRSH_EVENTS = set("""
lifecycle reboot rtc-change watchdog io-error graphics io-error-reason control-error block-job disk-change tray-change
pm-wakeup pm-suspend balloon-change pm-suspend-disk device-removed block-job-2 tunable agent-lifecycle device-added
migration-iteration job-completed device-removal-failed metadata-change block-threshold memory-failure
memory-device-size-change
""".split())


def test_unknown_disk(vm):
    done = run(vm, "-c", "domblkinfo nothing")
    assert done.returncode == 1 and 'no disk "nothing"' in done.stderr


# As they stand in the manual of QEMU's own qmp-shell, and in its documentation of bitmaps and block devices.
AS_IN_QEMUS_MANUAL = [
    "block_resize node-name=n0 size=1048576",
    "block_resize node-name=n0 size=2M",
    "blockdev-add driver=null-co node-name=node-A size=1048576 read-zeroes=true",
    "blockdev-add driver=raw node-name=node-B file={'driver':'null-co','size':4096,'read-zeroes':True}",
    'blockdev-add driver=raw node-name=node-C file={"driver":"null-co","size":4096,"read-zeroes":true}',
    "blockdev-add driver=raw node-name=node-D file.driver=null-co file.size=4k file.read-zeroes=on",
    "transaction( block-dirty-bitmap-add node=n0 name=bitmap1 )",
    "block-dirty-bitmap-add node=n0 name=bitmap0 persistent=false",
    "transaction(\nblock-dirty-bitmap-clear node=n0 name=bitmap0\nblock-dirty-bitmap-add node=n0 name=bitmap2\n)",
    "object-add {'qom-type':'iothread','id':'io0'}",
    '{"execute": "object-add", "arguments": {"qom-type": "iothread", "id": "io1"}}',
    "qom-get path=/machine property=type",
    "query-status",
]


def test_as_in_qemus_manual(vm):
    done = run(vm, "--write", input="\n".join(AS_IN_QEMUS_MANUAL) + "\n")
    assert done.returncode == 0 and done.stderr == ""
    nodes = {row["node-name"]: row for row in ask(vm, "query-named-block-nodes")[0]}
    assert {"node-A", "node-B", "node-C", "node-D"} <= nodes.keys()
    assert {bitmap["name"] for bitmap in nodes["n0"]["dirty-bitmaps"]} == {"bitmap0", "bitmap1", "bitmap2"}
    assert nodes["n0"]["image"]["virtual-size"] == 2 << 20


def test_hmp(vm):
    assert "q35" in run(vm, "-c", "/info qtree").stdout
    assert "paused (prelaunch)" in run(vm, "-H", "-c", "info status").stdout


def test_read_only(vm):
    for line in ("stop", "quit", "/quit", "/info\tstatus", "human-monitor-command command-line=quit",
                 '{"execute": "system_reset"}', "transaction( )", "device-list-properties typename=virtio-gpu-gl-device"):
        done = run(vm, "-c", line)
        assert done.returncode == 1 and "read-only" in done.stderr, line
    listed = run(vm, "-c", "help --read-only").stdout
    assert "query-*" in listed and "human-monitor-command" in listed and " query-status" in listed
    assert ask(vm, "domstate")[0]["status"] == "prelaunch"


def test_exact_numbers(vm):
    text = run(vm, "--json", "-c", "device-list-properties typename=pcie-root-port").stdout
    assert '"default-value": 18446744073709551615' in text


def test_typed_number_is_sent_exactly(tmp_path):
    """A scripted monitor sees what the shell writes."""
    path = tmp_path / "scripted.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    process = subprocess.Popen([SHELL, "--write", "--json", path, "-c", "x a=18446744073709551615 b.c=-3"],
                               stdout=subprocess.PIPE, text=True)
    stream = listener.accept()[0].makefile("rw")
    print('{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}',
          file=stream, flush=True)
    lines = []
    for number, answer in enumerate(['"return": {}', '"error": {"class": "CommandNotFound", "desc": "none"}',
                                     '"return": 18446744073709551614'], start=1):
        lines.append(stream.readline())
        print(f'{{"id": {number}, {answer}}}', file=stream, flush=True)
    assert '"a":18446744073709551615,"b":{"c":-3}' in lines[2]
    assert process.communicate(timeout=WAIT)[0] == "18446744073709551614\n"
    assert process.returncode == 0


@pytest.mark.parametrize("line, text", [
    ("no-such-command", "no such command"),
    ("domblkinf", 'did you mean "domblkinfo"?'),
    ("query-sttaus", 'did you mean "query-status"?'),
    ("help no-*-such", "no command of this QEMU"),
    ("events --past", "only the command server of a VM does"),
    ("block_resize node-name=n0 size=big", "no whole number"),
    ("block_resize node-name=n0", "size: is missing (int)"),
    ("query-status x=1", "x: is not known"),
    ("query-status {", "bracket is not closed"),
    ("block_resize size=1 size=2", "given twice"),
    ("query-block word", "no KEY=VALUE"),
    ("qom-get path=/nothing property=x", "DeviceNotFound"),
    ("help nothing", "nothing is known"),
    ("replay /no/such/file", "cannot read"),
    ("agent guest-ping", "--agent SOCKET"),
])
def test_errors(vm, line, text):
    done = run(vm, "--write", "-c", line)
    assert done.returncode == 1 and text in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("qemu-ga"), reason="no qemu-ga")
def test_agents_channel(vm, tmp_path):
    """The agent beside a monitor, and alone."""
    path = tmp_path / "qga.sock"
    agent = subprocess.Popen(["qemu-ga", "-m", "unix-listen", "-p", path, "-t", tmp_path, "-f", tmp_path / "pid"])
    try:
        wait_until(lambda: listens(path) or agent.poll() is not None, "the agent listens")
        done = run(vm, "--json", "--agent", path, "-c", "agent guest-ping", "-c", "domifaddr", "-c", "domstate")
        assert done.returncode == 0, done.stderr
        ping, addresses, state = map(json.loads, done.stdout.splitlines())
        assert ping == {} and state["status"] == "prelaunch"
        assert any(row["address"].startswith("127.0.0.1/") for row in addresses)
        done = run(path, "-N", "--json", "-c", "guest-info", "-c", "guest-shutdown", "-c", "query-status", "-c", "domstate")
        assert done.returncode == 1 and json.loads(done.stdout)["supported_commands"]
        errors = [json.loads(line)["error"] for line in done.stderr.splitlines()]
        assert [e["code"] for e in errors] == ["NotAllowed", "NotAllowed", "NotSupported"]
    finally:
        agent.kill()
        agent.wait()


def test_json_errors(vm):
    error = json.loads(run(vm, "--json", "-c", "qom-get path=/nothing property=x").stderr)["error"]
    assert error["code"] == "QmpError" and error["class"] == "DeviceNotFound"


def test_arguments(vm, tmp_path):
    assert run(vm, "second").returncode == 2
    assert run(vm, "--nonsense").returncode == 2
    assert run(tmp_path / "nobody").returncode == 1
    assert run(vm, "-N", "-H").returncode == 2
    assert "--write" in run(vm, "--help").stdout


def test_record_and_replay(vm, tmp_path):
    log = tmp_path / "session.log"
    done = run(vm, "--write", "-c", f"record {log}", "-c", "query-status", "-c", "object-del id=none", "-c", "cont")
    assert done.returncode == 1
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["line"] for r in records] == ["query-status", "object-del id=none", "cont"]
    assert records[0]["return"]["status"] == "prelaunch" and records[1]["class"] == "GenericError"
    assert run(vm, "--write", "-c", f"replay {log}").returncode == 0
    log.write_text('{"line": "object-del id=none", "return": {}}\n')
    done = run(vm, "--write", "-c", f"replay {log}")
    assert done.returncode == 1 and "did not fail when it was recorded" in done.stderr


def test_watch(vm):
    assert run(vm, "--json", "-c", "watch -n 0.05 -c 3 domstate").stdout.count("prelaunch") == 3


def test_recorded_schema(vm):
    done = run(vm, "--schema", Path(__file__).parent / "qmp-schema-7.2.json", "-c", "help blockdev-add")
    assert "with driver=qcow2" in done.stdout


def test_recorded_schema_without_a_vm(tmp_path):
    schema = Path(__file__).parent / "qmp-schema-7.2.json"
    options = ["--server", tmp_path / "nobody", "--schema", schema]
    done = subprocess.run([SHELL, *options, "-c", "help block_resize", "-c", "help nbd-*", "-c", "events --list"],
                          capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 0 and "node-name" in done.stdout and "nbd-server-start" in done.stdout
    done = subprocess.run([SHELL, *options, "-c", "query-status", "-c", "block_resize siz=1"], capture_output=True,
                          text=True, timeout=WAIT, check=False)
    assert done.returncode == 1 and "there is no VM here" in done.stderr


# ---- terminal ------------------------------------------------------------------------------------------------------


class Terminal:
    """The shell on a pty; what it has shown and no test has looked at is in `text`."""

    def __init__(self, vm, *arguments, home):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", HOME=str(home), LC_ALL="C.UTF-8")
            os.execv(SHELL, [str(SHELL), str(vm), *arguments])
        self.resize(24, 100)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern):
        """Waits for the pattern, and forgets what was before its end."""
        end = time.monotonic() + WAIT
        while not (match := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text!r}"
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended before {pattern!r}: {self.text!r}") from None
        self.text = self.text[match.end():]
        return match

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def wait(self):
        pidfd = os.pidfd_open(self.pid)
        ended, _, _ = select.select([pidfd], [], [], WAIT)
        os.close(pidfd)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        assert ended, f"did not end; on the screen: {self.text!r}"
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def terminal(vm, tmp_path):
    t = Terminal(vm, "--write", home=tmp_path)
    t.expect(r"\(QEMU rw\) ")
    yield t
    t.close()


def test_completion(terminal):
    """What was completed shows in what the whole line does."""
    t = terminal
    t.type("query-statu\t\r")
    t.expect('"status": "prelaunch"')
    t.type("domblkinf\tdi\t\r")
    t.expect(r"disk0 +1 MiB")
    # A key, an enum's value, and names that only this VM knows.
    t.type("set-action reb\tshu\t\r")
    t.expect("ok")
    t.type("block_resize node-n\tn\tsi\t3M\r")
    t.expect("ok")
    t.type("domblkinfo\r")
    t.expect("3 MiB")
    t.type("qom-list path=/machine/peripheral/bal\t\r")
    t.expect("guest-stats")
    t.type("qom-get path=/machine/peripheral/nic0 prop\tma\t\r")
    t.expect("52:54:00:00:00:01")
    t.type("device_del id=ni\t\r")
    t.expect("'pcie.0' does not support hotplugging")
    # The driver's own properties, and what they can be.
    t.type("device_add driver=e1000 ma\tnonsense\r")
    t.expect("c=nonsense")
    t.type("device_add driver=e1000 bus=pci\t\r")
    t.expect("Bus 'pcie.0' does not support hotplugging")
    t.type("blockdev-add driver=null-co node-name=there size=3M\r")
    t.expect("ok")
    t.type("blockdev-mirror job-id=mirror7 device=n\ttarget=the\tsync=full\r")
    t.expect("BLOCK_JOB_READY")
    t.type("job-cancel id=mi\t\r")
    t.expect("BLOCK_JOB_(COMPLETED|CANCELLED)")
    t.type("netdev_add type=user id=zed\r")
    t.expect("ok")
    t.type("netdev_del id=z\t\r")
    t.expect("ok")
    t.type("blockdev-add driver=null-co node-name=n7 size=1M read-\t\t")
    t.expect("read-only=")
    t.expect("read-zeroes=")


def test_completion_of_events_and_hmp(terminal):
    t = terminal
    t.type("events io-error-r\t\r")
    t.expect("events: io-error-reason")
    t.type("events BLOCK_IO_E\t\r")
    t.expect("events: BLOCK_IO_ERROR")
    t.type("/info versi\t\r")
    t.expect(r"\r\n\d+\.\d+\.\d+")
    t.type("/inf\tstatu\t\r")
    t.expect(r"paused \(prelaunch\)")


def test_human_monitor(vm, tmp_path):
    t = Terminal(vm, "-H", home=tmp_path)
    t.expect(r"\(QEMU\) ")
    t.type("info statu\t\r")
    t.expect(r"paused \(prelaunch\)")
    t.type("info na\t\r")
    t.expect("shelltest")
    t.type("cpu 0\r")
    t.expect(r"\(QEMU\) $")
    t.type("cpu 7\r")
    t.expect("error: .*CPU")
    t.type("stop\r")
    t.expect("read-only")
    t.type("info qtree\x03info name\r")  # ctrl-C drops the line
    t.expect("shelltest")
    t.type("exit\r")
    assert t.wait() == 0


def test_typed_ahead(vm, tmp_path):
    """What is typed while a command runs is the next line, the end of the input too."""
    for number in range(30):
        t = Terminal(vm, home=tmp_path)
        t.expect(r"\(QEMU\) ")
        t.type("query-name\rquery-status\r\x04")
        t.expect("shelltest")
        t.expect("prelaunch")
        assert t.wait() == 0, number
        t = Terminal(vm, home=tmp_path)
        t.expect(r"\(QEMU\) ")
        t.type("query-name\r")
        t.expect('"name": "shelltest"')
        t.type("\x04")
        assert t.wait() == 0, number


def test_history(vm, tmp_path):
    t = Terminal(vm, home=tmp_path)
    t.expect(r"\(QEMU\) ")
    t.type("query-name\r")
    t.expect("shelltest")
    t.type("exit\r")
    assert t.wait() == 0
    assert (tmp_path / ".qmp-shell_history").stat().st_mode & 0o077 == 0
    t = Terminal(vm, home=tmp_path)
    t.expect(r"\(QEMU\) ")
    t.type("\x10\x10\r")  # ctrl-P twice: past "exit"
    t.expect("shelltest")
    t.type("\x04")
    assert t.wait() == 0


def test_interrupt(terminal):
    t = terminal
    t.type("watch -n 0.05 domstate\r")
    t.expect("prelaunch")
    t.expect("prelaunch")
    t.type("\x03")
    t.expect(r"\(QEMU rw\) ")
    t.type("half a line\x03")
    t.expect(r"\^C\r\n.*\(QEMU rw\) ")
    t.type("query-name\r")
    t.expect("shelltest")


def test_events_while_typing(terminal, vm):
    t = terminal
    t.type("query-na")
    t.expect("query-na")
    # Another process makes the VM send an event, while half a line stands behind our prompt.
    assert other_monitor(vm, "cont") == {}
    t.expect(r"\[\d\d:\d\d:\d\d\.\d\d\d\] RESUME")
    t.expect(r"\(QEMU rw\) query-na")
    t.type("me\r")
    t.expect("shelltest")
    t.type("events STOP\r")
    t.expect("events: STOP")
    t.type("system_reset\r")
    t.expect("ok")
    t.type("stop\r")
    shown = t.expect(r"(?s).*\] STOP").group()
    assert "RESET" not in shown


def test_resize(terminal):
    t = terminal
    t.resize(40, 40)
    t.type("query-name")
    t.expect("query-name")
    t.resize(10, 120)
    t.type("\r")
    t.expect("shelltest")


def test_vm_ends(vm, tmp_path):
    t = Terminal(vm, "--write", home=tmp_path)
    t.expect(r"\(QEMU rw\) ")
    t.type("quit\r")
    t.expect("connection lost")
    assert t.wait() == 1
