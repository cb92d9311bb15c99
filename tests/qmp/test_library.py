# SPDX-License-Identifier: Apache-2.0
"""libqmp without the rest of the project: installed, and examples/qmp built by what its pkg-config file says."""
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from vmlet_lab import listens, wait_until

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
ARCHIVE = BUILD / "qmp" / "libvmlet-qmp.a"
QEMU, QGA, CC, MESON, PKG_CONFIG = (
    shutil.which(name) for name in ("qemu-system-x86_64", "qemu-ga", "cc", "meson", "pkg-config"))
WAIT = 30

pytestmark = [
    pytest.mark.skipif(not ARCHIVE.exists() or not CC, reason="needs the built archive and a compiler"),
    pytest.mark.skipif(not MESON or not PKG_CONFIG, reason="needs meson and pkg-config"),
]
SANITIZE = ["-fsanitize=address,undefined"] if "asan" in BUILD.name else []


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """What a package of the library would hold; the environment in which pkg-config finds it."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run([MESON, "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root], check=True,
                   stdout=subprocess.DEVNULL)
    (description,) = root.rglob("vmlet-qmp.pc")
    return dict(os.environ, PKG_CONFIG_PATH=str(description.parent), PKG_CONFIG_SYSROOT_DIR=str(root))


def flags(installed):
    return subprocess.run([PKG_CONFIG, "--cflags", "--libs", "vmlet-qmp"], check=True, env=installed, capture_output=True,
                          text=True).stdout.split()


def build(name, directory, installed):
    program = directory / name
    subprocess.run([CC, "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", *SANITIZE,
                    TOP / "examples" / "qmp" / f"{name}.c", *flags(installed), "-o", program], check=True)
    return program


def test_what_is_installed(installed, tmp_path):
    """Every example builds; the header stands alone, in C++ too; the archive needs nothing that it does not name."""
    examples = sorted(path.stem for path in (TOP / "examples" / "qmp").glob("*.c"))
    assert len(examples) >= 2
    for name in examples:
        build(name, tmp_path, installed)
    assert f'-I{installed["PKG_CONFIG_SYSROOT_DIR"]}' in " ".join(flags(installed))
    source = "#include <vmlet/qmp.h>\nint main(void) { return qmp_error_class(NULL) != NULL; }\n"
    for language, compiler in ("c", CC), ("c++", shutil.which("c++")):
        if compiler:
            program = tmp_path / "alone"
            subprocess.run([compiler, "-x", language, "-Wall", "-Wextra", "-Werror", *SANITIZE, "-", "-x", "none",
                            *flags(installed), "-o", program], check=True, input=source, text=True)
            subprocess.run([program], check=True)


@pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64")
def test_watch_vm(tmp_path, installed):
    program = build("watch-vm", tmp_path, installed)
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
def test_guest_run(tmp_path, installed):
    program = build("guest-run", tmp_path, installed)
    path = tmp_path / "qga.sock"
    agent = subprocess.Popen([QGA, "-m", "unix-listen", "-p", path, "-t", tmp_path, "-f", tmp_path / "pid"])
    try:
        wait_until(lambda: listens(path) or agent.poll() is not None, "the agent listens")
        done = subprocess.run([program, path, "/bin/sh", "-c", "echo out; echo err >&2; exit 6"], capture_output=True,
                              text=True, timeout=WAIT)
        assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 6)
    finally:
        agent.kill()
        agent.wait()


@pytest.mark.skipif(not QEMU, reason="no qemu-system-x86_64")
@pytest.mark.timeout(600)
def test_million_events():
    """Of a real QEMU, to 64 sessions on one thread, without growth in memory; the program says the figures."""
    done = subprocess.run([BUILD / "tests" / "qmp" / "test-qmp-live", "test_event_flood"], capture_output=True, text=True,
                          check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
