#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A real one-node Kubernetes cluster on this machine: etcd, API server, controller manager, scheduler, kube-proxy, kubelet,
containerd, runc, CNI. It needs root.

    cluster.py up [--name NAME]               start it, wait until the node is Ready, print how to use it
    cluster.py down [--name NAME]             end it and remove everything that it made
    cluster.py status|kubeconfig              is it up? where is its kubeconfig?
    cluster.py exec -- COMMAND…               run a command on the node (ctr, crictl, nft, …)
    cluster.py load ARCHIVE…                  import images (OCI archives) into the node
    cluster.py stop|start|restart COMPONENT   for fault tests

All of it lives in namespaces of its own (pid, mount, network, UTS, IPC), whose first process is the `supervise` verb: when
that process ends, the kernel ends every other one, and takes down the mounts, interfaces and packet filter rules. What is
left for `down` are a folder (/var/lib/vmlet-cluster/NAME), one cgroup per controller, and the empty mount points in
/var/lib that the node needs. Nothing listens on an address that other machines reach: the API server is at the far end of
a veth pair.
"""
import argparse
import ctypes
import fcntl
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent.parent / "k8s" / "image"))
import binaries  # noqa: E402
import oci  # noqa: E402

ROOT = Path("/var/lib/vmlet-cluster")
SERVICES, API_SERVICE = "10.96.0.0/16", "10.96.0.1"
# The node's own paths are not free to choose: containers of device plugins and node agents mount these.
MOUNT_POINTS = ["/var/lib/kubelet", "/var/lib/cni"]
TMPFS = ["/run", "/var/log"]
PAUSE = "localhost/pause:test"
REGISTRY = "localhost:5000"
# In the order of their start; each is started again when it ends, as a service manager does.
COMPONENTS = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy"]
READY_SECONDS = 180
# What the service accounts of our programs ask for: by it the roles in k8s/manifests are checked, and calls are counted.
AUDIT = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:kubevirt"]
- level: None
"""
MS_REC, MS_PRIVATE, MS_SHARED, MS_BIND = 0x4000, 0x40000, 0x100000, 0x1000


class Failed(Exception):
    pass


def mount(source, target, kind=None, flags=0, data=None):
    libc = ctypes.CDLL(None, use_errno=True)
    text = [None if x is None else str(x).encode() for x in (source, target, kind, data)]
    if libc.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def run(*argv, **options):
    done = subprocess.run([str(x) for x in argv], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, argv))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def cgroup_roots():
    """The mount point of each cgroup v1 hierarchy with a controller, or of v2 where there is no v1."""
    v1, v2 = [], []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, options = line.split()[:4]
        if kind == "cgroup":
            v1.append(target)
        elif kind == "cgroup2":
            v2.append(target)
    return (v1 + v2, bool(v1))


