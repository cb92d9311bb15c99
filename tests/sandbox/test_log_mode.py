# SPDX-License-Identifier: Apache-2.0
"""The filters refuse nothing that our programs, QEMU and their helpers call: whole suites run with a build that lets such
calls through and writes them down, and nothing is written. That it would be is shown first."""
import os
import subprocess

import pytest
from fault_lab import build
from vmlet_lab import TOP, short_tmp  # noqa: F401

SUITES = ["cli", "launcher", "net", "pod", "qmp", "run", "storage"]


@pytest.fixture(scope="module")
def logging():
    return build("build-crash", "-Dcrash_points=true", more=["all"])


def test_a_call_is_written_down(logging, short_tmp):
    """A program that makes calls which are not on the list, in QEMU's place: it is asked what it can do."""
    log, program = short_tmp / "log", short_tmp / "qemu"
    program.write_text("#!/usr/bin/python3\nimport ctypes\nlibc = ctypes.CDLL(None)\n"
                       "libc.acct(None)\nlibc.acct(None)\nlibc.swapoff(None)\nraise SystemExit(1)\n")
    program.chmod(0o755)
    manifest = short_tmp / "vm.yaml"
    manifest.write_text("{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: x},"
                        " spec: {domain: {devices: {}, memory: {guest: 64Mi}}}}")
    subprocess.run(
        [logging / "src/vmlet/vmlet", "run", manifest, "--qemu", program, "--state-dir", short_tmp / "s"],
        env=dict(os.environ, VMLET_SANDBOX_LOG=str(log), VMLET_CACHE_DIR=str(short_tmp / "c")), check=False, timeout=120,
    )
    text = log.read_text()
    assert text.count("acct(") >= 2 and "swapoff(" in text, text


@pytest.mark.parametrize("suite", SUITES)
def test_suite_under_the_filters(logging, short_tmp, suite):
    os.chmod(short_tmp, 0o1777)  # launchers of other users write there too
    log = short_tmp / "log"
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", "-n", "2", "--dist", "loadfile",
         TOP / "tests" / suite],
        cwd=TOP, capture_output=True, text=True, check=False,
        env=dict({k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}, VMLET_BUILD=str(logging),
                 VMLET_SANDBOX_LOG=str(log), PYTHONPATH=str(TOP / "tests")),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert not log.exists(), log.read_text()
