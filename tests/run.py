#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the test suites and add them up to one closing line: `N passed, N failed, N skipped`.

A suite is `unit` (meson's tests, gcc), `asan` (the same programs with the address and undefined-behaviour sanitizers),
or any folder tests/NAME that holds a test_*.py: pytest runs it. A new folder is found without an edit here. A folder
with a file `suite.ini` can say more:

    [suite]
    slow = true       ; not part of `./dev test`: it is run when named, and by .ci/run
    ci = false        ; nor of .ci/run: it is run only when named (takes too long, or does not hold yet)
    ci = FILE… -m "…" ; of .ci/run (VMLET_CI=1), but only these files of it, and what else pytest is to be told
    serial = true     ; its tests must not run two at a time
    workers = 4       ; so many tests at a time, each test by itself (default: 2, a whole file at a time)
    timeout = 600     ; seconds for one test (default 180)
    whole = 7200      ; seconds for all of them together (default 1800)
    report = NAME     ; a file that its tests write into build/test-logs, printed at the end
    packages = guest  ; groups of Debian packages that it needs besides those of ./dev test: ./dev deps installs them

With VMLET_MUST_WORK=1 a skip is a failure, unless tests/skips.txt allows it for a reason that holds on this machine.
"""
import argparse
import configparser
import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LOGS = TOP / "build" / "test-logs"
# Debian's own: it has Debian's pytest, whatever else is first in PATH.
PYTHON = "/usr/bin/python3"
MESON_SUITES = {
    "unit": ("build", []),
    "asan": ("build-asan", ["-Db_sanitize=address,undefined"]),
}
# Longest first would be quicker, but what is quick and broad first tells a developer sooner.
FIRST = ["lint", "unit", "asan", "golden", "cli", "qmp", "storage"]
SUITE_SECONDS = 30 * 60

# Reads the kernel's audit log and asks how it is set (linux/audit.h: AUDIT_GET), which is for the first PID namespace only.
AUDIT_ANSWERS = """
import socket, struct, sys
log, control = socket.socket(16, 3, 9), socket.socket(16, 3, 9)
log.bind((0, 1))
control.settimeout(10)
control.send(struct.pack("=IHHII", 16, 1000, 1, 1, 0))
sys.exit(struct.unpack_from("=IH", control.recv(8192))[1] != 1000)
"""

# What a line of tests/skips.txt may name as its condition, and how it is checked. `absent:PATH` is one too.
CONDITIONS = {
    "not-root": lambda: os.geteuid() != 0,
    "no-dummy-links": lambda: not command("ip", "link", "add", "vmletprobe0", "type", "dummy", undo="ip link del vmletprobe0"),
    "no-hugepages": lambda: Path("/proc/sys/vm/nr_hugepages").read_text().strip() == "0",
    "no-user-namespaces": lambda: not command("unshare", "--user", "true"),
    "no-oom-adjust": lambda: not may_lower_oom_score(),
    "no-scsi-devices": lambda: not list(Path("/dev").glob("sg[0-9]*")),
    # landlock_create_ruleset(2) for its version: 7 logs
    "no-landlock-log": lambda: not command(PYTHON, "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(444, None, 0, 1) < 7)"),
    "no-audit-log": lambda: not command(PYTHON, "-c", AUDIT_ANSWERS),
    "no-memory-cgroup": lambda: not any("memory" in text_of(f"/sys/fs/cgroup/{name}") for name in
                                        ("cgroup.controllers", "unified/cgroup.controllers"))
    and not os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
}


def text_of(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def holds(condition):
    kind, _, path = condition.partition(":")
    return not os.path.exists(path) if kind == "absent" else CONDITIONS[condition]()


def command(*argv, undo=None):
    ok = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    if ok and undo:
        subprocess.run(undo.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return ok


def may_lower_oom_score():
    child = "open('/proc/self/oom_score_adj', 'w').write('-1')"
    return command(PYTHON, "-c", child)


class Outcome:
    """Counts of one suite, and the names of what failed or was skipped."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []  # (test, reason)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


def in_a_real_root(argv):
    """In a chroot whose root is no mount point, `ip netns exec` and bind mounts of "/" fail: make it one, for the suite."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    if os.geteuid() != 0 or any(line.split()[4] == "/" for line in mounts):
        return argv
    script = (
        'd=$(mktemp -d); mount --rbind / "$d"; mount --make-rslave "$d"; trap \'umount -l "$d"; rmdir "$d"\' EXIT; '
        'chroot "$d" sh -c \'cd "$0" && exec "$@"\' "$0" "$@"'
    )
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, str(TOP), *argv]


def run(argv, log, env=None, seconds=SUITE_SECONDS):
    """Run in a process group of its own, output to `log` and (-v) here. None when it took longer than allowed."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            argv, cwd=TOP, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(timeout=seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as fault:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(fault, KeyboardInterrupt):
                raise
            return None


def tail(log, lines=60):
    text = Path(log).read_text(errors="replace").splitlines()
    return "\n".join(text[-lines:])


def build(folder, options):
    folder = TOP / folder
    if not (folder / "build.ninja").exists():
        command("rm", "-rf", str(folder))
        subprocess.run(["meson", "setup", str(folder), *options], cwd=TOP, check=False, stdout=subprocess.DEVNULL)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"ninja-{folder.name}.log"
    if run(["ninja", "-C", str(folder)], log) != 0:
        print(tail(log))
        return False
    return True


def run_meson(name):
    folder, options = MESON_SUITES[name]
    outcome = Outcome()
    if not build(folder, options):
        outcome.failed.append(f"{name}: the build in {folder}")
        return outcome
    log = LOGS / f"{name}.log"
    results = TOP / folder / "meson-logs" / "testlog.json"
    results.unlink(missing_ok=True)
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:abort_on_error=1", UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
    code = run(["meson", "test", "-C", folder, "--no-rebuild", "--print-errorlogs"], log, env)
    tests = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for test in tests:
        label = f"{name}:{test['name'].split(':')[-1]}"
        if test["result"] in ("OK", "EXPECTEDFAIL"):
            outcome.passed += 1
        elif test["result"] == "SKIP":
            outcome.skipped.append((label, "exit code 77"))
        else:
            outcome.failed.append(f"{label} ({test['result'].lower()})")
    if code is None or (code != 0 and not outcome.failed) or not tests:
        outcome.failed.append(f"{name}: meson test " + ("took too long" if code is None else f"ended with {code}"))
    if outcome.failed:
        print(tail(log, 200))
    return outcome


def settings(name):
    parser = configparser.ConfigParser(inline_comment_prefixes=";")
    parser.read(TOP / "tests" / name / "suite.ini")
    section = parser["suite"] if parser.has_section("suite") else {}
    return {
        "slow": section.get("slow", "false") == "true",
        "ci": section.get("ci", "true") != "false",
        "part": shlex.split(section.get("ci", "true")) if section.get("ci", "true") not in ("true", "false") else [],
        "serial": section.get("serial", "false") == "true",
        "workers": int(section.get("workers", "0")),
        "timeout": int(section.get("timeout", "180")),
        "whole": int(section.get("whole", SUITE_SECONDS)),
        "report": section.get("report"),
        "packages": section.get("packages", "").split(),
    }


def run_pytest(name, verbose, only):
    chosen = settings(name)
    outcome = Outcome()
    LOGS.mkdir(parents=True, exist_ok=True)
    log, report = LOGS / f"{name}.log", LOGS / f"{name}.xml"
    report.unlink(missing_ok=True)
    if chosen["packages"] and run(["./dev", "deps", *chosen["packages"]], log) != 0:
        print(tail(log))
        outcome.failed.append(f"{name}: ./dev deps {' '.join(chosen['packages'])}")
        return outcome
    # The folders that hold tests, not their parent: pytest takes options from the conftest.py of what it is given.
    folders = sorted({str(p.parent.relative_to(TOP)) for p in (TOP / "tests" / name).glob("**/test_*.py")})
    if chosen["part"] and os.environ.get("VMLET_CI") == "1":
        folders = [f"tests/{name}/{word}" if word.endswith(".py") else word for word in chosen["part"]]
    argv = [PYTHON, "-m", "pytest", *folders, "-ra", "-p", "no:cacheprovider", f"--junitxml={report}"]
    argv += [f"--timeout={chosen['timeout']}", *(["-k", only] if only else [])]
    if chosen["workers"]:
        argv += ["-n", str(chosen["workers"]), "--dist", "load"]
    elif not chosen["serial"]:
        argv += ["-n", str(min(2, os.cpu_count() or 1)), "--dist", "loadfile"]
    env = dict(os.environ, PYTHONPATH=str(TOP / "tests"), PYTHONDONTWRITEBYTECODE="1")
    code = run(in_a_real_root(argv), log, env, chosen["whole"])
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            label = f"{name}:{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                outcome.failed.append(label)
            elif skip is not None and skip.get("type") != "pytest.xfail":
                outcome.skipped.append((label, skip.get("message", "")))
            else:
                outcome.passed += 1
    if code is None:
        outcome.failed.append(f"{name}: took longer than {chosen['whole'] // 60} minutes and was killed")
    elif code != 0 and not outcome.failed:
        outcome.failed.append(f"{name}: pytest ended with {code}")
    if outcome.failed or verbose:
        print(tail(log, 200))
    if chosen["report"] and (LOGS / chosen["report"]).exists():
        print((LOGS / chosen["report"]).read_text())
    return outcome


def judge_skips(outcome):
    """VMLET_MUST_WORK=1: what was skipped without an allowed reason has failed."""
    allowed = []
    for line in (TOP / "tests" / "skips.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            allowed.append([field.strip() for field in line.split("|")])
    known = {}
    kept = []
    for test, reason in outcome.skipped:
        conditions = [c for p, r, c in allowed if fnmatch.fnmatchcase(test, p) and fnmatch.fnmatchcase(reason, r)]
        if any(known.setdefault(c, holds(c)) for c in conditions):
            kept.append((test, reason))
        else:
            outcome.failed.append(f"{test} was skipped, and this machine could run it ({reason})")
    outcome.skipped = kept


def kind_of(chosen):
    return "" if not chosen["slow"] else "  (slow)" if chosen["ci"] else "  (by name only)"


def find_suites():
    found = set(MESON_SUITES)
    for folder in (TOP / "tests").iterdir():
        if folder.is_dir() and any(folder.glob("**/test_*.py")):
            found.add(folder.name)
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def main():
    suites = find_suites()
    parser = argparse.ArgumentParser(prog="dev test", description="Run the tests that need no cluster.")
    parser.add_argument("suite", nargs="*", help="only these: " + " ".join(suites))
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--slow", action="store_true", help="the slow suites too")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what passing suites print")
    parser.add_argument("-k", metavar="EXPRESSION", help="of the named suites only the tests whose names it fits, as pytest has it")
    options = parser.parse_args()
    if options.k and not (options.suite and set(options.suite).isdisjoint(MESON_SUITES)):
        parser.error("-k takes the names of suites that pytest runs")
    if options.list:
        for name in suites:
            print(name + ("" if name in MESON_SUITES else kind_of(settings(name))))
        return 0
    unknown = [name for name in options.suite if name not in suites]
    if unknown:
        parser.error(f"no such suite: {' '.join(unknown)} (there are: {' '.join(suites)})")
    chosen = options.suite or [n for n in suites if options.slow or n in MESON_SUITES or not settings(n)["slow"]]

    total = Outcome()
    start = time.monotonic()
    if not build(*MESON_SUITES["unit"]):
        total.failed.append("the build in build")
        chosen = []
    for position, name in enumerate(chosen, 1):
        begin = time.monotonic()
        print(f"[{position}/{len(chosen)}] {name} …", flush=True)
        outcome = run_meson(name) if name in MESON_SUITES else run_pytest(name, options.verbose, options.k)
        total.add(outcome)
        print(
            f"[{position}/{len(chosen)}] {name}: {outcome.passed} passed, {len(outcome.failed)} failed,"
            f" {len(outcome.skipped)} skipped in {time.monotonic() - begin:.0f} s",
            flush=True,
        )
    if os.environ.get("VMLET_MUST_WORK") == "1":
        judge_skips(total)
    for test, reason in total.skipped:
        print(f"skipped: {test}: {reason}")
    for test in total.failed:
        print(f"FAILED: {test}")
    print(f"took {time.monotonic() - start:.0f} s; logs in {LOGS.relative_to(TOP)}")
    print(f"{total.passed} passed, {len(total.failed)} failed, {len(total.skipped)} skipped", flush=True)
    return 1 if total.failed or total.passed == 0 else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