class Cluster:
    def __init__(self, name="main"):
        self.name = name
        self.dir = ROOT / name
        self.kubeconfig = self.dir / "kubeconfig"
        self.cgroup = f"vmlet-cluster-{name}"
        self.containerd_socket = self.dir / "containerd.sock"
        self.link = f"vm-{name}"[:15]

    # ---- state ---------------------------------------------------------------------------------------------------------
    def settings(self):
        return json.loads((self.dir / "settings.json").read_text())

    def pid(self):
        """Of the supervisor, as seen from here; None when it does not run."""
        try:
            pid, start = (self.dir / "supervisor.pid").read_text().split()
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(pid) if fields[19] == start and fields[0] not in "ZX" else None
        except (OSError, ValueError):
            return None

    def log(self, component):
        try:
            return (self.dir / "log" / f"{component}.log").read_text(errors="replace")
        except OSError:
            return ""

    # ---- up ------------------------------------------------------------------------------------------------------------
    def up(self, progress=lambda text: None):
        if os.geteuid() != 0:
            raise Failed("a cluster takes root: namespaces, cgroups and mounts are made for it")
        if self.pid():
            return
        for program, package in (("runc", "runc"), ("openssl", "openssl"), ("ip", "iproute2"), ("nft", "nftables"),
                                 ("busybox", "busybox-static"), ("unshare", "util-linux"), ("iptables", "iptables")):
            if not shutil.which(program):
                raise Failed(f"{program} is not installed: apt install {package}")
        if not Path("/usr/lib/cni/bridge").exists():
            raise Failed("the CNI plugins are not installed: apt install containernetworking-plugins")
        plane, containerd = binaries.control_plane(), binaries.containerd()
        self.down()
        progress("starting")
        (self.dir / "log").mkdir(parents=True)
        settings = {"plane": str(plane), "containerd": str(containerd), "made": []}
        lock = os.open(ROOT.parent, os.O_RDONLY)  # two may start at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            settings["subnet"] = self._free_subnet()
            for point in MOUNT_POINTS:
                if not os.path.isdir(point):
                    os.mkdir(point)
                    settings["made"].append(point)
                (self.dir / Path(point).name).mkdir()
            (self.dir / "settings.json").write_text(json.dumps(settings))
        finally:
            os.close(lock)
        self._write_certificates(settings)
        self._write_config(settings)
        self._make_cgroups()
        log = open(self.dir / "log/supervisor.log", "wb")
        subprocess.Popen(["unshare", "--fork", "--pid", "--mount", "--net", "--uts", "--ipc", "--propagation", "private",
                          "--kill-child=SIGKILL", sys.executable, str(HERE / "cluster.py"), "supervise", "--name", self.name, f"/proc/{os.getpid()}/ns/net"],
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
        try:
            self._wait("the supervisor", lambda: (self.dir / "control").exists(), 30)
            self._host_network(settings)
            self._wait("the API server", lambda: self._get("/readyz") == "ok", READY_SECONDS)
            progress("the API server answers")
            self._wait("containerd", lambda: self.ctr("version", check=False).returncode == 0, READY_SECONDS)
            self._pause_image()
            self._wait("the node to be Ready", self._node_ready, READY_SECONDS)
            self._wait("the default service account", lambda: "default" in self.kubectl("get", "serviceaccount", "-o", "name"), 60)
            progress("the node is Ready")
        except BaseException:
            for component in ["supervisor", *COMPONENTS]:
                tail = self.log(component).splitlines()[-12:]
                print(f"---- {component}\n" + "\n".join(x[:400] for x in tail), file=sys.stderr)
            self.down()
            raise

    def _wait(self, what, condition, seconds):
        end = time.monotonic() + seconds
        last = ""
        while (begin := time.monotonic()) < end:
            try:
                if condition():
                    return
            except (OSError, Failed, subprocess.SubprocessError) as e:
                last = f": {e}"
            if (self.dir / "supervisor.pid").exists() and not self.pid():
                raise Failed(f"waiting for {what}: the supervisor has ended")
            # A kubectl takes a busy machine a second: those who ask must not take the time of the guest that is waited for.
            time.sleep(max(0.2, 3 * (time.monotonic() - begin)))
        raise Failed(f"not within {seconds} s: {what}{last}")

    def _free_subnet(self):
        """172.30.N.0/30 for the veth pair and 10.244.N.0/24 for pods, N not in use here."""
        used = run("ip", "-4", "addr") + run("ip", "-4", "route")
        taken = [json.loads(p.read_text())["subnet"] for p in ROOT.glob("*/settings.json")]
        for n in range(64, 255):
            if f"172.30.{n}." not in used and f"10.244.{n}." not in used and n not in taken:
                return n
        raise Failed("all of 172.30.64.0 to 172.30.254.0 are in use on this machine")

    def addresses(self):
        n = self.settings()["subnet"]
        return {"host": f"172.30.{n}.1", "node": f"172.30.{n}.2", "pods": f"10.244.{n}.0/24"}

    def _write_certificates(self, settings):
        pki = self.dir / "pki"
        pki.mkdir()
        run("openssl", "genrsa", "-out", pki / "sa.key", "2048")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        run("openssl", "req", "-x509", *curve, "-subj", "/CN=test-cluster-ca", "-keyout", pki / "ca.key", "-out", pki / "ca.crt",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")
        names = (f"IP:127.0.0.1,IP:{API_SERVICE},IP:172.30.{settings['subnet']}.2,"
                 "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc")
        for name, subject, extension in (
                ("apiserver", "/CN=kube-apiserver", f"subjectAltName={names}\nextendedKeyUsage=serverAuth"),
                ("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", "extendedKeyUsage=clientAuth")):
            run("openssl", "req", *curve[:-2], "-subj", subject, "-keyout", pki / f"{name}.key", "-out", pki / f"{name}.csr")
            (pki / "extension").write_text(extension + "\n")
            run("openssl", "x509", "-req", "-in", pki / f"{name}.csr", "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key",
                "-CAcreateserial", "-days", "30", "-extfile", pki / "extension", "-out", pki / f"{name}.crt")

    def _write_config(self, settings):
        where = {"host": f"172.30.{settings['subnet']}.1", "node": f"172.30.{settings['subnet']}.2",
                 "pods": f"10.244.{settings['subnet']}.0/24"}
        users = {"admin": ("admin", ["system:masters"]),
                 "kubelet": (f"system:node:{self.name}", ["system:nodes"]),
                 "kube-proxy": ("system:kube-proxy", []),
                 "kube-scheduler": ("system:kube-scheduler", []),
                 "kube-controller-manager": ("system:kube-controller-manager", [])}
        lines = []
        for i, (file, (user, groups)) in enumerate(users.items()):
            token = secrets.token_hex(16)
            lines.append(f'{token},{user},{i},"{",".join(groups)}"\n')
            path = self.kubeconfig if file == "admin" else self.dir / f"{file}.kubeconfig"
            path.touch(0o600)
            path.write_text(json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": self.name,
                "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": user}}],
                "clusters": [{"name": self.name, "cluster": {"server": f"https://{where['node']}:6443",
                                                             "certificate-authority": str(self.dir / "pki/ca.crt")}}],
                "users": [{"name": user, "user": {"token": token}}]}, indent=1))
        (self.dir / "tokens.csv").touch(0o600)
        (self.dir / "tokens.csv").write_text("".join(lines))
        (self.dir / "hosts").write_text(f"127.0.0.1 localhost\n{where['node']} {self.name}\n")
        (self.dir / "resolv.conf").write_text(f"search cluster.local\nnameserver {where['host']}\n")
        (self.dir / "audit.yaml").write_text(AUDIT)
        (self.dir / "kubelet.json").write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False},
                               "x509": {"clientCAFile": str(self.dir / "pki/ca.crt")}},
            "authorization": {"mode": "AlwaysAllow"}, "containerRuntimeEndpoint": f"unix://{self.containerd_socket}",
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.cgroup}", "enforceNodeAllocatable": [], "failCgroupV1": False,
            "failSwapOn": False, "oomScoreAdj": 0, "resolvConf": str(self.dir / "resolv.conf"), "podLogsDir": str(self.dir / "pod-logs"),
            "volumePluginDir": str(self.dir / "volume-plugins"), "imageGCHighThresholdPercent": 100, "makeIPTablesUtilChains": False,
            # A developer's disk is often nearly full.
            "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "memory.available": "1Mi"}}))
        (self.dir / "proxy.json").write_text(json.dumps({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
            "clientConnection": {"kubeconfig": str(self.dir / "kube-proxy.kubeconfig")}, "clusterCIDR": where["pods"],
            "hostnameOverride": self.name, "oomScoreAdj": 0, "conntrack": {"maxPerCore": 0, "min": 0}}))
        cni = self.dir / "cni-conf"
        cni.mkdir()
        (cni / "10-pods.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": where["pods"]}]], "routes": [{"dst": "0.0.0.0/0"}],
                      "dataDir": str(self.dir / "cni-ipam")}}]}))
        containerd = self.dir / "containerd"
        containerd.mkdir()
        registry = self.dir / "registries" / REGISTRY  # a test's own (registry.py), without TLS
        registry.mkdir(parents=True)
        (registry / "hosts.toml").write_text(f'server = "http://{REGISTRY}"\n')
        # restrict_oom_score_adj: root in a container of its own often lacks CAP_SYS_RESOURCE.
        (self.dir / "containerd.toml").write_text(f"""\
version = 3
root = "{containerd}/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{self.containerd_socket}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{self.dir}/registries"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{cni}"
""")

    def _make_cgroups(self):
        roots, v1 = cgroup_roots()
        for root in roots:
            path = Path(root, self.cgroup)
            path.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 group, which then takes no process
                if v1 and (path / name).exists():
                    (path / name).write_text(Path(root, name).read_text())

    def _host_network(self, settings):
        n = settings["subnet"]
        run("ip", "addr", "add", f"172.30.{n}.1/30", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        run("ip", "route", "add", f"10.244.{n}.0/24", "via", f"172.30.{n}.2")

    def _get(self, path):
        return self.kubectl("get", "--raw", path, "--request-timeout=5s")

    def _node_ready(self):
        node = json.loads(self.kubectl("get", "node", self.name, "-o", "json"))
        return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])

    def _pause_image(self):
        """The container that holds a pod's namespaces: busybox, asleep until it is told to end."""
        layer = oci.Layer()
        layer.copy("bin/busybox", os.path.realpath(shutil.which("busybox")))
        layer.link("bin/sh", "busybox")
        path = self.dir / "pause.tar"
        oci.write_image(path, PAUSE, [layer], {"Entrypoint": ["/bin/sh", "-c", "trap exit TERM; while :; do /bin/busybox sleep 1d & wait; done"]}, 1)
        self.load(path)
        path.unlink()

    # ---- use -----------------------------------------------------------------------------------------------------------
    def kubectl(self, *arguments, check=True, stdin=None, timeout=120):
        done = subprocess.run([Path(self.settings()["plane"]) / "kubectl", *arguments], input=stdin, capture_output=True, text=True,
                              env=os.environ | {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.dir / "kube-cache")},
                              timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise Failed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if check else done

    def node_argv(self, *argv):
        pid = self.pid()
        if not pid:
            raise Failed(f"the cluster {self.name} is not up")
        return ["nsenter", "-t", str(pid), "-p", "-m", "-n", "-u", "-i", "--", *map(str, argv)]

    def node(self, *argv, **options):
        """Run a command on the node."""
        options = {"capture_output": True, "text": True, "check": False} | options
        return subprocess.run(self.node_argv(*argv), **options)

    def ctr(self, *argv, check=True):
        done = self.node(Path(self.settings()["containerd"]) / "ctr", "-a", self.containerd_socket, "-n", "k8s.io", *argv)
        if check and done.returncode != 0:
            raise Failed(f"ctr {' '.join(map(str, argv))}: {done.stderr.strip()}")
        return done

    def load(self, *archives):
        for archive in archives:
            self.ctr("images", "import", "--local", "--no-unpack=false", Path(archive).resolve())

    def calls_of(self, program, since=0):
        """What virt-controller or virt-handler has asked of the API server but lists and watches: the audit log's entries after the
        first `since` ones."""
        lines = (self.dir / "log/audit.log").read_text().splitlines()[since:]
        return [e for e in map(json.loads, lines) if e["user"]["username"] == f"system:serviceaccount:kubevirt:{program}"
                and "objectRef" in e and e["verb"] not in ("list", "watch")]

    def control(self, verb, component):
        """stop, start or restart a component; returns when that is done."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.dir / "control"))
            s.sendall(f"{verb} {component}\n".encode())
            answer = s.makefile().readline().strip()
        if answer != "ok":
            raise Failed(f"{verb} {component}: {answer}")

    # ---- down ----------------------------------------------------------------------------------------------------------
    def down(self):
        pid = self.pid()
        if pid:
            watched = os.pidfd_open(pid)
            signal.pidfd_send_signal(watched, signal.SIGTERM)
            selector = selectors.DefaultSelector()
            selector.register(watched, selectors.EVENT_READ)
            if not selector.select(30):
                signal.pidfd_send_signal(watched, signal.SIGKILL)
                selector.select(30)
            os.close(watched)
        if shutil.which("ip"):
            subprocess.run(["ip", "link", "del", self.link], stderr=subprocess.DEVNULL, check=False)
        for root in cgroup_roots()[0]:
            for path, _, _ in os.walk(Path(root, self.cgroup), topdown=False):
                self._remove_cgroup(path)
        try:
            made = self.settings()["made"]
        except OSError:
            made = []
        others = [p for p in ROOT.glob("*/supervisor.pid") if p.parent != self.dir and Cluster(p.parent.name).pid()]
        for point in made if not others else []:
            try:
                os.rmdir(point)
            except OSError:
                pass  # another has put something there
        shutil.rmtree(self.dir, ignore_errors=True)
        try:
            ROOT.rmdir()
        except OSError:
            pass

    @staticmethod
    def _remove_cgroup(path):
        """The last processes in it may still be on their way out of the kernel."""
        end = time.monotonic() + 10
        while True:
            try:
                os.rmdir(path)
                return
            except FileNotFoundError:
                return
            except OSError as e:
                if time.monotonic() > end:
                    print(f"cluster: {path}: {e.strerror}", file=sys.stderr)
                    return
                time.sleep(0.05)


class Supervisor:
    """The first process of the cluster's namespaces."""

    def __init__(self, cluster):
        self.cluster, self.dir = cluster, cluster.dir
        self.settings = cluster.settings()
        self.processes, self.wanted, self.again = {}, set(), {}

    def argv(self, component):
        d, plane, where = self.dir, Path(self.settings["plane"]), self.cluster.addresses()
        pki = d / "pki"
        node = where["node"]
        if component == "containerd":
            return [Path(self.settings["containerd"]) / "containerd", "--config", d / "containerd.toml"]
        flags = {
            "etcd": ["--data-dir", d / "etcd", "--listen-client-url", "http://127.0.0.1:2379", "--listen-peer-url", "http://127.0.0.1:2380"],
            "kube-apiserver": [
                "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--bind-address=0.0.0.0", f"--advertise-address={node}",
                "--authorization-mode=Node,RBAC", f"--token-auth-file={d}/tokens.csv", "--allow-privileged=true",
                f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key", f"--cert-dir={d}/certs",
                f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt", f"--kubelet-client-key={pki}/apiserver-kubelet.key",
                "--kubelet-preferred-address-types=InternalIP", f"--service-account-key-file={pki}/sa.key",
                f"--service-account-signing-key-file={pki}/sa.key", "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-cluster-ip-range={SERVICES}", "--enable-admission-plugins=NodeRestriction",
                f"--audit-policy-file={d}/audit.yaml", f"--audit-log-path={d}/log/audit.log", "--audit-log-mode=blocking"],
            "kube-controller-manager": [
                f"--kubeconfig={d}/kube-controller-manager.kubeconfig", "--use-service-account-credentials", "--bind-address=127.0.0.1",
                f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt", "--leader-elect=false",
                f"--authentication-kubeconfig={d}/kube-controller-manager.kubeconfig", f"--cert-dir={d}/certs",
                f"--authorization-kubeconfig={d}/kube-controller-manager.kubeconfig", "--node-monitor-grace-period=40s"],
            "kube-scheduler": [
                f"--kubeconfig={d}/kube-scheduler.kubeconfig", "--bind-address=127.0.0.1", "--leader-elect=false", f"--cert-dir={d}/certs",
                f"--authentication-kubeconfig={d}/kube-scheduler.kubeconfig",
                f"--authorization-kubeconfig={d}/kube-scheduler.kubeconfig"],
            "kubelet": [f"--kubeconfig={d}/kubelet.kubeconfig", f"--config={d}/kubelet.json", f"--hostname-override={self.cluster.name}",
                        f"--node-ip={node}", f"--cert-dir={d}/certs", "--root-dir=/var/lib/kubelet"],
            "kube-proxy": [f"--config={d}/proxy.json"],
        }
        return [plane / component, *flags[component]]

    def run(self, outside):
        line = Path("/proc/self/stat").read_text()  # /proc is the outer one still: its numbers are those that others see
        host_pid, start = line.split()[0], line.rsplit(")", 1)[1].split()[19]
        (self.dir / "supervisor.pid").write_text(f"{host_pid} {start}\n")
        node = self.cluster.addresses()["node"]
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", self.cluster.link)
        run("ip", "link", "set", self.cluster.link, "netns", outside)  # where `up` was called
        run("ip", "addr", "add", f"{node}/30", "dev", "eth0")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "link", "set", "lo", "up")
        # Service addresses are replaced before they leave; a route has to be there for a process on the node to send at all.
        run("ip", "route", "add", SERVICES, "via", self.cluster.addresses()["host"])
        socket.sethostname(self.cluster.name)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        mount("proc", "/proc", "proc")
        for target in TMPFS:
            mount("tmpfs", target, "tmpfs")
        for point in MOUNT_POINTS:
            mount(self.dir / Path(point).name, point, flags=MS_BIND)
        mount(self.dir / "hosts", "/etc/hosts", flags=MS_BIND)
        self.own_devices()
        mount("none", "/", flags=MS_REC | MS_SHARED)  # kubelet and containers pass mounts on to each other
        for name in ("lock", "user"):
            Path("/run", name).mkdir()

        wake, waker = socket.socketpair()
        for end in (wake, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        ended = []
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.append(True))
        for component in COMPONENTS:
            self.wanted.add(component)
            self.start(component)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.dir / "control.new"))
        listener.listen()
        os.rename(self.dir / "control.new", self.dir / "control")
        selector = selectors.DefaultSelector()
        selector.register(wake, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while not ended:
            due = min(self.again.values(), default=None)
            for key, _ in selector.select(None if due is None else max(0, due - time.monotonic())):
                if key.fileobj is wake:
                    try:
                        wake.recv(4096)
                    except BlockingIOError:
                        pass
                else:
                    self.serve(listener)
            self.reap()
            for component in [c for c, when in self.again.items() if when <= time.monotonic()]:
                del self.again[component]
                self.start(component)

    def own_devices(self):
        """The node's /dev, with what there is outside: a test may take a device away, or add one."""
        new = self.dir / "dev"
        new.mkdir()
        mount("tmpfs", new, "tmpfs", data="mode=755")

        def take(old, to):
            for entry in sorted(old.iterdir()):
                info, target = entry.lstat(), to / entry.name
                if stat.S_ISLNK(info.st_mode):
                    target.symlink_to(os.readlink(entry))
                elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                    os.mknod(target, info.st_mode, info.st_rdev)
                    os.chmod(target, stat.S_IMODE(info.st_mode))
                elif stat.S_ISDIR(info.st_mode):
                    target.mkdir()
                    if os.path.ismount(entry):
                        mount(entry, target, flags=MS_BIND | MS_REC)
                    else:
                        take(entry, target)

        take(Path("/dev"), new)
        mount(new, "/dev", flags=MS_BIND | MS_REC)

    def start(self, component):
        if component in self.processes:
            return
        log = open(self.dir / "log" / f"{component}.log", "ab")
        print(f"{time.strftime('%T')} start {component}", flush=True)
        path = f"{self.settings['containerd']}:/usr/sbin:/usr/bin:/sbin:/bin"  # containerd finds its shim and runc here
        process = subprocess.Popen([str(x) for x in self.argv(component)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                   env={"PATH": path, "HOME": "/root", "GOMEMLIMIT": "400MiB", "LC_ALL": "C.UTF-8"})
        log.close()
        self.processes[component] = process.pid

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for component in [c for c, p in self.processes.items() if p == pid]:
                print(f"{time.strftime('%T')} {component} has ended: {os.waitstatus_to_exitcode(status)}", flush=True)
                del self.processes[component]
                if component in self.wanted:
                    self.again[component] = time.monotonic() + 1

    def serve(self, listener):
        connection, _ = listener.accept()
        with connection:
            try:
                connection.settimeout(5)
                verb, component = connection.makefile().readline().split()
                if component not in COMPONENTS or verb not in ("stop", "start", "restart"):
                    raise Failed(f"components: {' '.join(COMPONENTS)}")
                if verb in ("stop", "restart"):
                    self.stop(component)
                if verb in ("start", "restart"):
                    self.wanted.add(component)
                    self.start(component)
                answer = "ok"
            except (OSError, ValueError, Failed) as e:
                answer = str(e) or "a verb and a component are wanted"
            try:
                connection.sendall(answer.encode() + b"\n")
            except OSError:
                pass

    def stop(self, component):
        self.wanted.discard(component)
        self.again.pop(component, None)
        pid = self.processes.get(component)
        if pid is None:
            return
        watched = os.pidfd_open(pid)
        selector = selectors.DefaultSelector()
        selector.register(watched, selectors.EVENT_READ)
        os.kill(pid, signal.SIGTERM)
        if not selector.select(20):
            os.kill(pid, signal.SIGKILL)
            selector.select(20)
        os.close(watched)
        self.reap()


def main():
    parser = argparse.ArgumentParser(description="a one-node Kubernetes cluster for tests")
    parser.add_argument("verb", choices=["up", "down", "status", "kubeconfig", "exec", "load", "stop", "start", "restart", "supervise"])
    parser.add_argument("--name", default=os.environ.get("VMLET_CLUSTER", "main"), help="several can run (default: main)")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of exec: after a -- all is the command's")
    words, _, command = "\0".join(sys.argv[1:]).partition("\0--\0")
    options = parser.parse_intermixed_args(words.split("\0") if words else [])
    options.arguments += command.split("\0") if command else []
    cluster = Cluster(options.name)
    if options.verb == "supervise":
        Supervisor(cluster).run(options.arguments[0])
    elif options.verb == "up":
        began = time.monotonic()
        cluster.up(lambda text: print(f"cluster: {text} ({time.monotonic() - began:.1f} s)", file=sys.stderr))
        plane = cluster.settings()["plane"]
        print(f"export KUBECONFIG={cluster.kubeconfig}\nalias kubectl={plane}/kubectl\n"
              f"{plane}/kubectl --kubeconfig {cluster.kubeconfig} get nodes")
    elif options.verb == "down":
        cluster.down()
    elif options.verb == "status":
        if not cluster.pid():
            print("down")
            return 1
        print(cluster.kubectl("get", "nodes,pods", "--all-namespaces", "-o", "wide"), end="")
    elif options.verb == "kubeconfig":
        print(cluster.kubeconfig)
    elif options.verb == "exec":
        argv = cluster.node_argv(*options.arguments)
        os.execvp(argv[0], argv)
    elif options.verb == "load":
        cluster.load(*options.arguments)
    else:
        for component in options.arguments:
            cluster.control(options.verb, component)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, binaries.CannotBuild) as e:
        print(f"cluster: {e}", file=sys.stderr)
        sys.exit(1)
