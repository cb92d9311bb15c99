# SPDX-License-Identifier: Apache-2.0
"""The corpora of the fuzz targets, and the unit programs, once more under valgrind's memcheck: it sees what the sanitizers do
not, the use of memory that nobody has written. What it cannot run is named here, each with the reason, and in the report."""
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from vmlet_lab import TOP

BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
REPORT = TOP / "build" / "test-logs" / "memcheck.txt"

NO_PIDFD = "starts programs: valgrind 3.19 has no pidfd_open(2)"
LEFT_OUT = {
    "test-accel": NO_PIDFD,
    "test-base": NO_PIDFD,
    "test-caps": NO_PIDFD,
    "test-node-labels": NO_PIDFD,
    "test-storage": NO_PIDFD + ", nor openat2(2)",
    "test-storage-claims": NO_PIDFD + ", nor openat2(2)",
    "test-storage-trust": NO_PIDFD + ", nor openat2(2)",
    "test-storage-node": NO_PIDFD + ", nor openat2(2)",
    "test-storage-crash": NO_PIDFD + "; ends its children at each of their writes",
    "test-monitor": "loads filters and watches processes: valgrind 3.19 has neither seccomp(2) nor pidfd_open(2)",
    "test-sandbox": "loads filters and rules: valgrind 3.19 has neither seccomp(2) nor Landlock",
    "test-k8s": "measures the memory of its own process, which is valgrind's then",
    "test-qmp-client": "minutes: answers of the greatest size; corpus-qmp-client runs",
    "test-qmp-framing": "minutes: every message cut at every byte; corpus-qmp-framing runs",
    "test-rpc-server": "minutes: requests of the greatest size, which have a deadline; corpus-rpc runs",
}
MEMCHECK = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite,indirect",
            "--errors-for-leak-kinds=definite,indirect", "--num-callers=20"]


def programs():
    """{name: command} of meson's tests in the suites unit and fuzz."""
    tests = json.loads((BUILD / "meson-info" / "intro-tests.json").read_text())
    return {t["name"]: t["cmd"] for t in tests if t["suite"][0].split(":")[-1] in ("unit", "fuzz")}


def errors_of(command, folder):
    """Its exit code and what memcheck says, of the program and of the children that it forks."""
    with open(folder / "out", "w+b") as out:
        process = subprocess.Popen([*MEMCHECK, *command], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True)
        try:
            code = process.wait(500)
        finally:
            try:  # a program that has failed may leave children
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        out.seek(0)
        text = out.read().decode(errors="replace")
    return code, [line for line in text.splitlines() if re.match(r"==\d+==", line)], text


@pytest.mark.parametrize("name", sorted(set(programs()) - set(LEFT_OUT)))
def test_program(name, tmp_path):
    code, errors, text = errors_of(programs()[name], tmp_path)
    assert (code, errors) == (0, []), text[-8000:]


def test_memcheck_sees_it(tmp_path):
    """A byte that nobody has written, and one that is lost."""
    for fault, said in (("volatile char *p = malloc(4); if (p[2]) puts(\"x\"); free((void *)p);", "uninitialised value"),
                        ("volatile char *p = malloc(4); p[0] = 1; p = 0;", "definitely lost")):
        source, program = tmp_path / "fault.c", tmp_path / "fault"
        source.write_text("#include <stdio.h>\n#include <stdlib.h>\nint main(void){" + fault + "return 0;}\n")
        subprocess.run(["gcc", "-g", "-O0", "-o", program, source], check=True)
        code, errors, _ = errors_of([program], tmp_path)
        assert code == 99 and any(said in line for line in errors), errors


def test_what_is_left_out():
    """Is there still, and told."""
    assert sorted(set(LEFT_OUT) - set(programs())) == []
    lines = [f"{len(programs()) - len(LEFT_OUT)} programs run under memcheck; left out:"]
    lines += [f"  {name:20} {why}" for name, why in LEFT_OUT.items()]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")
