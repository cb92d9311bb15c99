# SPDX-License-Identifier: Apache-2.0
"""docs/networking.md: its manifests, plans, links, rules and commands are what there is."""
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import BUILD
from test_guest import image

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "networking.md"
BLUE = "pod16477688c0e"


def blocks(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


TEXT = PAGE.read_text()
FRAME = blocks(TEXT, "frame")[0]
SECTIONS = {s.splitlines()[0]: s for s in re.split(r"^## ", TEXT, flags=re.M)[1:]}
EXAMPLES = [title for title, section in SECTIONS.items() if "```yaml" in section]


def write(lab, title, name="vm.yaml"):
    path = lab.directory / name
    path.write_text(FRAME + blocks(SECTIONS[title], "yaml")[0])
    return path


def plug(lab, title):
    if "blue" in SECTIONS[title]:
        lab.node.sh("ip link add blue type bridge; ip link set blue up; ip addr add 192.168.9.1/24 dev blue")
        lab.plug(lab.pod, BLUE, "ca:5f:48:41:7d:99", "192.168.9.5/24", bridge="blue", gateway=False)


def test_every_kind_has_its_example():
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("title", EXAMPLES)
def test_example(lab, title):
    section = SECTIONS[title]
    plug(lab, title)
    manifest = write(lab, title)
    said = lab.netsetup("plan", manifest).stdout.replace(", vhost)", ")").partition("  #  STEP")[0]
    got = [line for line in said.splitlines() if not line.startswith(("    note: ", "    runs "))]
    assert got == blocks(section, "plan")[0].splitlines()
    lab.netsetup("apply", manifest)
    links = re.findall(r"`([^`]+)`", re.search(r"^Links afterwards, by `ip link`:(.*)$", section, re.M).group(1))
    assert list(lab.pod.links()) == links
    rules = [re.sub(r"counter (packets \d+ bytes \d+ )?", "", line.strip()) for line in lab.pod.exec("nft", "list", "ruleset").stdout.splitlines()]
    for line in "".join(blocks(section, "rules")).splitlines():
        assert line in rules
    done = subprocess.run([BUILD / "src" / "vmlet" / "vmlet", "explain", manifest, "--accel", "tcg"], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    again = lab.netsetup("plan", manifest).stdout
    assert "passt" in title or "STEP" not in again  # set up: no steps
    lab.netsetup("teardown", manifest)


def test_commands(lab):
    """Each line, in the order of the page; `vmlet run` with a real QEMU, until it runs."""
    title = next(t for t in SECTIONS if "vmlet run" in t)
    write(lab, next(t for t in EXAMPLES if t.startswith("masquerade:")))
    write(lab, next(t for t in EXAMPLES if "Multus" in t), "two.yaml")
    lines = "".join(blocks(SECTIONS[title], "sh")).splitlines()
    assert {line.split()[-1] for line in lines if line.startswith("vmlet")} == {"user", "passt", "tap:one,two"}
    for line in lines:
        words = shlex.split(line)
        if words[0] == "vmlet":
            words = [BUILD / "src" / "vmlet" / "vmlet", *words[1:], "--state-dir", lab.directory / "vms", "--accel", "tcg", *image(),
                     "--until", "running", "--grace", "1s"]
        done = lab.pod.exec(*words, check=False, timeout=200, cwd=lab.directory)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
