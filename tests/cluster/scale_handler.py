#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""virt-handler with many instances: scale_handler.py [N…]. A real etcd and API server; kubelet and the launchers are stand-ins:
one process that listens on a socket for each instance and answers what the agent asks, with a domain that runs. The agent has
a record of each, as after a restart of its own, so it prepares nothing. Prints, for each N, memory and CPU time when all
are in phase Running and the agent rests."""
import asyncio
import copy
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import namedtuple
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from controller_lab import BUILD, KUBEVIRT, MERGE, kubeconfig, wait_for  # noqa: E402

HANDLER = BUILD / "k8s/handler/virt-handler"
NODE = "many"
VMI = yaml.safe_load((HERE.parent / "golden/manifests/seed-ubuntu-amd-vmi.yaml").read_text())
DOMAIN = {"Status": {"Status": "Running", "Reason": "Unknown", "OSInfo": {"Name": "Debian GNU/Linux", "Id": "debian", "VersionId": "12"}},
          "Spec": {"Memory": {"Value": 4 << 30}, "CPU": {"Topology": {"Sockets": 1, "Cores": 4, "Threads": 1}},
                   "OS": {"Type": {"Machine": "pc-q35-7.2"}},
                   "Devices": {"Disks": [{"Alias": {"Name": n}, "Target": {"Device": d}} for n, d in (("rootdisk", "vda"), ("containerdisk", "sda"))]}}}
LINKS = [{"name": "default", "binding": "bridge", "podLink": "eth0", "mac": "6a:07:67:28:e5:d7", "queues": 1, "podIPs": ["10.0.0.9"]}]


Memory = namedtuple("Memory", "own pss resident")
Row = namedtuple("Row", "memory cpu")


class Launchers:
    """Sockets by the thousand, served by one thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.servers = []
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def listen(self, path):
        asyncio.run_coroutine_threadsafe(self._listen(path), self.loop).result(60)

    async def _listen(self, path):
        path.parent.mkdir(parents=True)
        folder = os.open(path.parent, os.O_PATH)
        s = socket.socket(socket.AF_UNIX)
        s.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's path has at most 107 bytes
        os.close(folder)
        self.servers.append(await asyncio.start_unix_server(self._serve, sock=s))

    async def _serve(self, reader, writer):
        answers = {"GetDomain": {"domain": DOMAIN, "vmlet": {"agentConnected": False, "accel": "kvm"}}, "Subscribe": {"lost": 0}}
        while line := await reader.readline():
            request = json.loads(line)
            writer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": answers.get(request["method"], {})}).encode() + b"\n")


