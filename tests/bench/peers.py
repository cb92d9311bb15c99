# SPDX-License-Identifier: Apache-2.0
"""The three that are compared: virt-launcher, the least program that starts the same QEMU, and Debian's libvirt.

libvirt's daemons run as an ordinary user in session mode (as in KubeVirt's pods), in directories of the benchmark's own.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from bench_common import BARE, TOP, clock_offset_usec, guest, inherited_fds, monotonic_usec

sys.path.insert(0, str(TOP / "tests"))
from vmlet_lab import UID, Client, children_of, is_alive, vmi  # noqa: E402, F401

LAUNCHER = TOP / "build/src/launcher/virt-launcher"
MONITOR = TOP / "build/src/monitor/virt-launcher-monitor"
SESSION_USER = 65534  # libvirt wants one that has an entry in passwd(5)
PATIENCE = 60


def poll(condition, what, seconds=PATIENCE, pause=0.0005):
    """For what gives no event: a socket that appears, a process that goes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(pause)
    raise SystemExit(f"bench: not within {seconds} s: {what}")


def manifest(memory="256Mi", volumes=0, paused=False, uid=UID, name="tiny"):
    made = vmi()
    made["metadata"] = {"name": name, "namespace": "ns", "uid": uid}
    spec = made["spec"]
    spec["domain"]["memory"] = {"guest": memory}
    if paused:
        spec["startStrategy"] = "Paused"
    if volumes:
        spec["domain"]["devices"]["disks"] = [{"name": f"v{i}", "disk": {"bus": "virtio"}} for i in range(volumes)]
        spec["volumes"] = [{"name": f"v{i}", "persistentVolumeClaim": {"claimName": f"v{i}"}} for i in range(volumes)]
    return made


def make_volumes(private, count):
    for i in range(count):
        folder = private / "vmi-disks" / f"v{i}"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "disk.img", "wb") as file:
            file.truncate(16 << 20)


class Launcher:
    """A pod's processes: virt-launcher, or the monitor and virt-launcher."""

    def __init__(self, work, monitor=False, standalone=None, uid=UID, volumes=0, flags=()):
        self.work, self.uid, self.qemu = Path(work), uid, None
        self.work.mkdir(parents=True, exist_ok=True)
        self.private = self.work / "priv"
        self.dir = self.private / uid
        self.socket = self.work / "share/sockets/launcher-sock"
        boot = self.work / "cd/kernel-boot"
        boot.mkdir(parents=True, exist_ok=True)
        for name in ("vmlinuz", "initrd.img"):
            if not (boot / name).exists():
                os.symlink(guest() / name, boot / name)
        make_volumes(self.private, volumes)
        self.socket.unlink(missing_ok=True)
        self.environment = dict(os.environ)
        self.environment.pop("STANDALONE_VMI", None)
        if standalone:
            self.environment["STANDALONE_VMI"] = json.dumps(standalone)
        argv = [MONITOR, "--launcher-path", LAUNCHER, "--termination-log", self.work / "ended"] if monitor else [LAUNCHER]
        self.argv = [str(a) for a in argv + [
            "--name", "tiny", "--namespace", "ns", "--uid", uid, "--run-as-nonroot", "--allow-emulation",
            "--kubevirt-share-dir", self.work / "share", "--private-dir", self.private, "--ephemeral-disk-dir",
            self.work / "eph", "--container-disk-dir", self.work / "cd", "--hotplug-disk-dir", self.work / "hp",
            "--empty-disk-dir", self.work / "ed", *flags,
        ]]
        self.monitor = monitor
        self.spawn()

    def spawn(self):
        self.started = monotonic_usec()
        with open(self.work / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True)

    def ready(self):
        def there():
            if self.process.poll() is not None:
                raise SystemExit(f"bench: the launcher ended:\n{(self.work / 'log').read_text()}")
            return self.socket.exists()

        poll(there, "the command socket")
        return self

    def client(self):
        return Client(self.socket)

    def sync(self, client, spec):
        """Milliseconds from the call to its answer: the guest runs."""
        start = monotonic_usec()
        client.ok("SyncVirtualMachine", vmi=spec)
        took = (monotonic_usec() - start) / 1000
        self.qemu = client.ok("GetDomain")["vmlet"]["pid"]
        return took

    def marks(self, client):
        """The marks of the start-up in milliseconds after the exec."""
        offset = clock_offset_usec()
        found = {}
        for event in client.ok("GetTimeline")["events"]:
            wall = datetime.fromisoformat(event["wall"].replace("Z", "+00:00")).timestamp() * 1e6
            found[event["name"]] = (wall - offset - self.started) / 1000
        return found

    def own_pids(self):
        """What is ours: all processes but QEMU."""
        below = [p for p in children_of(self.process.pid) if p != self.qemu] if self.monitor else []
        return [self.process.pid] + below

    def captured(self):
        """(arguments, descriptors) of the QEMU that runs."""
        argv = [a.decode() for a in Path(f"/proc/{self.qemu}/cmdline").read_bytes().split(b"\0")[:-1]]
        fds = inherited_fds(self.qemu, argv)
        argv[0] = os.readlink(f"/proc/{self.qemu}/exe")
        return argv, fds

    def kill_guest(self, client):
        """Milliseconds from KillVirtualMachine until no process is left."""
        start = monotonic_usec()
        try:
            client.call("KillVirtualMachine", vmi={})
        except (ValueError, ConnectionError):
            pass  # it may be gone before it has answered
        self.process.wait(PATIENCE)
        poll(lambda: not (self.qemu and is_alive(self.qemu)), "QEMU's end")
        return (monotonic_usec() - start) / 1000

    def close(self):
        if self.process.poll() is None:
            below = self.own_pids()
            self.process.kill()
            self.process.wait()
            for pid in below[1:]:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        if self.qemu and is_alive(self.qemu):
            os.kill(self.qemu, signal.SIGKILL)
            poll(lambda: not is_alive(self.qemu), "QEMU's end")


