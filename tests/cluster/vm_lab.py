# SPDX-License-Identifier: Apache-2.0
"""A VM of the real cluster as its user sees it: by kubectl, and from inside of the guest by its agent."""
import json
import re
import subprocess

# Emulation on a busy two-core machine: a deadline that only a fault reaches.
PATIENCE = 600
SOCKET = "/var/run/kubevirt/sockets/launcher-sock"
VM = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: {name}
spec:
  {strategy}
  template:
    metadata:
      labels: {{kubevirt.io/domain: {name}}}
    spec:
      terminationGracePeriodSeconds: 120
      domain:
        firmware:
          kernelBoot:
            kernelArgs: console=ttyS0
            container: {{image: "localhost/vmlet/test-guest:devel", kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd.img}}
        memory: {{guest: 256Mi}}
        devices:
          rng: {{}}
          disks:
          - {{name: containerdisk, disk: {{bus: virtio}}}}
          interfaces: [{{name: default, masquerade: {{}}}}]
      networks: [{{name: default, pod: {{}}}}]
      volumes:
      - name: containerdisk
        containerDisk: {{image: "localhost/vmlet/test-disk:devel"}}
"""


class Machine:
    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    def kubectl(self, *arguments, **options):
        return self.cluster.kubectl(*arguments, **options)

    def wait(self, what, condition, seconds=PATIENCE):
        self.cluster._wait(what, condition, seconds)

    # ---- objects -------------------------------------------------------------------------------------------------------
    def apply(self, strategy="runStrategy: Always"):
        self.kubectl("apply", "-f", "-", stdin=VM.format(name=self.name, strategy=strategy))

    def patch(self, spec, kind="vm"):
        self.kubectl("patch", kind, self.name, "--type", "merge", "-p", json.dumps({"spec": spec}))

    def get(self, kind):
        done = self.kubectl("get", kind, self.name, "-o", "json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def vm(self):
        return self.get("vm")

    def vmi(self):
        return self.get("vmi")

    def uid(self):
        return self.vmi().get("metadata", {}).get("uid")

    def status(self):
        """What `kubectl get vm` shows."""
        return self.vm().get("status", {}).get("printableStatus", "")

    def phase(self):
        return self.vmi().get("status", {}).get("phase", "")

    def condition(self, name, kind="vmi"):
        return next((c["status"] for c in self.get(kind).get("status", {}).get("conditions", []) if c["type"] == name), None)

    def pods(self):
        return json.loads(self.kubectl("get", "pod", "-l", f"vm.kubevirt.io/name={self.name}", "-o", "json"))["items"]

    def pod(self):
        """The launcher pod that is not on its way out."""
        return next((p for p in self.pods() if "deletionTimestamp" not in p["metadata"]), None)

    def events(self, kind=None):
        items = json.loads(self.kubectl("get", "events", "-o", "json"))["items"]
        return [e for e in items if e["involvedObject"]["name"] == self.name and kind in (None, e["involvedObject"]["kind"])]

    def reasons(self, kind=None):
        return {e["reason"] for e in self.events(kind)}

    def is_gone(self):
        """No VM, no instance, no pod."""
        return not self.vm() and not self.vmi() and not self.pods()

    def delete(self):
        self.kubectl("delete", "vm", self.name, "--ignore-not-found", "--wait=false")
        self.kubectl("delete", "vmi", self.name, "--ignore-not-found", "--wait=false")
        self.wait("nothing is left of it", self.is_gone)

    # ---- pod and guest -------------------------------------------------------------------------------------------------
    def exec(self, *argv, container="compute", **options):
        return self.kubectl("exec", self.pod()["metadata"]["name"], "-c", container, "--", *argv, **options)

    def run(self, command, check=True):
        """In the guest, by its agent; what it printed."""
        return self.exec("virt-probe", "--socket", SOCKET, "--domainName", f"default_{self.name}",
                         "--timeoutSeconds", "60", "--command", "/bin/sh", "--", "-c", command, check=check)

    def boot_id(self):
        """Another one after each start of the guest's kernel."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def uptime(self):
        return float(self.run("cat /proc/uptime").split()[0])

    def console(self):
        return self.kubectl("logs", self.pod()["metadata"]["name"], "-c", "guest-console-log")

    def follow_console(self):
        """kubectl logs -f, which ends with the pod."""
        argv = [f"{self.cluster.settings()['plane']}/kubectl", "--kubeconfig", str(self.cluster.kubeconfig), "logs", "-f",
                self.pod()["metadata"]["name"], "-c", "guest-console-log"]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, errors="replace")

    def process(self, pattern):
        """Its process id in the pod; a new process has another."""
        return re.search(rf"^ *(\d+) .*{pattern}", self.exec("ps", "-o", "pid,args"), re.M).group(1)

    def qemu(self):
        return self.process("qemu-system")

    def launcher(self):
        return self.process("virt-launcher --")

    def vmlet(self, verb):
        self.exec("vmlet", verb, "--socket", SOCKET)

    # ---- waits ---------------------------------------------------------------------------------------------------------
    def wait_status(self, status):
        self.wait(f"VM {self.name} is {status}", lambda: self.status() == status)

    def wait_agent(self):
        self.wait("the guest's agent is connected", lambda: self.condition("AgentConnected") == "True")

    def wait_up(self, not_uid=None):
        """The VM runs and is Ready, the guest is up; another instance than this one."""
        self.wait("the VM runs", lambda: self.phase() == "Running" and self.uid() != not_uid)
        self.wait_agent()
        self.wait("kubectl says so", lambda: self.status() == "Running" and self.condition("Ready", "vm") == "True")

    def wait_followed(self):
        """The node agent hears the launcher: a pause is in the status, and its end."""
        self.vmlet("pause")
        self.wait("the pause is in the status", lambda: self.condition("Paused") == "True" and self.status() == "Paused")
        self.vmlet("unpause")
        self.wait("its end too", lambda: self.condition("Paused") is None and self.status() == "Running")

    # ---- the node ------------------------------------------------------------------------------------------------------
    def left_on_node(self, uid):
        """What the node agent has kept of an instance, and mounts of container disks."""
        listing = self.kubectl("-n", "kubevirt", "exec", "ds/virt-handler", "--", "find", "/var/run/kubevirt-private")
        mounts = self.cluster.node("cat", "/proc/1/mounts").stdout
        return [line for line in listing.splitlines() if uid in line] + [line for line in mounts.splitlines() if "disk_0.img" in line]


class Watch:
    """kubectl get KIND NAME --watch: every line that it prints, in columns."""

    def __init__(self, machine, kind):
        argv = [f"{machine.cluster.settings()['plane']}/kubectl", "--kubeconfig", str(machine.cluster.kubeconfig), "get", kind,
                "--watch", "--field-selector", f"metadata.name={machine.name}"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self):
        """(names of the columns, the values of the third column in their order)"""
        self.process.terminate()
        text = self.process.communicate(timeout=60)[0]
        header, *lines = [line for line in text.splitlines() if line.strip()]
        at = [m.start() for m in re.finditer(r"\S+", header)]
        states = []
        for line in lines:
            state = line[at[2]:].split()[0] if len(line) > at[2] and line[at[2]] != " " else ""
            if state and states[-1:] != [state]:
                states.append(state)
        return header.split(), states
