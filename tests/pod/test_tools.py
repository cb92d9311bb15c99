# SPDX-License-Identifier: Apache-2.0
"""container-disk, virt-tail, virt-freezer and virt-probe, as real processes."""
import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from conftest import BUILD, Lines, wait_until
from vmlet_lab import PATIENCE, need_user_namespaces

TOOLS = BUILD / "src/tools"
DISK, TAIL, FREEZER, PROBE = (TOOLS / name for name in ("container-disk", "virt-tail", "virt-freezer", "virt-probe"))
SERVER = BUILD / "tests/pod/pod-test-server"
# Enters a user namespace in which no inotify instance is to be had (user_namespaces(7)).
NO_INOTIFY = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances; exec "$@"', "sh"]


@pytest.fixture
def start():
    processes = []

    def run(*argv, **options):
        if "-Ur" in argv:
            need_user_namespaces()
        processes.append(
            subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, **{"stderr": subprocess.PIPE, **options})
        )
        return processes[-1]

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def run(*argv):
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("tool", [DISK, TAIL, FREEZER, PROBE])
def test_help_and_bad_arguments(tool):
    help_ = run(tool, "--help")
    assert help_.returncode == 0 and help_.stdout.startswith(f"Usage: {tool.name} ")
    assert "Exit code" in help_.stdout or "Ends with" in help_.stdout
    for bad in ([], ["--nonsense"], ["--copy-path"]):
        r = run(tool, *bad)
        assert r.returncode == 2 and "Usage: " in r.stderr, bad


# ---- container-disk ------------------------------------------------------------------------------------------------


def test_container_disk_is_static():
    out = run("readelf", "-ld", DISK).stdout
    if any("san" in line for line in out.splitlines() if "NEEDED" in line):
        pytest.skip("a sanitizer build")
    assert "INTERP" not in out and "NEEDED" not in out


def test_container_disk_no_op():
    assert run(DISK, "--no-op").returncode == 0


def connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(str(path))
        pid = int.from_bytes(s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
        assert s.recv(1) == b""
    return pid


def listening(path):
    def there():
        try:
            return connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    return wait_until(there, f"{path} is served")


@pytest.mark.parametrize("inotify", [True, False])
def test_container_disk_serves_until_its_socket_goes(start, short_path, inotify):
    path = short_path / "a/b/disk_0"
    p = start(*([] if inotify else NO_INOTIFY), DISK, "--copy-path", path)
    assert listening(f"{path}.sock") == p.pid
    for _ in range(200):
        assert connect(f"{path}.sock") == p.pid
    os.unlink(f"{path}.sock")
    assert p.wait(PATIENCE) == 0
    assert ("no inotify instance" in p.stderr.read().decode()) != inotify


def test_tools_shut_themselves_in(start, short_path):
    """What runs as long as its container: a filter, and no capability but the one by which root opens files of others."""
    if "libasan" in run("ldd", TAIL).stdout:
        pytest.skip("a sanitizer build has no filter")
    (short_path / "log").write_text("line\n")
    tail = start(TAIL, "--logfile", short_path / "log", stdout=subprocess.PIPE)
    assert tail.stdout.readline() == b"line\n"
    disk = start(DISK, "--copy-path", short_path / "disk_0")
    listening(f"{short_path}/disk_0.sock")
    for pid in (tail.pid, disk.pid):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["Seccomp"]) == 2 and int(status["NoNewPrivs"]) == 1, status
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(status[name], 16) & ~(1 << 1) == 0, (name, status)  # CAP_DAC_OVERRIDE


@pytest.mark.parametrize("change", ["rename", "replace", "directory"])
def test_container_disk_sees_its_socket_go(start, short_path, change):
    path = short_path / "d/disk_0"
    p = start(DISK, "--copy-path", path)
    listening(f"{path}.sock")
    if change == "rename":
        os.rename(f"{path}.sock", short_path / "x.sock")
    elif change == "replace":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(short_path / "other"))
        os.rename(short_path / "other", f"{path}.sock")
    else:
        os.unlink(f"{path}.sock")
        os.rmdir(path.parent)
    assert p.wait(PATIENCE) == 0


