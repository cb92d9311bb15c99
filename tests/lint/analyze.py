#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""clang-tidy and cppcheck over the sources, two at a time, from the compile commands of build/.

A file whose text, headers and settings have not changed since it was last found clean is not read again (the stamps
are in build/lint/). Prints every finding; exits 1 if there is one.
"""
import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = TOP / "build"
STAMPS = BUILD / "lint"
CPPCHECK = [
    "cppcheck", "--quiet", "--std=c11", "--error-exitcode=1", "--inline-suppr", "--enable=warning,performance,portability",
    # cppcheck 2.10 does not know __attribute__((cleanup)) either, nor TAKE_PTR.
    "--suppress=memleak", "--suppress=uninitdata", "--suppress=uninitvar", "--suppress=legacyUninitvar", "--suppress=internalAstError",
    # Nor the list macros of sys/queue.h, nor that glibc's NULL is a pointer in a variable argument list.
    "--suppress=nullPointerRedundantCheck", "--suppress=nullPointerArithmetic", "--suppress=varFuncNullUB", "--suppress=syntaxError", "--suppress=missingIncludeSystem", "--suppress=unknownMacro", "--suppress=normalCheckLevelMaxBranches",
    "--template={file}:{line}: {severity}: {message} [{id}]", "-D_GNU_SOURCE", "-D__linux__", "-D__x86_64__", "-Isrc", "-Iinclude", "-I.",
]


def sources():
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    found = {Path(os.path.normpath(Path(c["directory"]) / c["file"])) for c in commands}
    return sorted(p for p in found if p.suffix == ".c" and BUILD not in p.parents)


def common_key():
    """Changes with any header or setting: a finding may stand in what is included."""
    digest = hashlib.sha256()
    for path in sorted([*TOP.glob("**/*.h"), TOP / ".clang-tidy", Path(__file__)]):
        if "build" not in path.relative_to(TOP).parts[0]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def check(path, shared):
    stamp = STAMPS / (str(path.relative_to(TOP)).replace("/", "%") + ".clean")
    key = hashlib.sha256(shared.encode() + path.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == key:
        return None
    findings = []
    tidy = subprocess.run(
        ["clang-tidy", "--quiet", "-p", str(BUILD), "--extra-arg=-Wno-unknown-warning-option", str(path)],
        cwd=TOP, capture_output=True, text=True, check=False,
    )
    if tidy.returncode != 0:
        findings.append(tidy.stdout.strip() or tidy.stderr.strip())
    plain = subprocess.run([*CPPCHECK, str(path)], cwd=TOP, capture_output=True, text=True, check=False)
    if plain.returncode != 0:
        findings.append(plain.stderr.strip())
    if not findings:
        stamp.write_text(key)
    return findings


def main():
    start = time.monotonic()
    STAMPS.mkdir(parents=True, exist_ok=True)
    files = sources()
    shared = common_key()
    wrong = read = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for path, findings in zip(files, pool.map(lambda p: check(p, shared), files)):
            read += findings is not None
            if findings:
                wrong += 1
                print("\n".join(findings), flush=True)
    print(f"clang-tidy and cppcheck: {len(files)} files, {read} read, {wrong} with findings, {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
