# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import tempfile

import pytest
from fault_lab import Pod, Table, bios, build
from vmlet_lab import TOP, initramfs, vmi  # noqa: F401

TABLE = Table()


def pytest_sessionfinish(session):
    if TABLE.rows:
        logs = TOP / "build" / "test-logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "fault-table.txt").write_text(TABLE.text() + "\n")


def pytest_terminal_summary(terminalreporter):
    if TABLE.rows:
        terminalreporter.write_line(TABLE.text())


@pytest.fixture(scope="session")
def crashing():
    """The build with crash points."""
    return build("build-fault", "-Dcrash_points=true", "-Dtests=disabled")


@pytest.fixture
def table():
    return TABLE


@pytest.fixture
def lab(crashing, initramfs):
    """lab(guest=False, append="", flags=(), **spec): a pod, not started."""
    made = []

    def make(guest=False, append="", flags=(), environment=None, folder=None, **spec):
        tmp = tempfile.mkdtemp(prefix="fault-", dir="/tmp")
        manifest = vmi(append, **spec) if guest else bios(**spec)
        made.append(Pod(tmp, folder or crashing, manifest, initramfs if guest else None, environment, flags))
        return made[-1]

    if os.geteuid() != 0:
        pytest.skip("the monitor of a test reads the environment of its processes: root")
    yield make
    for pod in made:
        TABLE.leaks += pod.leftovers() if pod.ended() else ["a pod that did not end"]
        pod.close()
        shutil.rmtree(pod.tmp, ignore_errors=True)
