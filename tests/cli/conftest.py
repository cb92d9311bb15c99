# SPDX-License-Identifier: Apache-2.0
"""vmlet as a process, and a launcher with scripted answers for it to talk to."""
import json
import os
import subprocess
from pathlib import Path

import pytest
from vmlet_lab import PATIENCE, wait_until

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
VMLET = BUILD / "src" / "vmlet" / "vmlet"
LAUNCHER = BUILD / "tests" / "cli" / "scripted-launcher"

DOMAIN = {
    "domain": {
        "kind": "Domain",
        "ObjectMeta": {"name": "testvm", "namespace": "default", "uid": "u1"},
        "Spec": {
            "Name": "default_testvm",
            "UUID": "11111111-2222-3333-4444-555555555555",
            "Devices": {
                "Disks": [{"Device": "disk", "Alias": {"Name": "root"}, "Target": {"Bus": "virtio", "Device": "vda"}}],
                "Interfaces": [{"Alias": {"Name": "default"}, "MAC": {"MAC": "02:00:00:00:00:01"}}],
            },
        },
        "Status": {
            "Status": "Paused",
            "Reason": "IOError",
            "Interfaces": [{"InterfaceName": "eth0", "Mac": "02:00:00:00:00:01", "IPs": ["10.0.2.2", "fe80::1"]}],
        },
    },
    "vmlet": {
        "accel": "tcg",
        "accelReason": "KVM here \u001b[31memulates",
        "pid": 4711,
        "qemuVersion": "7.2.22",
        "agentConnected": True,
        "interfaces": [{"name": "default", "mac": "02:00:00:00:00:01", "interfaceName": "eth0", "podInterfaceName": "eth0",
                        "infoSource": "domain, guest-agent", "queueCount": 1, "linkState": "up",
                        "ipAddress": "10.0.2.2", "ipAddresses": ["10.0.2.2", "fe80::1"]}],
        "agentVersion": "7.2",
        "since": "2026-01-01T00:00:00Z",
        "pauseVolume": "root",
        "ioError": {"volume": "root", "errno": "Input/output error", "attempts": 0, "nextTry": "2026-01-01T00:00:10Z"},
        "sockets": {},
        "stopping": {"phase": "asked", "why": "ctrl-C", "asked": "2026-01-01T00:00:01Z", "presses": 1},
    },
}


def environment(**changes):
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "XDG_RUNTIME_DIR", "VMLET_LOG_LEVEL")}
    env.update(TERM="xterm-256color", **changes)
    return env


@pytest.fixture
def vmlet(tmp_path):
    """Runs `vmlet ARGS…`, without a terminal, and returns the completed process."""

    def run(*args, stdin=subprocess.DEVNULL, env=None, **more):
        return subprocess.run(
            [str(VMLET), *map(str, args)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=env or environment(XDG_RUNTIME_DIR=str(tmp_path / "runtime")),
            **more,
        )

    return run


@pytest.fixture
def background():
    """Starts `vmlet ARGS…`; what still runs at the end of the test is ended."""
    started = []

    def start(*args):
        process = subprocess.Popen([str(VMLET), *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=environment())
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


class Launcher:
    def __init__(self, folder, script):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        script.setdefault("answers", {})
        domain = script["answers"].setdefault("GetDomain", json.loads(json.dumps(DOMAIN)))
        if "fail" not in domain:
            domain["vmlet"]["sockets"].setdefault("console", str(folder / "virt-serial0"))
        (folder / "script.json").write_text(json.dumps(script))
        self.process = subprocess.Popen([LAUNCHER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"
        self.socket = folder / "launcher-sock"

    def calls(self, method=None):
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [json.loads(line) for line in lines]
        return [c["params"] for c in calls if method in (None, c["method"])]

    def await_call(self, method):
        wait_until(lambda: self.calls(method), f"a call of {method}")

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
        code = self.process.wait(timeout=PATIENCE)
        self.process.stdout.close()
        if not self.process.stdin.closed:
            self.process.stdin.close()
        return code


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(script=None, name="vm"):
        launcher = Launcher(tmp_path / name, script or {})
        started.append(launcher)
        return launcher

    yield start
    for launcher in started:
        assert launcher.end() == 0
