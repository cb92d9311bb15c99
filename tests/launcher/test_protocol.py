# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md is true: its transcripts are replayed, its table of methods is what the server describes.

VMLET_WRITE_PROTOCOL=1 writes the answers and the table of a run into the document, for review by git diff."""
import json
import os
import re
import socket
import subprocess

from vmlet_lab import PATIENCE, TOP, wait_until

DOCUMENT = TOP / "docs" / "protocol.md"
WRITE = os.environ.get("VMLET_WRITE_PROTOCOL") == "1"
# What differs from run to run, by the member's name.
VARIABLE = {"accel", "Type", "pid", "seq", "next", "time", "since", "qemuVersion", "accelReason"}
STAMP = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def normalise(value, name=None):
    if name in VARIABLE:
        return f"<{name}>"
    if isinstance(value, dict):
        return {k: normalise(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [normalise(v) for v in value]
    if isinstance(value, str):
        return STAMP.sub("<stamp>", value)
    return value


def only(value, shown):
    """The members of value that are shown."""
    if isinstance(value, dict) and isinstance(shown, dict):
        return {k: only(v, shown[k]) for k, v in value.items() if k in shown}
    return value


class Connection:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rwb")

    def send(self, line):
        self.file.write(line.encode() + b"\n")
        self.file.flush()

    def receive(self):
        """The next line but for what the agent tells of the guest, which comes when it comes."""
        while True:
            line = self.file.readline()
            assert line, "the server closed the connection"
            message = json.loads(line)
            if message.get("method") != "Event" or message["params"]["type"] != "Agent":
                return message

    def close(self):
        self.file.close()
        self.socket.close()


def replay(pod, block, line_number):
    """The block as it went, and the faults found."""
    connection, result, faults = Connection(pod.socket), [], []
    for i, line in enumerate(block):
        mark, _, text = line.partition(" ")
        if mark == ">":
            connection.send(text)
            result.append(line)
            continue
        assert mark in ("<", "<~"), line
        answer = connection.receive()
        expected = json.loads(text) if text.strip() else None
        seen = answer if mark == "<" else only(answer, expected)
        same = normalise(seen) == normalise(expected)
        result.append(line if same or mark == "<~" else "< " + json.dumps(answer))
        if not same:
            faults.append(f"docs/protocol.md:{line_number + i}: {text}\n  but the server answered\n  {json.dumps(seen)}")
    connection.close()
    return result, faults


def table(methods):
    everything = {state for m in methods for state in m["states"]}
    rows = ["| method | what it does | parameters | allowed in |", "|---|---|---|---|"]
    for m in methods:
        # optional ones in brackets
        parameters = ", ".join(p["name"] if p["required"] else f"[{p['name']}]" for p in m.get("params", []))
        states = "every state" if len(m["states"]) == len(everything) else ", ".join(m["states"])
        rows.append(f"| `{m['name']}` | {m['what']} | {parameters} | {states} |")
    return rows


def test_the_document_is_true(pod):
    pod.start()
    head, _, tail = DOCUMENT.read_text().partition("## Methods\n")
    lines, out, faults, block, start = head.splitlines(), [], [], None, 0
    for number, line in enumerate(lines, 1):
        if line == "```" and block is None:
            block, start = [], number + 1
            out.append(line)
        elif line == "```":
            if any('"Command"' in text for text in block) and not any("form" in text for text in block):
                pod.wait_agent(pod.client())
            if any('"KillVirtualMachine"' in text for text in block):
                methods = pod.client().ok("Describe")["methods"]
            done, found = replay(pod, block, start)
            out += [*done, line]
            faults += found
            block = None
        elif block is not None:
            block.append(line)
        else:
            out.append(line)
    rows = table(methods)
    if [row for row in tail.splitlines() if row.startswith("|")] != rows:
        faults.append("docs/protocol.md: the table of methods is not what Describe tells")
    assert pod.end() == 0
    if WRITE:
        DOCUMENT.write_text("\n".join(out) + "\n## Methods\n\n" + "\n".join(rows) + "\n")
        return
    assert not faults, "\n".join(faults) + "\n(VMLET_WRITE_PROTOCOL=1 writes the document anew)"


def test_the_public_client(pod):
    """examples/control/vm-wait.c, which knows nothing but <vmlet/control.h>."""
    program = TOP / "build" / "examples" / "control" / "vm-wait"
    none = subprocess.run([program, pod.tmp / "none", "Running"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert none.returncode == 1 and "ConnectionLost" in none.stderr
    client = pod.boot()
    run = [program, pod.socket]
    assert subprocess.run([*run, "Running"], check=False, timeout=PATIENCE).returncode == 0
    assert subprocess.run([*run, "Paused", "1"], check=False, timeout=PATIENCE).returncode == 124
    waiting = subprocess.Popen([*run, "Paused", str(PATIENCE)])
    wait_until(lambda: len(os.listdir(f"/proc/{waiting.pid}/fd")) > 3, "it is connected")
    client.ok("PauseVirtualMachine", vmi={})
    assert waiting.wait(PATIENCE) == 0
