# SPDX-License-Identifier: Apache-2.0
"""Rules of HACKING.md and ARCHITECTURE.md that can be checked by reading the files."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent

# A room (folder), and the rooms it may include besides itself: what the arrows of ARCHITECTURE.md lead to.
BASE = {"base"}
JSON = BASE | {"json"}
RPC = JSON | {"rpc"}
QMP = JSON | {"qmp"}
VMI = JSON | {"vmi"}
NET = VMI | {"netsetup"}
MACHINE = VMI | {"machine"}
STORAGE = VMI | {"storage"}
HOST = MACHINE | {"host"}
DOMAIN = MACHINE | STORAGE | QMP | NET | RPC | HOST | {"domain"}
ALLOWED = {
    "src/base": set(),
    "src/json": BASE,
    "src/rpc": JSON,
    "qmp": JSON,
    "qmp/shell": QMP | RPC,  # a program: without a SOCKET it goes through the command server
    "src/vmi": JSON,
    "netsetup": VMI,
    "src/machine": VMI,
    "src/storage": VMI,
    "src/host": MACHINE,
    "src/domain": DOMAIN - {"domain"},
    "src/launcher": DOMAIN,
    "src/monitor": BASE,
    "src/tools": DOMAIN,
    "src/vmlet": DOMAIN | {"k8s"},
    "k8s/client": JSON,
    "k8s/crdgen": VMI | {"k8s"},
    "examples/qmp": {"qmp"},  # the public contracts, as another program sees them
    "examples/control": {"rpc"},  # <vmlet/control.h> only
    "k8s/render": NET,  # names of interfaces in the pod are the network plan's
    "k8s/controller": VMI | {"k8s"},
    "k8s/handler": NET | RPC | {"k8s", "storage"},
}
# A public contract, and the room it belongs to: include/vmlet/NAME.h.
CONTRACTS = {"vmi.h": "vmi", "qmp.h": "qmp", "control.h": "rpc", "version.h": "base", "value.h": "base"}
# An exception is a file and the include it is allowed, each with its reason.
EXCEPTIONS: dict = {}


def tracked(*patterns):
    """Files that git knows, and new ones that it does not ignore."""
    out = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "ls-files", "-co", "--exclude-standard", "--", *patterns],
        cwd=TOP, check=True, capture_output=True, text=True,
    ).stdout
    return [TOP / line for line in out.splitlines() if (TOP / line).is_file()]


C_FILES = tracked("*.c", "*.h")


def room_of(path):
    relative = path.relative_to(TOP).as_posix()
    return next((room for room in sorted(ALLOWED, key=len, reverse=True) if relative.startswith(room + "/")), None)


def target_of(include):
    """The room that an include leads to: ("src/base", "base"), or None for a system header."""
    if include.startswith("<vmlet/"):
        return CONTRACTS.get(include[len("<vmlet/") : -1], include)
    if include.startswith("<"):
        return None
    first = include.strip('"').split("/")[0]
    return {"src": "src"}.get(first, first)


def wrong_includes(room, path, text):
    own = room.split("/")[-1] if not room.startswith("k8s") else "k8s"
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+(["<][^">]+[">])', line)
        if not match:
            continue
        target = target_of(match.group(1))
        if target is None or target == own or target in ALLOWED[room]:
            continue
        if target.endswith(".h") and "/" not in match.group(1):
            continue  # a generated header (vmlet-config.h), or one beside the file
        if (str(path), match.group(1)) in EXCEPTIONS:
            continue
        faults.append(f"{path}:{number}: {room} may not include {match.group(1)}")
    return faults


def test_includes_follow_the_arrows():
    faults = []
    for path in C_FILES:
        room = room_of(path)
        if room:
            faults += wrong_includes(room, path.relative_to(TOP), path.read_text())
    assert not faults, "\n".join(faults)


def test_the_include_test_sees_a_wrong_arrow():
    assert wrong_includes("qmp", "qmp/x.c", '#include "vmi/vmi.h"\n')
    assert wrong_includes("src/base", "x.c", "#include <vmlet/vmi.h>\n")
    assert wrong_includes("src/machine", "x.c", '#include "domain/domain.h"\n')
    assert not wrong_includes("src/domain", "x.c", '#include "qmp/client.h"\n#include <stdio.h>\n#include "base/fd.h"\n')


def test_every_folder_of_sources_is_a_room():
    places = {p.relative_to(TOP).parent.as_posix() for p in C_FILES}
    unknown = [p for p in places if not p.startswith(("tests", "include")) and not room_of(TOP / p / "x")]
    assert not unknown, f"not in the table of tests/lint/test_source.py: {unknown}"


def test_licence_line():
    patterns = ("*.c", "*.h", "*.py", "*.sh", "*/meson.build", "meson.build", "dev", ".ci/run", "tests/guest/*")
    missing = [
        str(p.relative_to(TOP))
        for p in tracked(*patterns)
        if "SPDX-License-Identifier: Apache-2.0" not in "".join(p.read_text(errors="replace").splitlines(True)[:3])
        and p.suffix in (".c", ".h", ".py", ".sh", ".build", "")
    ]
    assert not missing, missing


def test_file_length():
    """About a thousand lines is the house's limit; 1200 is refused."""
    long = {str(p.relative_to(TOP)): n for p in C_FILES if (n := len(p.read_text().splitlines())) > 1200}
    assert not long, f"split these: {long}"