@pytest.mark.parametrize("as_init", [False, True])
def test_container_disk_term(start, short_path, as_init):
    path = short_path / "disk_0"
    p = start(*(["unshare", "--pid", "--fork", "--kill-child"] if as_init else []), DISK, f"--copy-path={path}")
    os.kill(listening(f"{path}.sock"), signal.SIGTERM)
    assert p.wait(PATIENCE) == 0
    assert not os.path.exists(f"{path}.sock")


def test_container_disk_takes_a_dead_ones_place(start, short_path):
    path = short_path / "disk_0"
    first = start(DISK, "--copy-path", path)
    listening(f"{path}.sock")
    first.kill()
    first.wait()
    second = start(DISK, "--copy-path", path)
    assert listening(f"{path}.sock") == second.pid
    third = start(DISK, "--copy-path", path)
    assert third.wait(PATIENCE) == 1
    assert b"already listens" in third.stderr.read()
    assert connect(f"{path}.sock") == second.pid


def test_container_disk_path_length(start, short_path):
    fits = str(short_path / "x") + "x" * (101 - len(str(short_path)) - 1)
    assert len(fits) == 102 - 1 or len(fits) == 102
    fits = fits.ljust(102, "x")
    p = start(DISK, "--copy-path", fits)
    assert listening(fits + ".sock") == p.pid
    r = run(DISK, "--copy-path", fits + "x")
    assert r.returncode == 2 and "103 bytes (1 to 102 are allowed)" in r.stderr


# ---- virt-tail -----------------------------------------------------------------------------------------------------


class Tail:
    """A running virt-tail, and what it has printed."""

    def __init__(self, start, log, before=()):
        self.process = start(*before, TAIL, "--logfile", log, stdout=subprocess.PIPE)
        self.data = bytearray()
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            with self.changed:
                self.data += chunk
                self.changed.notify_all()

    def wait(self, expected):
        with self.changed:
            self.changed.wait_for(lambda: len(self.data) >= len(expected), PATIENCE)
            assert bytes(self.data) == expected

    def end(self, expected, number=signal.SIGTERM):
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE) == 0
        self.thread.join(PATIENCE)
        assert bytes(self.data) == expected


@pytest.mark.parametrize("before", [[], NO_INOTIFY], ids=["inotify", "no inotify"])
def test_tail_follows(start, tmp_path, before):
    log = tmp_path / "log"
    log.write_bytes(b"one\r\ntwo\n")
    tail = Tail(start, log, before)
    tail.wait(b"one\r\ntwo\n")
    with log.open("ab", buffering=0) as f:
        f.write(b"thr")
        f.write(b"ee\nfour\nlogin: ")
        tail.wait(b"one\r\ntwo\nthree\nfour\n")  # no half a line
    tail.end(b"one\r\ntwo\nthree\nfour\nlogin: \n")  # but at the end, nothing is left out


def test_tail_waits_for_the_file_and_its_directories(start, tmp_path):
    log = tmp_path / "a/b/c/log"
    tail = Tail(start, log)
    log.parent.mkdir(parents=True)
    log.write_bytes(b"hello\n")
    tail.wait(b"hello\n")
    tail.end(b"hello\n")


def test_tail_ends_without_a_file(start, tmp_path):
    tail = Tail(start, tmp_path / "a/b/log")
    # SIGTERM is blocked at first, so that there is no moment in which it kills
    wait_until(
        lambda: any(
            line.startswith("SigBlk") and int(line.split()[1], 16) & (1 << (signal.SIGTERM - 1))
            for line in open(f"/proc/{tail.process.pid}/status")
        ),
        "virt-tail reads signals",
    )
    tail.end(b"")


