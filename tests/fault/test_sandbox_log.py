# SPDX-License-Identifier: Apache-2.0
"""The launcher's filter refuses nothing that launcher, QEMU and their helpers call: whole suites run with a build that lets
such calls through and writes them down, and nothing is written. That it would be is shown first."""
import os
import subprocess

import pytest
from fault_lab import build
from vmlet_lab import TOP

# Suites, and the programs that they run.
SUITES = {"launcher": "src/launcher/virt-launcher", "storage": "src/vmlet/vmlet"}


@pytest.fixture(scope="module")
def logging():
    return build("build-crash", "-Dcrash_points=true", more=sorted(set(SUITES.values())))


def test_a_call_is_written_down(logging, tmp_path):
    """A program that makes a call which is not on the list, in QEMU's place: it is asked what it can do."""
    log, program = tmp_path / "log", tmp_path / "qemu"
    program.write_text("#!/usr/bin/python3\nimport ctypes\nctypes.CDLL(None).acct(None)\nraise SystemExit(1)\n")
    program.chmod(0o755)
    manifest = tmp_path / "vm.yaml"
    manifest.write_text("{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: x},"
                        " spec: {domain: {devices: {}, memory: {guest: 64Mi}}}}")
    subprocess.run(
        [logging / "src/vmlet/vmlet", "run", manifest, "--qemu", program, "--state-dir", tmp_path / "s"],
        env=dict(os.environ, VMLET_SANDBOX_LOG=str(log), VMLET_CACHE_DIR=str(tmp_path / "c")), check=False, timeout=60,
    )
    assert "acct(" in log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("suite", sorted(SUITES))
def test_suite_under_the_filter(logging, table, tmp_path, suite):
    log = tmp_path / "log"
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=240", "-n", "2", "--dist", "loadfile",
         # the program that is executed anew would be a second listener of the same process
         "-k", "not test_hangup_executes_the_launcher_anew", TOP / "tests" / suite],
        cwd=TOP, capture_output=True, text=True, check=False,
        env=dict({k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}, VMLET_BUILD=str(logging),
                 VMLET_SANDBOX_LOG=str(log), PYTHONPATH=str(TOP / "tests")),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert not log.exists() or log.read_text() == ""
    table.add(f"suite {suite} under the launcher's filter", "no call refused")