class Node:
    def __init__(self, api, folder, namespace="scale"):
        self.api, self.folder, self.ns = api, folder, namespace
        self.launchers, self.made = Launchers(), 0
        self.config = kubeconfig(folder / "config", api.url, api.ca)
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        api.call("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        (folder / "kubelet/device-plugins").mkdir(parents=True)
        (folder / "private/ghost-records").mkdir(parents=True)

    def make(self, count):
        """So many instances in all, each as another agent has left it: handed over, not yet Running."""
        for i in range(self.made, count):
            vmi, pod = copy.deepcopy(VMI), str(uuid.uuid4())
            status = vmi.pop("status")
            vmi["metadata"] = {"name": f"vm-{i:05}", "labels": {"kubevirt.io/nodeName": NODE}, "annotations": vmi["metadata"]["annotations"]}
            code, made = self.api.call("POST", f"{KUBEVIRT}/namespaces/{self.ns}/virtualmachineinstances", vmi)
            assert code == 201, made
            record = {"uid": made["metadata"]["uid"], "namespace": self.ns, "name": vmi["metadata"]["name"], "podUID": pod,
                      "generation": made["metadata"]["generation"], "claimBytes": 25 << 30, "nextEvent": 1, "interfaces": LINKS}
            (self.folder / "private/ghost-records" / record["uid"]).write_text(json.dumps(record))
            self.launchers.listen(self.folder / "kubelet/pods" / pod / "volumes/kubernetes.io~empty-dir/sockets/launcher-sock")
            status |= {"phase": "Scheduled", "activePods": {pod: NODE}, "nodeName": NODE}
            code, answer = self.api.call("PATCH", f"{KUBEVIRT}/namespaces/{self.ns}/virtualmachineinstances/{record['name']}/status",
                                         {"status": status}, MERGE)
            assert code == 200, answer
        self.made = count

    def running(self):
        count, more = 0, "?limit=500"
        while more:
            page = self.api.call("GET", f"{KUBEVIRT}/namespaces/{self.ns}/virtualmachineinstances{more}")[1]
            count += sum(i["status"]["phase"] == "Running" for i in page["items"])
            token = page["metadata"].get("continue")
            more = f"?limit=500&continue={token}" if token else None
        return count


class Handler:
    def __init__(self, node):
        self.log = node.folder / f"handler-{node.made}.log"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [HANDLER, "--kubeconfig", node.config, "--node-name", NODE, "--listen", "127.0.0.1:0", "--kubelet-root", node.folder / "kubelet",
                 "--private-dir", node.folder / "private"], stdout=out, stderr=out, env=os.environ | {"VMLET_LOG_FORMAT": "json"})
        self.port = wait_for("port of the agent", lambda: (re.search(r"metrics on port (\d+)", self.log.read_text()) or [0, 0])[1], 60)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")

    def rest(self, writes):
        """Until it has written so often, and has looked at nothing for a while, in which it tidies up its heap."""
        last = [None, 0.0]

        def resting():
            m = self.metrics()
            now = (m["vmlet_handler_turns_total"], m["vmlet_handler_launcher_events_total"])
            if now != last[0]:
                last[:] = [now, time.monotonic()]
            return int(m["vmlet_handler_status_writes_total"]) >= writes and time.monotonic() - last[1] > 8

        wait_for("the agent to rest", resting, 900)

    def memory(self):
        """KiB, by smaps_rollup: what it has written to, which is its own and in no file; its share of all that is mapped; resident."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]
        fields = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
        assert fields["Private_Dirty"] <= fields["Anonymous"] + 64, fields  # nothing of its own is in a file that it has mapped
        return Memory(fields["Anonymous"], fields["Pss"], fields["Rss"])

    def cpu(self):
        f = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()[-2000:]


def measure(node, size):
    """Two Rows with so many instances: first they become Running, then of an agent started anew."""
    before = node.running() if node.made else 0
    node.make(size)
    rows = []
    for writes in (size - before, 0):
        handler = Handler(node)
        handler.rest(writes)
        assert int(handler.metrics()["vmlet_handler_instances"]) == size
        rows.append(Row(handler.memory(), handler.cpu()))
        handler.stop()
    assert node.running() == size
    return rows


def main():
    import conftest
    import test_crds
    sizes = [int(x) for x in sys.argv[1:]] or [0, 1, 100, 1000]

    class Tmp:
        def mktemp(self, name):
            return Path(tempfile.mkdtemp(prefix=name))

    server = conftest.api.__wrapped__(Tmp()) if hasattr(conftest.api, "__wrapped__") else conftest.api.__pytest_wrapped__.obj(Tmp())
    api = next(server)
    try:
        for path in test_crds.CRDS:
            assert api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))[0] == 201
        api.wait("VMIs", "GET", f"{KUBEVIRT}/virtualmachineinstances", lambda s, _: s == 200)
        node = Node(api, Tmp().mktemp("scale"))
        for size in sizes:
            for what, row in zip(("became Running", "an agent started anew"), measure(node, size)):
                m = [f"{kib / 1024:.1f} MiB" for kib in row.memory]
                each = f", {row.cpu / size * 1000:.1f} ms CPU each" if size else ""
                print(f"{size} instances, {what}: {m[0]} its own, {m[1]} PSS, {m[2]} resident{each}", flush=True)
    finally:
        next(server, None)


if __name__ == "__main__":
    main()