def test_tail_rotation(start, tmp_path):
    log = tmp_path / "log"
    expected = b"first\n"
    log.write_bytes(expected)
    tail = Tail(start, log)
    tail.wait(expected)
    for round_ in range(5):
        # a line that goes on in the next file
        with log.open("ab", buffering=0) as f:
            f.write(b"round %d\nhalf" % round_)
        os.rename(log, tmp_path / f"log.{round_}")
        log.write_bytes(b" and half %d\n" % round_)
        expected += b"round %d\nhalf and half %d\n" % (round_, round_)
        tail.wait(expected)
    tail.end(expected)


def test_tail_reads_the_predecessors_first(start, tmp_path):
    """By their numbers, not by their names' order; other files of the folder are none of its business."""
    log = tmp_path / "log"
    (tmp_path / "log.900").write_bytes(b"1\nhalf")
    (tmp_path / "log.1000").write_bytes(b" and half\n2\n")
    for name in ("log.x", "log.9x", "log-1", "log."):
        (tmp_path / name).write_bytes(b"no\n")
    log.write_bytes(b"3\n")
    expected = b"1\nhalf and half\n2\n3\n"
    tail = Tail(start, log)
    tail.wait(expected)
    # rotated twice while it does not look
    tail.process.send_signal(signal.SIGSTOP)
    with log.open("ab") as f:
        f.write(b"4\n")
    os.rename(log, tmp_path / "log.1100")
    (tmp_path / "log.900").unlink()
    (tmp_path / "log.1200").write_bytes(b"5\n")
    log.write_bytes(b"6\n")
    tail.process.send_signal(signal.SIGCONT)
    tail.wait(expected + b"4\n5\n6\n")
    # and once more, with the one that it reads removed
    os.rename(log, tmp_path / "log.1300")
    log.write_bytes(b"7\n")
    tail.end(expected + b"4\n5\n6\n7\n")


def test_tail_rotation_by_a_writer_that_is_late(start, tmp_path):
    """What is written to the old file after its renaming comes before the new file's lines."""
    log = tmp_path / "log"
    with log.open("wb", buffering=0) as old:
        old.write(b"1\n")
        tail = Tail(start, log)
        tail.wait(b"1\n")
        os.rename(log, tmp_path / "log.1")
        old.write(b"2\n")
        log.write_bytes(b"3\n")
    tail.wait(b"1\n2\n3\n")
    tail.end(b"1\n2\n3\n")


def test_tail_truncation(start, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"long line one\nhalf a li")
    tail = Tail(start, log)
    tail.wait(b"long line one\n")
    os.truncate(log, 0)
    tail.wait(b"long line one\nhalf a li\n")
    with log.open("ab", buffering=0) as f:
        f.write(b"new\n")
    tail.wait(b"long line one\nhalf a li\nnew\n")
    tail.end(b"long line one\nhalf a li\nnew\n")


def test_tail_deleted_and_made_again(start, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"1\n")
    tail = Tail(start, log)
    tail.wait(b"1\n")
    log.unlink()
    log.write_bytes(b"2\n")
    tail.wait(b"1\n2\n")
    tail.end(b"1\n2\n")


def test_tail_binary_bytes(start, tmp_path):
    log = tmp_path / "log"
    data = bytes(range(256)) * 64 + b"\n\0\n\xff\xfe\n"
    log.write_bytes(data)
    tail = Tail(start, log)
    tail.wait(data)
    tail.end(data)


def test_tail_huge_line_in_bounded_memory(start, tmp_path):
    log = tmp_path / "log"
    data = b"x" * (32 * 1024 * 1024)
    log.write_bytes(data)
    tail = Tail(start, log)
    with tail.changed:
        tail.changed.wait_for(lambda: len(tail.data) >= len(data) - 65536, PATIENCE)
    peak = next(line for line in open(f"/proc/{tail.process.pid}/status") if line.startswith("VmHWM"))
    if "libasan" not in run("ldd", TAIL).stdout:
        assert int(peak.split()[1]) < 4096, peak
    tail.end(data + b"\n")


