# SPDX-License-Identifier: Apache-2.0
"""virt-controller, a kubelet-and-node-agent stand-in, and a TCP proxy that does what a bad network does."""
import json
import os
import queue
import re
import socket
import subprocess
import threading
import time
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
CONTROLLER = BUILD / "k8s/controller/virt-controller"
KUBEVIRT = "/apis/kubevirt.io/v1"
MERGE = "application/merge-patch+json"
# As much of CDI as its user sees: the kind, with whatever is in it.
DATA_VOLUMES = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "datavolumes.cdi.kubevirt.io"},
    "spec": {"group": "cdi.kubevirt.io", "scope": "Namespaced",
             "names": {"plural": "datavolumes", "singular": "datavolume", "kind": "DataVolume"},
             "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                 "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def kubeconfig(path, url, ca, token="test-cluster-token", **user):
    path.write_text(json.dumps({
        "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "x", "user": user or {"token": token}}]}))
    return path


def wait_for(what, good, seconds=90):
    """Asks until the answer is good: the API server is where the truth is, and a test has no event of it."""
    end, answer = time.monotonic() + seconds, None
    while time.monotonic() < end:
        answer = good()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s: {answer}")


class Controller:
    def __init__(self, config, log, *arguments, port=0, lease=False):
        self.log = log
        self.out = open(log, "ab")
        command = [CONTROLLER, "--kubeconfig", config, "--launcher-image", "vmlet/virt-launcher",
                   "--listen", f"127.0.0.1:{port}", "--use-emulation", *arguments]
        if not lease:
            command.append("--no-leader-election")
        self.process = subprocess.Popen(command, stderr=self.out, stdout=self.out,
                                        env=os.environ | {"VMLET_LOG_FORMAT": "json"})

    @property
    def port(self):
        found = wait_for("port of the controller",
                         lambda: re.search(r"metrics on port (\d+)", self.log.read_text()) or self.process.poll(), 60)
        return int(found[1])

    def page(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return answer.read().decode()

    def metrics(self):
        out = {}
        for line in self.page("/metrics").splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
        return out

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.out.close()
        return self.process.returncode


class Proxy:
    """TCP in between. `cut()` ends all connections, `refuse` takes no new ones, `limit` ends each connection after so
    many bytes from the server, `delay` holds each piece of an answer back."""

    def __init__(self, target):
        self.target, self.limit, self.delay, self.refuse = target, None, 0.0, False
        self.connections, self.passed = set(), 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self.lock:
                self.connections.add((client, server))
            threading.Thread(target=self.pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, True), daemon=True).start()

    def pump(self, source, sink, from_server):
        passed = 0
        try:
            while data := source.recv(65536):
                if from_server and self.delay:
                    threading.Event().wait(self.delay)
                if from_server and self.limit is not None:
                    data = data[:max(0, self.limit - passed)]
                    if not data:
                        break
                passed += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        with self.lock:
            connections, self.connections = self.connections, set()
        for pair in connections:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.listener.close()
        self.cut()


class Node:
    """A stand-in for scheduler, kubelet and node agent, not the real ones: it watches launcher pods and VMIs, writes the
    phases that those would write, and keeps count of what must never happen: two live pods of one VMI."""

    def __init__(self, api, namespace, start=True):
        self.api, self.namespace = api, namespace
        self.behave = lambda pod: "run"  # or: "pending", "unschedulable", "image", "fail"
        self.pods, self.made, self.twice = {}, {}, []
        self.stop = threading.Event()
        self.work = queue.Queue()
        self.threads = [threading.Thread(target=self.watch, args=(path, handler), daemon=True) for path, handler in (
            (f"/api/v1/namespaces/{namespace}/pods", self.on_pod),
            (f"{KUBEVIRT}/namespaces/{namespace}/virtualmachineinstances", self.on_vmi))]
        self.threads += [threading.Thread(target=self.worker, daemon=True) for _ in range(4)]
        if start:
            for t in self.threads:
                t.start()

    def watch(self, path, handler):
        while not self.stop.is_set():
            try:
                _, listed = self.api.call("GET", path)
                for item in listed["items"]:
                    handler("ADDED", item)
                version = listed["metadata"]["resourceVersion"]
                request = urllib.request.Request(f"{self.api.url}{path}?watch=true&resourceVersion={version}")
                request.add_header("Authorization", "Bearer test-cluster-token")
                with urllib.request.urlopen(request, context=self.api.context, timeout=600) as answer:
                    for line in answer:
                        if self.stop.is_set():
                            return
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        handler(event["type"], event["object"])
            except (OSError, ValueError, KeyError, TypeError):
                self.stop.wait(0.3)

    def worker(self):
        while True:
            job, tries = self.work.get()
            if self.stop.is_set():
                return
            try:
                status, _ = job()
                if status in (409, 429, 500) and tries < 50:
                    self.later(job, tries)
            except OSError:
                if tries < 200:
                    self.later(job, tries)

    def later(self, job, tries):
        t = threading.Timer(0.1, lambda: self.work.put((job, tries + 1)))
        t.daemon = True
        t.start()

    def do(self, method, path, body, content_type=MERGE):
        self.work.put(((lambda: self.api.call(method, path, body, content_type)), 0))

    def on_pod(self, kind, pod):
        meta, status = pod["metadata"], pod.get("status", {})
        owner = meta["ownerReferences"][0]["uid"]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{meta['name']}"
        if kind == "DELETED":
            self.pods.pop(meta["uid"], None)
            return
        if meta["uid"] not in self.made:
            self.made[meta["uid"]] = owner
        self.pods[meta["uid"]] = owner
        if list(self.pods.values()).count(owner) > 1:
            self.twice.append(pod)
        if "deletionTimestamp" in meta:
            self.do("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}, "application/json")
            return
        how = self.behave(pod)
        if not pod["spec"].get("nodeName"):
            if how == "unschedulable":
                if not [c for c in status.get("conditions", []) if c["type"] == "PodScheduled"]:
                    self.do("PATCH", path + "/status", {"status": {"conditions": [
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                         "message": "0/1 nodes are available: 1 Insufficient memory."}]}})
            elif how != "pending":
                self.do("POST", path + "/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]},
                                                    "target": {"apiVersion": "v1", "kind": "Node", "name": "node-1"}},
                        "application/json")
        elif status.get("phase") == "Pending" and not status.get("containerStatuses"):
            self.do("PATCH", path + "/status", {"status": self.pod_status(pod, how)})
        elif status.get("phase") == "Running":
            gate = [c for c in status["conditions"] if c["type"] == "kubevirt.io/virtual-machine-unpaused"]
            ready = [c for c in status["conditions"] if c["type"] == "Ready"]
            wanted = gate[0]["status"] if gate else "False"
            if not ready or ready[0]["status"] != wanted:
                self.do("PATCH", path + "/status", {"status": {"conditions": [
                    {"type": "Ready", "status": wanted, "lastTransitionTime": now(),
                     "reason": "" if wanted == "True" else "ReadinessGatesNotReady"}]}},
                    "application/strategic-merge-patch+json")

    def pod_status(self, pod, how):
        names = [c["name"] for c in pod["spec"]["containers"]]
        base = {"name": "", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        if how == "image":
            states = [{"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"nowhere/disk\""}}
                      if n.startswith("volume") else {"waiting": {"reason": "PodInitializing"}} for n in names]
            phase = "Pending"
        elif how == "fail":
            states = [{"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": now(), "startedAt": now(),
                                      "message": "qemu: cannot open the disk: no such file"}} for n in names]
            phase = "Failed"
        else:
            states, phase = [{"running": {"startedAt": now()}} for n in names], "Running"
        return {"phase": phase, "podIP": "10.1.2.3", "qosClass": "Burstable",
                "containerStatuses": [base | {"name": n, "state": s, "ready": "running" in s} for n, s in zip(names, states)]}

    def on_vmi(self, kind, vmi):
        """The node agent's half: Scheduled → Running; nothing else unless a test says so."""
        status, meta = vmi.get("status", {}), vmi["metadata"]
        if kind == "DELETED" or status.get("phase") != "Scheduled" or not meta.get("labels", {}).get("kubevirt.io/nodeName"):
            return
        if self.behave(vmi) == "hold":
            return
        self.phase(vmi, "Running", interfaces=[{"name": "default", "ipAddress": "10.1.2.3"}])

    def phase(self, vmi, phase, **status):
        steps = (vmi.get("status") or {}).get("phaseTransitionTimestamps", [])
        self.do("PATCH", self.vmi_path(vmi["metadata"]["name"]) + "/status", {
            "metadata": {"resourceVersion": vmi["metadata"]["resourceVersion"]} if phase != "Running" else {},
            "status": status | {"phase": phase, "phaseTransitionTimestamps": steps + [
                {"phase": phase, "phaseTransitionTimestamp": now()}]}})

    def vmi_path(self, name):
        return f"{KUBEVIRT}/namespaces/{self.namespace}/virtualmachineinstances/{name}"

    def close(self):
        self.stop.set()
        for _ in range(4):
            self.work.put((lambda: (200, None), 0))