class Bare:
    """bare-qemu with the arguments and descriptors of a QEMU that one of ours has started."""

    def __init__(self, work, argv, fds):
        self.file = Path(work) / "bare-argv"
        self.file.write_bytes(b"".join(a.encode() + b"\0" for a in argv))
        self.fds = fds
        names = [n for n, (kind, path) in fds.items() if kind == "listen" and ("qmp" in path or "monitor" in path)]
        if len(names) != 1:
            raise SystemExit(f"bench: cannot tell the monitor's socket from {fds}")
        self.command = [str(BARE), str(self.file), str(names[0])]
        self.command += [f"{n}:{kind}:{path}" for n, (kind, path) in sorted(fds.items())]

    def make_fifos(self):
        for argument in self.file.read_bytes().decode().split("\0"):
            if argument.startswith("pipe,"):
                base = argument.split("path=", 1)[1]
                Path(base).parent.mkdir(parents=True, exist_ok=True)
                for path in (f"{base}.in", f"{base}.out"):
                    if not os.path.exists(path):
                        os.mkfifo(path)

    def start(self):
        """Marks in milliseconds after the exec."""
        for kind, path in self.fds.values():
            if kind != "tap":  # the folder of the VM has gone with the VM
                Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.make_fifos()
        start = monotonic_usec()
        run = subprocess.run(self.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE)
        if run.returncode != 0:
            raise SystemExit(f"bench: bare-qemu failed with {run.returncode}:\n{run.stderr}")
        return {name: (value - start) / 1000 for name, value in json.loads(run.stdout).items()}


# ---- libvirt -----------------------------------------------------------------------------------------------------------