SLEEPS = re.compile(r"\b(sleep|usleep|nanosleep|clock_nanosleep|thrd_sleep)\s*\(")


def without_comments(text):
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', lambda m: "\n" * m.group(0).count("\n"), text, flags=re.S)


def test_nothing_sleeps():
    faults = []
    for path in C_FILES:
        if path.relative_to(TOP).parts[0] == "tests":
            continue
        for number, line in enumerate(without_comments(path.read_text()).splitlines(), 1):
            if SLEEPS.search(line):
                faults.append(f"{path.relative_to(TOP)}:{number}: {line.strip()}")
    assert not faults, "\n".join(faults)


# Where packages and images of languages and containers are fetched from. The build needs none of them: Debian's
# packages are enough, and a mirror is the user's to choose. (In parts, so that this file passes its own test.)
REGISTRIES = [
    "pypi." "org", "pythonhosted." "org", "npmjs." "org", "registry.yarn" "pkg", "crates." "io", "rubygems." "org",
    "proxy.golang." "org", "docker." "io", "hub.docker." "com", "ghcr." "io", "gcr." "io", "registry.k8s." "io",
    "deb.debian." "org", "archive.ubuntu." "com",
]
# Manifests are users' input: an image's name in one is data. So it is in the documents that show such manifests.
MAY_NAME_IMAGES = ("tests/golden/", "tests/fuzz/corpus/", "tests/manifests/", "tests/data/", "examples/", "docs/", "k8s/image/")


def test_no_registry_is_named():
    faults = []
    for path in tracked("*"):
        relative = path.relative_to(TOP).as_posix()
        if relative.startswith(MAY_NAME_IMAGES) or path.suffix in (".yaml", ".yml"):
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if any(name in line for name in REGISTRIES):
                faults.append(f"{relative}:{number}: {line.strip()[:100]}")
    assert not faults, "\n".join(faults)


def test_clang_format():
    tool = shutil.which("clang-format")
    if not tool:
        pytest.skip("clang-format is not installed: ./dev deps test")
    run = subprocess.run([tool, "--dry-run", "-Werror", *map(str, C_FILES)], capture_output=True, text=True, check=False)
    wrong = sorted({line.split(":")[0] for line in run.stderr.splitlines() if "error: code should be" in line})
    assert run.returncode == 0, "clang-format -i these (./dev lint --fix):\n" + "\n".join(wrong)


def test_shell_scripts_parse():
    for path in [TOP / "dev", TOP / ".ci/run", *tracked("tests/guest/*")]:
        first = path.read_text(errors="replace").splitlines()[:1]
        if first and first[0] in ("#!/bin/bash", "#!/bin/sh"):
            shell = first[0].split("/")[-1]
            run = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr


def test_dev_lists_each_verb():
    text = (TOP / "dev").read_text()
    verbs = set(re.findall(r"^verb_(\w+)\(\)", text, re.M))
    told = set(re.findall(r"^#: (\w+)", text, re.M))
    assert verbs == told
    usage = subprocess.run([str(TOP / "dev"), "help"], capture_output=True, text=True, check=True).stdout
    assert all(f"  {verb} " in usage for verb in verbs)


def test_every_library_of_the_build_is_in_the_package_list():
    """What meson asks pkg-config for comes from a package that `./dev deps` installs."""
    names = set()
    for path in tracked("meson.build", "*/meson.build"):
        names |= set(re.findall(r"\bdependency\(\s*'([^']+)'", path.read_text()))
    listed = subprocess.run([TOP / "dev", "deps", "--print"], capture_output=True, text=True, check=True).stdout.split()
    missing = []
    for name in sorted(names):
        folder = subprocess.run(["pkg-config", "--variable=pcfiledir", name], capture_output=True, text=True, check=False)
        owner = subprocess.run(["dpkg", "-S", f"{folder.stdout.strip()}/{name}.pc"], capture_output=True, text=True, check=False)
        package = owner.stdout.split(":")[0]
        if package not in listed:
            missing.append(f"{name} ({package or 'not installed here'})")
    assert not missing, f"not in the package list of ./dev: {missing}"


def test_error_codes_are_explained():
    """docs/support.md has each code of base/error.h once, with its exit code."""
    header, page = ((TOP / name).read_text() for name in ("src/base/error.h", "docs/support.md"))
    numbers = dict(re.findall(r"(EXIT_\w+) = (\d+),", header))
    codes = {name: numbers[code] for name, code in re.findall(r'X\(\w+, "(\w+)", (EXIT_\w+)\)', header)}
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.M)
    assert len(told) == len(codes) > 20 and dict(told) == codes


def test_fields_that_are_not_built_are_told():
    """docs/kubevirt.md names each field that the tables refuse."""
    page = (TOP / "docs/kubevirt.md").read_text().split("## Not built")[1]
    rows = [row for path in (TOP / "src/vmi").glob("table-*.c") for row in path.read_text().split("FIELD_")
            if row.startswith(("STRING", "BOOL", "POINTER", "RAW", "LIST")) or "NOT_BUILT" in row]
    missing, found = [], 0
    for before, row in zip(rows, rows[1:]):
        if row.startswith("NOT_BUILT"):  # the row before the split has the field's name as its first text
            found += 1
            name = re.search(r'"(\w+)"', before)[1]
            missing += [name] if f"`{name}`" not in page else []
    assert found >= 10 and not missing, missing
