# SPDX-License-Identifier: Apache-2.0
"""libqmp without the rest of the project: examples/qmp built from the public header and the archive alone."""
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
ARCHIVE = BUILD / "qmp" / "libvmlet-qmp.a"
QEMU, QGA, CC = (shutil.which(name) for name in ("qemu-system-x86_64", "qemu-ga", "cc"))
WAIT = 30

pytestmark = pytest.mark.skipif(not ARCHIVE.exists() or not CC, reason="needs the built archive and a compiler")


def build(name, directory):
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "jansson", "libsystemd"], check=True,
                           capture_output=True, text=True).stdout.split()
    program = directory / name
    sanitize = ["-fsanitize=address,undefined"] if "asan" in BUILD.name else []
    subprocess.run([CC, "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", *sanitize, f"-I{TOP}/include",
                    TOP / "examples" / "qmp" / f"{name}.c", ARCHIVE, *flags, "-o", program], check=True)
    return program


@pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64")
def test_watch_vm(tmp_path):
    program = build("watch-vm", tmp_path)
    ours, theirs = socket.socketpair()
    path = tmp_path / "qmp.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    qemu = subprocess.Popen(
        [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-S",
         "-chardev", f"socket,id=a,fd={listener.fileno()},server=on,wait=off", "-mon", "chardev=a,mode=control",
         "-chardev", f"socket,id=b,fd={theirs.fileno()}", "-mon", "chardev=b,mode=control"],
        pass_fds=[listener.fileno(), theirs.fileno()])
    try:
        watcher = subprocess.Popen([program, path, "RES*"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watcher.stdout.readline() == "status: prelaunch\n"
        ours.sendall(b'{"execute": "qmp_capabilities"}{"execute": "cont"}{"execute": "stop"}{"execute": "quit"}')
        out, err = watcher.communicate(timeout=WAIT)
        assert out.split()[1:] == ["RESUME", "{}"] and "QEMU closed it" in err
        assert watcher.returncode == 0
    finally:
        qemu.kill()
        qemu.wait()


@pytest.mark.skipif(not QGA, reason="no qemu-ga")
def test_guest_run(tmp_path):
    program = build("guest-run", tmp_path)
    path = tmp_path / "qga.sock"
    agent = subprocess.Popen([QGA, "-m", "unix-listen", "-p", path, "-t", tmp_path, "-f", tmp_path / "pid"])
    try:
        end = time.monotonic() + WAIT
        while not path.exists():
            assert time.monotonic() < end and agent.poll() is None
            time.sleep(0.01)
        done = subprocess.run([program, path, "/bin/sh", "-c", "echo out; echo err >&2; exit 6"], capture_output=True,
                              text=True, timeout=WAIT)
        assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 6)
    finally:
        agent.kill()
        agent.wait()