def libvirt_missing():
    """Why there is no libvirt to compare with; None if there is."""
    try:
        import libvirt  # noqa: F401
    except ImportError:
        return "python3-libvirt (./dev deps bench)"
    for program in ("libvirtd", "virtlogd", "setpriv"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin"):
            return f"{program} (./dev deps bench)"
    return None if os.geteuid() == 0 else "root, to run its daemons as another user"


DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>{memory}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{boot}/vmlinuz</kernel><initrd>{boot}/initrd.img</initrd>
    <cmdline>console=ttyS0 quiet</cmdline></os>
  <features><acpi/><vmport state='off'/></features>
  <cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>{qemu}</emulator>
    {devices}
    <controller type='usb' index='0' model='none'/>
    <controller type='scsi' index='0' model='virtio-non-transitional'/>
    <controller type='virtio-serial' index='0' model='virtio-non-transitional'/>
    <serial type='unix'><source mode='bind' path='{run}/{name}-serial'/><log file='{run}/{name}-serial.log' append='on'/></serial>
    <channel type='unix'><source mode='bind' path='{run}/{name}-agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc' socket='{run}/{name}-vnc'/>
    <video><model type='vga' vram='16384'/></video>
    <memballoon model='virtio-non-transitional' freePageReporting='on'/>
  </devices>
</domain>
"""


class Libvirt:
    """virtlogd and libvirtd in session mode, each in directories below `work`. enter: what the daemons are started by."""

    def __init__(self, work, enter=()):
        self.work, self.enter = Path(work), enter
        self.work.mkdir(parents=True, exist_ok=True)
        self.work.chmod(0o755)
        self.daemons, self.connection = [], None
        for name in ("run", "config", "cache", "data", "boot", "disks"):
            (self.work / name).mkdir(exist_ok=True)
        for name in ("vmlinuz", "initrd.img"):  # the cache of guests is below root's home
            shutil.copyfile(guest() / name, self.work / "boot" / name)
        for path in self.work.iterdir():
            if path.name != "boot":
                os.chown(path, SESSION_USER, SESSION_USER)
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.work / "data"),
            "XDG_RUNTIME_DIR": str(self.work / "run"), "XDG_CONFIG_HOME": str(self.work / "config"),
            "XDG_CACHE_HOME": str(self.work / "cache"), "XDG_DATA_HOME": str(self.work / "data"),
        }

    def domain(self, memory_mib=256, volumes=0, name="tiny", uuid=UID, tap=None):
        """tap: a link that is there already, for a NIC as KubeVirt describes it to libvirt."""
        devices = []
        for i in range(volumes):
            path = self.work / "disks" / f"{name}-v{i}.img"
            with open(path, "wb") as file:
                file.truncate(16 << 20)
            os.chown(path, SESSION_USER, SESSION_USER)
            devices.append(
                f"<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='threads' discard='unmap' "
                f"error_policy='stop'/><source file='{path}'/><target dev='vd{chr(97 + i)}' bus='virtio'/></disk>")
        if tap:
            devices.append(f"<interface type='ethernet'><target dev='{tap}' managed='no'/><model type='virtio'/><mtu size='1450'/>"
                           "<rom enabled='no'/></interface>")
        return DOMAIN.format(
            name=name, uuid=uuid, memory=memory_mib << 10, boot=self.work / "boot", run=self.work / "run",
            qemu=shutil.which("qemu-system-x86_64"), devices="\n".join(devices))

    def start(self):
        """Runs the daemons until the first connection is open; milliseconds."""
        import libvirt

        libvirt.registerErrorHandler(lambda *_: None, None)
        start = monotonic_usec()
        with open(self.work / "log", "ab") as log:
            for program in (["virtlogd"], ["libvirtd", "--timeout", "600"]):
                self.daemons.append(subprocess.Popen(
                    [*self.enter, "setpriv", f"--reuid={SESSION_USER}", f"--regid={SESSION_USER}", "--clear-groups",
                     "/usr/sbin/" + program[0], *program[1:]],
                    env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
                if program[0] == "virtlogd":  # or libvirtd would start one of its own, which stays behind
                    poll((self.work / "run/libvirt/virtlogd-sock").exists, "virtlogd")
        uri = f"qemu+unix:///session?socket={self.work}/run/libvirt/libvirt-sock"

        def connect():
            try:
                return libvirt.open(uri)
            except libvirt.libvirtError:
                if self.daemons[-1].poll() is not None:
                    raise SystemExit(f"bench: libvirtd ended:\n{(self.work / 'log').read_text()[-2000:]}") from None
                return None

        self.connection = poll(connect, "libvirtd", pause=0.001)
        return (monotonic_usec() - start) / 1000

    def create(self, xml, flags=0):
        start = monotonic_usec()
        domain = self.connection.createXML(xml, flags)
        return domain, (monotonic_usec() - start) / 1000

    def forget_capabilities(self):
        shutil.rmtree(self.work / "cache/libvirt", ignore_errors=True)

    def stop(self):
        if self.connection:
            for domain in self.connection.listAllDomains():
                domain.destroy()
            self.connection.close()
            self.connection = None
        for daemon in reversed(self.daemons):
            if daemon.poll() is None:
                daemon.terminate()
                try:
                    daemon.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        self.daemons = []

    close = stop
