# SPDX-License-Identifier: Apache-2.0
"""What happens on a terminal: colours, and the console in its raw mode, restored on every way out."""
import os
import pty
import select
import signal
import subprocess
import termios
import time

import pytest
from conftest import VMLET, environment
from vmlet_lab import PATIENCE


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, *args, env=None):
        self.fd, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [str(VMLET), *map(str, args)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=env or environment(),
            start_new_session=True,
        )

    def read_until(self, text):
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65536)

    def type(self, text):
        os.write(self.fd, text)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def wait(self):
        """The exit code; what is still printed is taken meanwhile, since a full terminal would block it."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < end
            if select.select([self.fd], [], [], 0.01)[0]:
                self.seen += os.read(self.fd, 65536)
        while select.select([self.fd], [], [], 0)[0]:
            self.seen += os.read(self.fd, 65536)
        return self.process.returncode

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)
        os.close(self.slave)


@pytest.fixture
def terminal():
    opened = []

    def start(*args, **more):
        opened.append(Terminal(*args, **more))
        return opened[-1]

    yield start
    for t in opened:
        t.close()


def test_console(launch, terminal):
    launcher = launch()
    t = terminal("console", "--socket", launcher.socket)
    t.read_until(b"guest login: ")  # printed before we came: replayed
    assert t.is_raw()
    t.type(b"root\r")
    t.read_until(b"ROOT\r")
    t.type(b"\x03\x1a")  # ctrl-C and ctrl-Z are the guest's
    t.read_until(b"\x03\x1a")
    t.type(b"last\x1d not sent")
    assert t.wait() == 0
    assert b"left the console" in t.seen
    assert b"NOT" not in t.seen
    assert t.is_restored()


def test_two_viewers(launch, terminal):
    launcher = launch()
    first = terminal("console", "--socket", launcher.socket)
    first.read_until(b"guest login: ")
    first.type(b"one")
    first.read_until(b"ONE")
    second = terminal("console", "--socket", launcher.socket)
    second.read_until(b"guest login: ONE")
    second.type(b"two")
    second.read_until(b"TWO")
    first.read_until(b"TWO")
    first.type(b"\x1d")
    assert first.wait() == 0
    second.type(b"three")
    second.read_until(b"THREE")


def test_console_ends_with_the_vm(launch, terminal):
    launcher = launch()
    t = terminal("console", "--socket", launcher.socket)
    t.read_until(b"guest login: ")
    t.type(b"\x04")
    assert t.wait() == 0
    assert b"the VM has ended" in t.seen
    assert t.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signals_restore_the_terminal(launch, terminal, number):
    launcher = launch()
    t = terminal("console", "--socket", launcher.socket)
    t.read_until(b"guest login: ")
    assert t.is_raw()
    t.process.send_signal(signal.SIGWINCH)  # a resize is nothing to it
    t.type(b"x")
    t.read_until(b"X")
    t.process.send_signal(number)
    assert t.wait() == -number
    assert t.is_restored()


def test_stop_and_continue(launch, terminal):
    launcher = launch()
    t = terminal("console", "--socket", launcher.socket)
    t.read_until(b"guest login: ")
    t.process.send_signal(signal.SIGTSTP)
    pid, status = os.waitpid(t.process.pid, os.WUNTRACED)
    assert pid == t.process.pid and os.WIFSTOPPED(status)
    assert t.is_restored()
    t.process.send_signal(signal.SIGCONT)
    t.type(b"y")
    t.read_until(b"Y")
    assert t.is_raw()


def test_without_a_terminal(vmlet, launch):
    """Bytes from a pipe are typed as they are, ctrl-] too, and the output is what the guest printed."""
    launcher = launch()
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin:
        os.write(write, b"a\x1db\x04")
        os.close(write)
        result = vmlet("console", "--socket", launcher.socket, stdin=stdin)
    assert result.returncode == 0
    assert result.stdout.startswith("guest login: ")
    assert result.stderr == ""


def test_no_console(vmlet, launch):
    launcher = launch({"answers": {"GetDomain": {"vmlet": {"sockets": {"console": None}}}}})
    result = vmlet("console", "--socket", launcher.socket)
    assert result.returncode == 1
    assert "no serial console" in result.stderr and "autoattachSerialConsole" in result.stderr


@pytest.mark.parametrize(
    "changes, coloured",
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "NO_COLOR-empty", "dumb"],
)
def test_colours(launch, terminal, changes, coloured):
    launcher = launch()
    env = environment()
    env.update(changes)
    t = terminal("status", "--socket", launcher.socket, env=env)
    assert t.wait() == 0
    assert (b"\x1b[" in t.seen) == coloured