def test_tail_ends_when_the_vm_has_ended(start, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"1\n2")
    tail = Tail(start, log)
    tail.wait(b"1\n")
    (tmp_path / "log-sigTerm").touch()
    assert tail.process.wait(PATIENCE) == 0
    tail.thread.join(PATIENCE)
    assert bytes(tail.data) == b"1\n2\n"


def test_tail_with_a_reader_that_does_not_read(start, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * 79 + b"\n" + (b"y" * 79 + b"\n") * 10000)
    p = start(TAIL, "--logfile", log, stdout=subprocess.PIPE)
    assert os.read(p.stdout.fileno(), 80) == b"x" * 79 + b"\n"
    p.terminate()
    assert p.wait(PATIENCE) == 0


def test_tail_with_a_reader_that_went(start, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"1\n")
    p = start(TAIL, "--logfile", log, stdout=subprocess.PIPE)
    assert os.read(p.stdout.fileno(), 80) == b"1\n"
    p.stdout.close()
    with log.open("ab") as f:
        f.write(b"2\n")
    assert p.wait(PATIENCE) == 0


# ---- virt-freezer and virt-probe -----------------------------------------------------------------------------------

INFO = 'GetGuestInfo={"response": {"success": true}, "guestInfoResponse": {"guestAgentVersion": "7.2"}}'
NAMES = ["--name", "vm", "--namespace", "ns"]
VMI = {"vmi": {"metadata": {"name": "vm", "namespace": "ns"}}}


@pytest.fixture
def serve(start, short_path):
    class Server:
        socket = short_path / "launcher-sock"

        def __init__(self, state, *script):
            self.process = start(SERVER, self.socket, state, *script, stdout=subprocess.PIPE, text=True)
            self.lines = Lines(self.process.stdout)
            self.lines.wait("serving")

        def calls(self):
            self.process.kill()
            return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in self.lines.rest()[1:]]

    return Server


def test_freeze(serve):
    server = serve("Running", INFO)
    r = run(FREEZER, "--freeze", *NAMES, "--socket", server.socket)
    assert r.returncode == 0, r.stderr
    assert server.calls() == [("GetGuestInfo", {}), ("FreezeVirtualMachine", dict(VMI, unfreezeTimeoutSeconds=300))]


def test_freeze_timeout_is_passed(serve):
    server = serve("Running", INFO)
    assert run(FREEZER, "--freeze", *NAMES, "--unfreezeTimeoutSeconds=0", "--socket", server.socket).returncode == 0
    assert server.calls()[-1] == ("FreezeVirtualMachine", dict(VMI, unfreezeTimeoutSeconds=0))


def test_unfreeze(serve):
    server = serve("Running", INFO)
    assert run(FREEZER, "--unfreeze", *NAMES, "--socket", server.socket).returncode == 0
    assert server.calls() == [("GetGuestInfo", {}), ("UnfreezeVirtualMachine", VMI)]


@pytest.mark.parametrize(
    "script",
    [
        ["Shutoff"],
        ["Running", 'GetGuestInfo={"guestInfoResponse": {"guestAgentVersion": ""}}'],
        ["Running", "GetGuestInfo={}"],
        ["Running", "GetGuestInfo=!AgentNotConnected:no agent"],
        ["Running", INFO, "FreezeVirtualMachine=!AgentNotConnected:it left"],
    ],
)
def test_nothing_to_freeze(serve, script):
    server = serve(*script)
    r = run(FREEZER, "--freeze", *NAMES, "--socket", server.socket)
    assert r.returncode == 0 and "nothing is done" in r.stderr
    assert "UnfreezeVirtualMachine" not in [name for name, _ in server.calls()]


@pytest.mark.parametrize("answer", ["!AgentError:the agent is not available for now", '{"success": false, "message": "Guest agent is not available for now"}'])
def test_freeze_that_hangs_is_undone(serve, answer):
    server = serve("Running", INFO, f"FreezeVirtualMachine={answer}")
    r = run(FREEZER, "--freeze", *NAMES, "--socket", server.socket)
    assert r.returncode == 1 and "cannot freeze ns/vm" in r.stderr
    assert server.calls()[-1] == ("UnfreezeVirtualMachine", VMI)


