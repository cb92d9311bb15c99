# SPDX-License-Identifier: Apache-2.0
"""What a bad client can do to a real launcher: it is bounded, it is logged, and no other client notices."""
import json
import os
import socket

from vmlet_lab import PATIENCE, wait_until


def connect(pod):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(PATIENCE)
    s.connect(str(pod.socket))
    return s


def answer(s):
    return json.loads(s.makefile("rb").readline())["error"]


def logged(pod, text):
    wait_until(lambda: text in pod.text(), f"the log has: {text}")
    line = next(line for line in pod.text().splitlines() if text in line)
    assert "a client of the command server (pid" in line, line


def resident_kib(pod):
    status = open(f"/proc/{pod.process.pid}/status", encoding="ascii").read()
    return int(status.split("VmRSS:")[1].split()[0])


def test_too_much_too_deep_and_too_slow(pod):
    pod.start()
    good = pod.client()
    good.ok("Ping")
    slow = connect(pod)
    slow.sendall(b'{"jsonrpc": "2.0", "id": 1, "met')  # and no more, for ever
    big = connect(pod)
    big.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "Ping", "x": "' + b"x" * (5 << 20) + b'"}\n')
    assert answer(big)["data"]["code"] == "LimitExceeded"
    logged(pod, "the request is larger than 4194304 bytes")
    deep = connect(pod)
    deep.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "Ping", "params": ' + b"[" * 64 + b"]" * 64 + b"}\n")
    assert answer(deep)["data"]["code"] == "LimitExceeded"
    logged(pod, "nest")
    silent = connect(pod)
    silent.setblocking(False)
    before, sent = resident_kib(pod), 0
    request = b'{"jsonrpc": "2.0", "id": 1, "method": "Describe"}\n' * 100

    def is_cut_off():
        nonlocal sent
        told = "does not read the answers" in pod.text()
        try:
            sent += silent.send(request)
            assert sent < 1 << 24
        except BlockingIOError:  # it is not read from any more; before that is told: not just now
            return told
        finally:
            good.ok("Ping")

    wait_until(is_cut_off, "a client that does not read the answers is not read from")
    assert resident_kib(pod) - before < 16 << 10
    logged(pod, "does not read the answers")
    good.ok("Ping")
    assert answer(slow)["data"]["code"] == "TimedOut"  # after 30 s
    logged(pod, "a request was begun and not ended in time")
    assert good.ok("GetDomain")["response"]["success"]
    for s in (slow, big, deep, silent):
        s.close()


def test_the_33rd_client(pod):
    pod.start()
    clients = [pod.client() for _ in range(32)]
    for client in clients:
        client.ok("Ping")
    late = connect(pod)
    assert answer(late)["data"]["code"] == "LimitExceeded"
    assert late.recv(1) == b""
    logged(pod, "32 clients")
    for client in clients:
        client.ok("Ping")
    clients[0].close()
    pod.clients.remove(clients[0])

    def room():
        client = pod.client()
        try:
            return "result" in client.call("Ping")
        except (OSError, ValueError):
            return False

    wait_until(room, "there is room for another")


def test_another_users_process(pod):
    pod.start()
    good = pod.client()
    assert os.stat(pod.socket).st_mode & 0o777 == 0o600
    # as if the file's mode did not help: the server itself looks at who it is
    for path in (pod.tmp, pod.tmp / "share", pod.tmp / "share" / "sockets"):
        os.chmod(path, 0o755)
    os.chmod(pod.socket, 0o666)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(12345)
            os.setuid(12345)
            os.write(writing, json.dumps(answer(connect(pod))).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    said = json.loads(os.read(reading, 65536))
    os.close(reading)
    assert said["data"]["code"] == "NotAllowed", said
    logged(pod, "uid 12345")
    good.ok("Ping")
