# SPDX-License-Identifier: Apache-2.0
"""virt-launcher with its directories below a test's own."""
import os
import signal
import subprocess
from pathlib import Path

from vmlet_lab import PATIENCE, TOP, UID, Client, is_alive, vmi, wait_until

LAUNCHER = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "src" / "launcher" / "virt-launcher"


def add_disk(manifest):
    """A disk for mount_disk()."""
    manifest["spec"]["domain"]["devices"]["disks"] = [{"name": "scratch", "disk": {"bus": "virtio"}}]
    manifest["spec"]["volumes"] = [{"name": "scratch", "emptyDisk": {"capacity": "16Mi"}}]
    return manifest


def mount_disk(client):
    """A file system that can be frozen, in the small guest, which otherwise has only some in memory."""
    made = "mke2fs /dev/vda && mkdir /tmp/m && mount -t ext2 /dev/vda /tmp/m"
    done = client.ok("Exec", Command="/bin/sh", Args=["-c", made], timeoutSeconds=60)
    assert done["exitCode"] == 0, done


class Pod:
    def __init__(self, tmp, initramfs):
        self.tmp = tmp
        self.process = None
        self.qemu = None
        boot = tmp / "cd" / "kernel-boot"
        boot.mkdir(parents=True)
        for name in ("vmlinuz", "initrd.img"):
            os.symlink(initramfs / name, boot / name)
        self.private = tmp / "priv"
        self.dir = self.private / UID
        self.socket = tmp / "share" / "sockets" / "launcher-sock"
        self.log = tmp / "log"
        self.clients = []

    def start(self, *arguments, standalone=None, env=None):
        """virt-launcher, until its socket is there."""
        self.socket.unlink(missing_ok=True)
        argv = [
            LAUNCHER, "--name", "tiny", "--namespace", "ns", "--uid", UID, "--run-as-nonroot", "--allow-emulation",
            "--kubevirt-share-dir", self.tmp / "share", "--private-dir", self.private, "--ephemeral-disk-dir",
            self.tmp / "eph", "--container-disk-dir", self.tmp / "cd", "--hotplug-disk-dir", self.tmp / "hp",
            "--empty-disk-dir", self.tmp / "ed", *arguments,
        ]
        environment = dict(os.environ, **(env or {}))
        if standalone:
            environment["STANDALONE_VMI"] = standalone
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )
        wait_until(lambda: self.socket.exists() or self.process.poll() is not None, "the command socket is there")
        assert self.process.poll() is None, self.text()
        return self

    def client(self):
        client = Client(self.socket)
        self.clients.append(client)
        return client

    def boot(self, *arguments, append="", **spec):
        self.start(*arguments)
        client = self.client()
        client.ok("SyncVirtualMachine", vmi=vmi(append, **spec))
        self.qemu = client.ok("GetDomain")["vmlet"]["pid"]
        return client

    def wait_agent(self, client):
        def what():
            console = self.dir / "virt-serial0-log"
            seen = console.read_text(errors="replace") if console.exists() else ""
            return f"the agent answers\nconsole: {seen}\n{self.text()}\n{client.call('GetDomain')}"

        wait_until(lambda: client.ok("GetDomain")["vmlet"]["agentConnected"], what)

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def end(self):
        return self.process.wait(timeout=PATIENCE)

    def close(self):
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.qemu and is_alive(self.qemu):
            os.kill(self.qemu, signal.SIGKILL)