def test_freeze_that_times_out_is_undone(serve):
    server = serve("Running", INFO, "FreezeVirtualMachine=!TimedOut:the agent did not answer")
    assert run(FREEZER, "--freeze", *NAMES, "--socket", server.socket).returncode == 124
    assert server.calls()[-1] == ("UnfreezeVirtualMachine", VMI)


def test_freeze_that_is_refused(serve):
    server = serve("Running", INFO, "FreezeVirtualMachine=!AgentError:fsfreeze is blacklisted")
    r = run(FREEZER, "--freeze", *NAMES, "--socket", server.socket)
    assert r.returncode == 1 and "fsfreeze is blacklisted" in r.stderr
    assert server.calls()[-1][0] == "FreezeVirtualMachine"


@pytest.mark.parametrize("argv", [[FREEZER, "--freeze", *NAMES], [PROBE, "--domainName", "d", "--guestAgentPing"]])
def test_no_launcher(short_path, argv):
    r = run(*argv, "--socket", short_path / "nothing")
    assert r.returncode == 1
    record = json.loads(r.stderr.splitlines()[-1])
    assert record["level"] == "error" and record["code"] == "ConnectionLost" and "--socket" in record["remedy"]


def test_freezer_arguments():
    for bad in (["--freeze", "--unfreeze", *NAMES], ["--freeze", "--name", "vm"], NAMES, ["--freeze", *NAMES, "extra"]):
        assert run(FREEZER, *bad).returncode == 2, bad
    assert run(FREEZER, "--freeze", *NAMES, "--unfreezeTimeoutSeconds", "-1").returncode == 2


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_probe_exit_code(serve, code):
    server = serve("Running", f'Exec={{"exitCode": {code}, "stdOut": "hello\\n"}}')
    r = run(PROBE, "--socket", server.socket, "--domainName", "ns_vm", "--command", "cat", "--timeoutSeconds", "3", "--",
            "-n", "--help", "a b")  # fmt: skip
    assert r.returncode == code and r.stdout == "hello\n"
    assert server.calls() == [
        ("Exec", {"domainName": "ns_vm", "Command": "cat", "Args": ["-n", "--help", "a b"], "timeoutSeconds": 3})
    ]


def test_probe_code_that_would_wrap_to_success(serve):
    server = serve("Running", 'Exec={"exitCode": 256}')
    assert run(PROBE, "--socket", server.socket, "--domainName", "d", "--command", "x").returncode == 1


@pytest.mark.parametrize(
    "script, code",
    [(["Running"], 0), (["Running", "GuestPing=!AgentError:no"], 1), (["Shutoff"], 1), (["Running", "GuestPing=!TimedOut:x"], 124)],
)
def test_probe_ping(serve, script, code):
    server = serve(*script)
    assert run(PROBE, "--socket", server.socket, "--domainName", "d", "--guestAgentPing").returncode == code


def test_probe_without_an_answer(serve):
    server = serve("Running", "GuestPing=!silence:")
    r = run(PROBE, "--socket", server.socket, "--domainName", "d", "--guestAgentPing", "--timeoutSeconds", "0")
    assert r.returncode == 124


def test_probe_server_that_dies(serve, start):
    server = serve("Running", "Exec=!silence:")
    p = start(PROBE, "--socket", server.socket, "--domainName", "d", "--command", "x", "--timeoutSeconds", "60")
    server.lines.wait("Exec ")
    server.process.kill()
    assert p.wait(PATIENCE) == 1


def test_probe_arguments():
    for bad in (["--command", "x"], ["--domainName", "d"], ["--domainName", "d", "--command", "x", "--guestAgentPing"]):
        assert run(PROBE, *bad).returncode == 2, bad
