#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""virt-controller with many VMs: scale.py [--svg FILE] [--rest N]… [N…]. A real etcd and API server; scheduler, kubelet and
node agent are a stand-in (controller_lab.Node), which writes what those would write and runs nothing.

Each N: VMs are made and started until there are N. Printed are the seconds from the first VM's creation to the last one's
Ready, API calls by the controller, its memory and CPU time; then the same of a controller that is started anew with all of
them there. --rest N: more VMs, with instance and pod, are put into the API server as the started ones are at the end, until
there are N, and a controller is started: it has to find nothing to do. --svg draws the memory."""
import argparse
import copy
import http.client
import json
import os
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import conftest  # noqa: E402
import controller_lab  # noqa: E402, F401
from controller_lab import KUBEVIRT, Controller, Node, kubeconfig  # noqa: E402
from test_controller import VM  # noqa: E402
from test_crds import CRDS  # noqa: E402
import yaml  # noqa: E402

NS = "scale"
PODS = f"/api/v1/namespaces/{NS}/pods"
VMS, VMIS = (f"{KUBEVIRT}/namespaces/{NS}/{plural}" for plural in ("virtualmachines", "virtualmachineinstances"))
MIB = 1024
BUDGETS = {1000: 20, 10000: 100}  # VMs: MiB


class Tmp:
    def mktemp(self, name):
        return Path(tempfile.mkdtemp(prefix=name))


def memory(pid):
    """Resident, of it private and dirty, and the most that ever was; KiB."""
    fields = {}
    for line in [*Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:], *Path(f"/proc/{pid}/status").read_text().splitlines()]:
        key, value = line.split(":", 1)
        if value.endswith("kB"):
            fields[key] = int(value.split()[0])
    return fields["Rss"], fields["Private_Dirty"], fields["VmHWM"]


def cpu(pid):
    f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def in_threads(work, items, threads=4):
    """The items, dealt out; the first failure is raised."""
    failed = []

    def run(part):
        try:
            work(part)
        except Exception as e:
            failed.append(e)

    running = [threading.Thread(target=run, args=(items[k::threads],)) for k in range(threads)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    if failed:
        raise failed[0]


class Scale:
    def __init__(self, api, tmp):
        self.api, self.tmp = api, tmp
        self.config = kubeconfig(tmp / "config", api.url, api.ca)
        self.made, self.points = 0, []  # points: (VMs, KiB, how)
        self.node = Node(api, NS)

    def controller(self, name):
        c = Controller(self.config, self.tmp / f"log-{name}")
        while c.metrics()["kubevirt_virt_controller_ready_status"] != 1:
            time.sleep(0.05)
        return c

    def count_ready(self):
        ready, more = 0, "?limit=500"
        while more:
            _, page = self.api.call("GET", VMS + more)
            ready += sum(bool(v.get("status", {}).get("ready")) for v in page["items"])
            token = page["metadata"].get("continue")
            more = f"?limit=500&continue={token}" if token else None
        return ready

    def start(self, size):
        c = self.controller(size)
        time.sleep(6)  # past its tidying
        empty = memory(c.process.pid)
        if self.made == 0:
            self.points.append((0, empty[0], "started anew"))
        before, start = c.metrics(), time.monotonic()

        def make(part):
            for i in part:
                vm = copy.deepcopy(VM)
                vm["metadata"]["name"] = f"vm-{i:06}"
                status, answer = self.api.call("POST", VMS, vm)
                assert status == 201, answer

        in_threads(make, list(range(self.made, size)))
        created, ready = time.monotonic() - start, 0
        while ready < size and time.monotonic() - start < 3600:
            ready = self.count_ready()
            time.sleep(1)
        seconds, new = time.monotonic() - start, size - self.made
        time.sleep(15)  # past the last Event's second write, and the controller's tidying
        after = c.metrics()
        calls = {k.split('"')[1]: int(after[k] - before[k]) for k in after if k.startswith("vmlet_controller_requests")}
        sent = sum(v for k, v in calls.items() if k not in ("list", "watch"))
        rss, dirty, peak = memory(c.process.pid)
        cache = sum(v for k, v in after.items() if k.startswith("vmlet_controller_cache_bytes"))
        print(f"{size} VMs: {new} new ones created in {created:.0f} s, all ready after {seconds:.0f} s "
              f"({new / seconds:.1f} VMs/s, the stand-in and the API server on the same 2 cores); {sent / new:.2f} calls a VM "
              f"{ {k: round(v / new, 2) for k, v in calls.items() if v and k not in ('list', 'watch')} }, "
              f"{calls['list']} lists and {calls['watch']} watches in all; "
              f"refused {after['vmlet_controller_refused_total']:.0f}, conflicts {after['vmlet_controller_conflicts_total']:.0f}; "
              f"controller: {cpu(c.process.pid) / new * 1000:.1f} ms CPU a VM, {rss / MIB:.1f} MiB resident "
              f"({empty[0] / MIB:.1f} before, {dirty / MIB:.1f} private dirty, {peak / MIB:.1f} at most), "
              f"cache {cache / size:.0f} bytes a VM", flush=True)
        assert not self.node.twice and ready == size
        assert len(self.node.made) == len(set(self.node.made.values())), "an instance had two pods"
        c.stop()
        self.made = size
        self.points.append((size, rss, "has just started them"))

    def look(self):
        """A controller that finds them all there."""
        c = Controller(self.config, self.tmp / f"log-{self.made}-again")
        start = time.monotonic()
        while c.metrics()["kubevirt_virt_controller_ready_status"] != 1:
            time.sleep(0.05)
        synced = time.monotonic() - start
        while any(c.metrics()[f'vmlet_controller_queue{{resource="{r}",state="{s}"}}'] for s in ("ready", "working")
                  for r in ("virtualmachines", "virtualmachineinstances")):
            time.sleep(0.1)
        looked = time.monotonic() - start
        time.sleep(8)
        rss, dirty, peak = memory(c.process.pid)
        m = c.metrics()
        assert all(m[f'vmlet_controller_objects{{resource="{r}"}}'] == self.made
                   for r in ("virtualmachines", "virtualmachineinstances", "pods"))
        print(f"{self.made} VMs, a controller started anew: caches full after {synced:.1f} s, all looked at after "
              f"{looked:.1f} s with {m['vmlet_controller_writes_total']:.0f} writes; {cpu(c.process.pid):.1f} s CPU, "
              f"{rss / MIB:.1f} MiB resident, {dirty / MIB:.1f} private dirty, {peak / MIB:.1f} at most", flush=True)
        c.stop()
        self.points.append((self.made, rss, "started anew"))

    def clone(self, size):
        """More of the same, as the first one is now: what changes is name and uids."""
        old = {what: self.api.call("GET", path)[1] for what, path in (("vm", f"{VMS}/vm-000000"), ("vmi", f"{VMIS}/vm-000000"))}
        uid = {what: o["metadata"]["uid"] for what, o in old.items()}
        old["pod"] = next(p for p in self.api.call("GET", f"{PODS}?labelSelector=kubevirt.io/created-by%3D{uid['vmi']}")[1]["items"])
        uid["pod"] = old["pod"]["metadata"]["uid"]
        for o in old.values():
            for key in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"):
                o["metadata"].pop(key, None)
        texts = {what: json.dumps(o) for what, o in old.items()}

        def work(part):
            connection = http.client.HTTPSConnection(self.api.url[8:], context=self.api.context)

            def call(method, path, body, kind="application/json"):
                connection.request(method, path, json.dumps(body), {"Authorization": "Bearer " + conftest.TOKEN, "Content-Type": kind})
                answer = connection.getresponse()
                body = json.loads(answer.read())
                assert answer.status in (200, 201), body
                return body

            for i in part:
                name, new = f"vm-{i:06}", {}
                for what, path in (("vm", VMS), ("vmi", VMIS), ("pod", PODS)):
                    def made(text):
                        for k, v in new.items():
                            text = text.replace(uid[k], v)
                        return json.loads(text.replace("vm-000000", name).replace(old["pod"]["metadata"]["name"], f"virt-launcher-{name}-x"))
                    body = made(texts[what])
                    if what == "pod":
                        body["metadata"]["name"] = f"virt-launcher-{name}-{uuid.uuid4().hex[:5]}"
                    answer = call("POST", path, body)
                    new[what] = answer["metadata"]["uid"]
                    old_name = answer["metadata"]["name"]
                    if what != "vmi":
                        call("PATCH", f"{path}/{old_name}/status", {"status": body["status"]}, "application/merge-patch+json")
                call("PATCH", f"{VMIS}/{name}/status", {"status": made(texts["vmi"])["status"]}, "application/merge-patch+json")

        in_threads(work, list(range(self.made, size)), 6)
        self.made = size


def draw(points, path):
    """Memory over VMs, as SVG: two series, the straight line through the first and the last of one, the budgets."""
    width, height, left, bottom, top = 640, 360, 60, 44, 20
    most_x, most_y = max(10000, max(p[0] for p in points)), 110
    x = lambda n: left + n / most_x * (width - left - 20)  # noqa: E731
    y = lambda mib: height - bottom - mib / most_y * (height - bottom - top)  # noqa: E731
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for mib in range(0, most_y + 1, 20):
        out.append(f'<path d="M{left} {y(mib):.1f}H{width - 20}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y(mib) + 4:.1f}" text-anchor="end">{mib}</text>')
    for n in range(0, most_x + 1, most_x // 5):
        out.append(f'<text x="{x(n):.1f}" y="{height - bottom + 16}" text-anchor="middle">{n}</text>')
    out.append(f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">VirtualMachines, each with instance and pod</text>')
    out.append(f'<text x="14" y="{height / 2}" text-anchor="middle" transform="rotate(-90 14 {height / 2})">virt-controller, resident, MiB</text>')
    for n, mib in BUDGETS.items():
        out.append(f'<path d="M{x(n) - 8:.1f} {y(mib):.1f}h16" stroke="#c00" stroke-width="2"/>'
                   f'<text x="{min(x(n) + 12, width - 70):.1f}" y="{y(mib) - 5:.1f}" fill="#c00">budget {mib}</text>')
    colours = {"started anew": "#06c", "has just started them": "#080"}
    anew = sorted(p for p in points if p[2] == "started anew")
    (n0, k0, _), (n1, k1, _) = anew[0], anew[-1]
    slope = (k1 - k0) / max(1, n1 - n0)
    out.append(f'<path d="M{x(n0):.1f} {y(k0 / MIB):.1f}L{x(n1):.1f} {y(k1 / MIB):.1f}" stroke="#06c" stroke-dasharray="4 3"/>')
    for n, kib, how in points:
        out.append(f'<circle cx="{x(n):.1f}" cy="{y(kib / MIB):.1f}" r="3.5" fill="{colours[how]}"><title>{n} VMs: {kib / MIB:.1f} MiB, {how}</title></circle>')
    for i, (how, colour) in enumerate(colours.items()):
        out.append(f'<circle cx="{left + 24}" cy="{top + 14 + 18 * i}" r="3.5" fill="{colour}"/>'
                   f'<text x="{left + 34}" y="{top + 18 + 18 * i}">{how}</text>')
    out.append(f'<text x="{left + 34}" y="{top + 54}">{k0 / MIB:.1f} MiB and {slope:.2f} KiB a VM</text></svg>')
    Path(path).write_text("\n".join(out) + "\n")
    off = max(abs(k - k0 - slope * (n - n0)) / k for n, k, _ in anew)
    print(f"started anew: {k0 / MIB:.1f} MiB and {slope:.2f} KiB a VM; no point is further than {off * 100:.0f} % from that line")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[1000])
    parser.add_argument("--rest", type=int, action="append", default=[])
    parser.add_argument("--svg")
    options = parser.parse_args()
    server = conftest.api.__wrapped__(Tmp()) if hasattr(conftest.api, "__wrapped__") else conftest.api.__pytest_wrapped__.obj(Tmp())
    api = next(server)
    for path in CRDS:
        status, answer = api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))
        assert status == 201, answer
    for plural in ("virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets"):
        api.wait(plural, "GET", f"/apis/kubevirt.io/v1/{plural}", lambda s, _: s == 200)
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": NS}})
    scale = Scale(api, Tmp().mktemp("scale"))
    try:
        for size in options.sizes:
            scale.start(size)
            scale.look()
        scale.node.close()
        for size in options.rest:
            scale.clone(size)
            scale.look()
        if options.svg:
            draw(scale.points, options.svg)
    finally:
        scale.node.close()
        next(server, None)


if __name__ == "__main__":
    main()
