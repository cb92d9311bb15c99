# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from fault_lab import Pod, Table, bios, build
from vmlet_lab import TOP, initramfs, vmi  # noqa: F401

LOGS = Path(os.environ.get("VMLET_FAULT_TABLE", TOP / "build" / "test-logs"))  # of a run beside another one
TABLE = Table(LOGS / "fault-table.jsonl")


def is_worker(config):
    return hasattr(config, "workerinput")


def pytest_sessionstart(session):
    if not is_worker(session.config):
        TABLE.clear()


def pytest_collection_modifyitems(items):
    """The longest first: what is begun last would be waited for alone."""
    items.sort(key=lambda item: not item.get_closest_marker("long"))


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes")


def pytest_terminal_summary(terminalreporter, config):
    if not is_worker(config) and TABLE.path.exists():
        text = TABLE.text()
        (LOGS / "fault-table.txt").write_text(text + "\n")
        terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def crashing():
    """The build with crash points."""
    return build("build-crash", "-Dcrash_points=true")


@pytest.fixture
def table():
    return TABLE


@pytest.fixture
def lab(crashing, initramfs):
    """lab(guest=False, append="", flags=(), …, **spec): a pod, not started."""
    made = []

    def make(guest=False, append="", flags=(), environment=None, folder=None, emulation=True, prefix=(), **spec):
        tmp = tempfile.mkdtemp(prefix="fault-", dir="/tmp")
        manifest = vmi(append, **spec) if guest else bios(**spec)
        made.append(Pod(tmp, folder or crashing, manifest, initramfs if guest else None, environment, flags, emulation, prefix))
        return made[-1]

    if os.geteuid() != 0:
        pytest.skip("the monitor of a test reads the environment of its processes: root")
    yield make
    for pod in made:
        TABLE.leak(*(pod.leftovers() if pod.ended() else ["a pod that did not end"]))
        pod.close()
        shutil.rmtree(pod.tmp, ignore_errors=True)
