# SPDX-License-Identifier: Apache-2.0
"""--help of every verb, the man page, the completion scripts: all name the same verbs and options."""
import re
import shutil
import subprocess

import pytest
from conftest import TOP, VMLET

OVERVIEW = subprocess.run([VMLET, "help"], stdout=subprocess.PIPE, text=True, check=True).stdout
VERBS = re.findall(r"^  (\S+)\s+\S", OVERVIEW.split("Verbs:")[1], re.M)
MAN = (TOP / "docs" / "vmlet.1.scd").read_text()


def options_of_help(text):
    return set(re.findall(r"^ {2,}(?:-\w, )? *--([a-z-]+)", text, re.M)) - {"help"}


def man_sections():
    """Options that the man page names for each verb; those before the first verb of the group hold for all of it."""
    sections = {}
    group = set()
    verbs = []
    for line in MAN.splitlines():
        if line.startswith("# "):
            group, verbs = set(), []
        elif line.startswith("## "):
            verbs = [part.strip().split()[0] for part in line[3:].split(",")]
            for verb in verbs:
                sections[verb] = set(group)
        for option in re.findall(r"\*--([a-z-]+)\*", line) if line.startswith("*-") else []:
            if verbs:
                for verb in verbs:
                    sections[verb].add(option)
            else:
                group.add(option)
    return sections


SECTIONS = man_sections()
# What the text says in words: see the paragraphs named.
EXCEPT = {
    "smoke": lambda named: named | (SECTIONS["run"] - {"until"}),  # "Takes the options of run except --until"
    "console": lambda named: named - {"json"},  # "(not with console, screenshot and wait)"
    "screenshot": lambda named: named - {"json"},
    "wait": lambda named: named - {"json"},
    "unfreeze": lambda named: named - {"thaw-after"},
}


def test_verbs_are_known():
    assert {"explain", "run", "smoke", "status", "console", "stop", "probe", "help"} <= set(VERBS)
    assert len(VERBS) == len(set(VERBS))


@pytest.mark.parametrize("verb", VERBS)
def test_help(vmlet, verb):
    result = vmlet(verb, "--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.startswith(f"Usage: vmlet {verb}")
    assert "--help" in result.stdout
    assert result.stdout.endswith("\n")
    assert vmlet("help", verb).stdout == result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_man_page_has_the_same_options(vmlet, verb):
    named = SECTIONS[verb]
    named = EXCEPT.get(verb, lambda n: n)(named)
    assert named == options_of_help(vmlet(verb, "--help").stdout)


def test_man_page_has_no_other_verbs():
    assert set(SECTIONS) == set(VERBS)


def test_man_page_builds():
    scdoc = shutil.which("scdoc")
    if not scdoc:
        pytest.skip("no scdoc")
    page = subprocess.run([scdoc], input=MAN, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert ".SH NAME" in page and "EXIT STATUS" in page


def test_version(vmlet):
    assert re.fullmatch(r"vmlet \d+\.\d+\.\d+\n", vmlet("version").stdout)
    assert vmlet("--version").stdout == vmlet("version").stdout


def test_no_verb(vmlet):
    result = vmlet()
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Verbs:" in result.stderr
    assert vmlet("--help").stdout == OVERVIEW


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_option(vmlet, verb):
    result = vmlet(verb, "--hepl")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "no option --hepl (did you mean --help?)" in result.stderr


@pytest.mark.parametrize(
    "args, message",
    [
        (["statsu"], "no verb statsu (did you mean stat"),
        (["nonsense-verb"], "no verb nonsense-verb\n"),
        (["help", "statsu"], "no verb statsu"),
        (["explain"], "FILE is missing"),
        (["explain", "a", "b"], "too many arguments: b"),
        (["explain", "--format", "xml", "a"], "--format xml: not known (summary, argv, json)"),
        (["explain", "--format"], "--format needs a value"),
        (["explain", "--qemu-version", "new", "a"], "--qemu-version new: not a version"),
        (["explain", "--qemu-version", "7.2x", "a"], "not a version"),
        (["explain", "--qemu-version", "6.2", "a"], "older than any that vmlet drives"),
        (["stop", "--grace", "soon"], "--grace soon: not a duration"),
        (["stop", "--grace", "-3s"], "not a duration"),
        (["stop", "--grace", "1e400"], "not a duration"),
        (["stop", "--grace", "0x10"], "not a duration"),
        (["stop", "--wait=yes"], "--wait=yes takes no value"),
        (["events", "--from", "-1"], "not a whole number"),
        (["events", "--from", "99999999999999999999"], "not a whole number"),
        (["status", "-x"], "no option -x"),
        (["status", "--socket", "/x", "name"], "exclude each other"),
        (["completion", "tcsh"], "tcsh: no completion for this shell"),
        (["screenshot", "--socket", "/nowhere"], "cannot connect to /nowhere"),
    ],
)
def test_bad_arguments(vmlet, args, message):
    result = vmlet(*args)
    assert result.returncode == (1 if "/nowhere" in args else 2)
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_all(vmlet, shell):
    script = vmlet("completion", shell).stdout
    for verb in VERBS:
        assert verb in script
        for option in options_of_help(vmlet(verb, "--help").stdout):
            assert option in script


@pytest.mark.parametrize("shell", [s for s in ("bash", "zsh", "fish") if shutil.which(s)])
def test_completion_is_valid(vmlet, shell):
    script = vmlet("completion", shell).stdout
    assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def complete(script, *words):
    text = f"""{script}
COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}
compopt() {{ :; }}
_vmlet; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    result = subprocess.run(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    assert result.stderr == ""
    return result.stdout.split()


def test_bash_completion_answers(vmlet, tmp_path):
    script = vmlet("completion", "bash").stdout
    assert set(complete(script, "vmlet", "")) == set(VERBS) | {"--help", "--version"}
    assert complete(script, "vmlet", "unp") == ["unpause"]
    assert complete(script, "vmlet", "stop", "--gr") == ["--grace"]
    assert complete(script, "vmlet", "explain", "--accel", "") == ["auto", "kvm", "tcg"]
    assert set(complete(script, "vmlet", "help", "")) >= set(VERBS)
    (tmp_path / "vm.yaml").write_text("")
    assert complete(script, "vmlet", "explain", f"{tmp_path}/v") == [f"{tmp_path}/vm.yaml"]
    for verb in VERBS:
        wanted = options_of_help(vmlet(verb, "--help").stdout)
        assert {f"--{o}" for o in wanted} <= set(complete(script, "vmlet", verb, "--"))
