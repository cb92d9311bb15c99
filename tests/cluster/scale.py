#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""virt-controller with many VMs: scale.py [N…]. A real etcd and API server; scheduler, kubelet and node agent are a
stand-in (controller_lab.Node), which writes what those would write and runs nothing. Prints, for each N: seconds from the
first VM's creation to the last one's Ready, API calls by the controller, its memory and CPU time; then of a controller that is
started anew with all of them there."""
import copy
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import conftest  # noqa: E402
import controller_lab  # noqa: E402
from controller_lab import KUBEVIRT, Controller, Node, kubeconfig  # noqa: E402
from test_controller import VM  # noqa: E402
from test_crds import CRDS  # noqa: E402
import yaml  # noqa: E402


class Tmp:
    def mktemp(self, name):
        return Path(tempfile.mkdtemp(prefix=name))


def memory(pid):
    """Resident, and of it private and dirty; KiB."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        fields[key] = int(value.split()[0])
    return fields["Rss"], fields["Private_Dirty"]


def cpu(pid):
    f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def main():
    sizes = [int(x) for x in sys.argv[1:]] or [1000]
    server = conftest.api.__wrapped__(Tmp()) if hasattr(conftest.api, "__wrapped__") else conftest.api.__pytest_wrapped__.obj(Tmp())
    api = next(server)
    for path in CRDS:
        status, answer = api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))
        assert status == 201, answer
    for plural in ("virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets"):
        api.wait(plural, "GET", f"/apis/kubevirt.io/v1/{plural}", lambda s, _: s == 200)
    tmp = Tmp().mktemp("scale")
    config = kubeconfig(tmp / "config", api.url, api.ca)
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "scale"}})
    node = Node(api, "scale")
    made = 0
    try:
        for size in sizes:
            c = Controller(config, tmp / f"log-{size}")
            while c.metrics()["kubevirt_virt_controller_ready_status"] != 1:
                time.sleep(0.1)
            empty = memory(c.process.pid)
            before, start = c.metrics(), time.monotonic()
            names = list(range(made, size))

            def make(part):
                for i in part:
                    vm = copy.deepcopy(VM)
                    vm["metadata"]["name"] = f"vm-{i:06}"
                    status, answer = api.call("POST", f"{KUBEVIRT}/namespaces/scale/virtualmachines", vm)
                    assert status == 201, answer

            threads = [threading.Thread(target=make, args=(names[k::4],)) for k in range(4)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            created = time.monotonic() - start
            ready = 0
            while ready < size and time.monotonic() - start < 3600:
                ready, more = 0, "?limit=500"
                while more:
                    _, page = api.call("GET", f"{KUBEVIRT}/namespaces/scale/virtualmachines{more}")
                    ready += sum(bool(v.get("status", {}).get("ready")) for v in page["items"])
                    token = page["metadata"].get("continue")
                    more = f"?limit=500&continue={token}" if token else None
                time.sleep(1)
            seconds = time.monotonic() - start
            after = c.metrics()
            new = size - made
            calls = {k.split('"')[1]: int(after[k] - before[k]) for k in after if k.startswith("vmlet_controller_requests")}
            sent = sum(v for k, v in calls.items() if k not in ("list", "watch"))
            time.sleep(12)  # past the last Event's second write, and the controller's tidying
            rss, dirty = memory(c.process.pid)
            cache = sum(v for k, v in after.items() if k.startswith("vmlet_controller_cache_bytes"))
            print(f"{size} VMs: {new} new ones created in {created:.0f} s, all ready after {seconds:.0f} s "
                  f"({new / seconds:.1f} VMs/s, the stand-in and the API server on the same 2 cores); {sent / new:.1f} writes a VM; "
                  f"refused {after['vmlet_controller_refused_total']:.0f}, conflicts {after['vmlet_controller_conflicts_total']:.0f}; "
                  f"controller: {cpu(c.process.pid) / new * 1000:.1f} ms CPU a VM, {rss / 1024:.1f} MiB resident "
                  f"({empty[0] / 1024:.1f} when empty, {dirty / 1024:.1f} private dirty), cache {cache / size:.0f} bytes a VM", flush=True)
            assert not node.twice and ready == size
            c.stop()
            c = Controller(config, tmp / f"log-{size}-again")
            start = time.monotonic()
            while c.metrics()["kubevirt_virt_controller_ready_status"] != 1:
                time.sleep(0.05)
            synced = time.monotonic() - start
            while any(c.metrics()[f'vmlet_controller_queue{{resource="{r}",state="{s}"}}'] for s in ("ready", "working")
                      for r in ("virtualmachines", "virtualmachineinstances")):
                time.sleep(0.1)
            looked = time.monotonic() - start
            time.sleep(7)
            rss, dirty = memory(c.process.pid)
            print(f"{size} VMs, a controller started anew: caches full after {synced:.1f} s, all looked at after "
                  f"{looked:.1f} s with {c.metrics()['vmlet_controller_writes_total']:.0f} writes; "
                  f"{cpu(c.process.pid):.1f} s CPU, {rss / 1024:.1f} MiB resident, {dirty / 1024:.1f} private dirty", flush=True)
            c.stop()
            made = size
    finally:
        node.close()
        next(server, None)


if __name__ == "__main__":
    main()
