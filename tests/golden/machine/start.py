# SPDX-License-Identifier: Apache-2.0
"""Becomes QEMU with the fds it is to inherit: `start.py SPEC`, SPEC being JSON {argv, environment, fds, peers}.

A network namespace of its own, so that taps have the names of the golden file and touch nothing of the host's.
"""
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x2, 0x1000, 0x4000, 0x100


def listener(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen()
    return sock.detach()


def tap(name, multi_queue):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if multi_queue else 0)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


def open_fd(fd, fds):
    if fd["kind"] == "listen":
        return listener(fd["path"])
    if fd["kind"] == "tap":
        return tap(fd["path"], sum(f["path"] == fd["path"] for f in fds) > 1)
    return os.open(fd["path"], os.O_RDWR)


def main():
    spec = json.loads(sys.argv[1])
    if any(f["kind"] == "tap" for f in spec["fds"]):
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    # above every number that is wanted, so that none is in the way
    opened = [(f["number"], fcntl.fcntl(open_fd(f, spec["fds"]), fcntl.F_DUPFD, 200)) for f in spec["fds"]]
    os.closerange(3, 200)
    for number, fd in opened:
        os.dup2(fd, number, inheritable=True)
        os.close(fd)
    os.environ.update(dict(e.split("=", 1) for e in spec["environment"]))
    os.execvp(spec["argv"][0], spec["argv"])


main()
