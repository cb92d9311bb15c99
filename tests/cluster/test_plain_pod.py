# SPDX-License-Identifier: Apache-2.0
"""A VM in a plain pod, from the manifest beside: no CRD, no controller, no node agent."""
import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

MANIFEST = Path(__file__).with_name("plain-pod.yaml")
PATIENCE = 600


@pytest.fixture
def pod(cluster, launcher_images):
    """Applied; gone again at the end."""
    cluster.kubectl("apply", "-f", str(MANIFEST))
    yield "plain-vm"
    cluster.kubectl("delete", "-f", str(MANIFEST), "--ignore-not-found", "--grace-period=1", "--wait=true", timeout=150)


def get(cluster, name):
    return json.loads(cluster.kubectl("get", "pod", name, "-o", "json"))


def wait_running(cluster, name):
    cluster._wait("QEMU runs the guest", lambda: "Running" in qmp(cluster, name, "domstate") or "running" in qmp(cluster, name, "domstate"), PATIENCE)


def qmp(cluster, name, command):
    return cluster.kubectl("exec", name, "-c", "compute", "--", "qmp-shell", "-c", command)


def test_boots_and_answers(cluster, pod):
    """The console from its first byte by kubectl logs, the agent by its own channel, a question of QEMU by kubectl exec."""
    wait_running(cluster, pod)
    cluster._wait("the guest's login prompt is in kubectl logs",
                  lambda: "vmlet guest ready" in cluster.kubectl("logs", pod, "-c", "guest-console-log"), PATIENCE)
    info = qmp(cluster, pod, "dominfo")
    assert "default_plain-vm" in info and "5e1f0c4e" in info + json.dumps(get(cluster, pod))
    processes = cluster.kubectl("exec", pod, "-c", "compute", "--", "ps", "-o", "pid,user,args")
    assert "qemu-system" in processes and "root" not in [line.split()[1] for line in processes.splitlines()[1:]]
    assert all(not c["restartCount"] for c in get(cluster, pod)["status"]["containerStatuses"])


def test_deleted_within_grace(cluster, pod):
    """kubectl delete: the guest is asked to shut down, and does; the pod is gone long before kubelet would kill it."""
    wait_running(cluster, pod)
    cluster._wait("the guest is up", lambda: "vmlet guest ready" in cluster.kubectl("logs", pod, "-c", "guest-console-log"), PATIENCE)
    follow = subprocess.Popen([*kubectl_argv(cluster), "logs", "-f", pod, "-c", "compute"], stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    cluster.kubectl("delete", "pod", pod, "--wait=true", timeout=150)
    took = time.monotonic() - began
    log = follow.communicate(timeout=60)[0]
    grace = next(d for d in yaml.safe_load_all(MANIFEST.read_text()) if d["kind"] == "Pod")["spec"]["terminationGracePeriodSeconds"]
    assert took < grace, log
    assert "SIGTERM" in log


def test_guest_powers_off(cluster, pod):
    """The guest ends by itself: the pod has Succeeded."""
    wait_running(cluster, pod)
    cluster._wait("the guest is up", lambda: "vmlet guest ready" in cluster.kubectl("logs", pod, "-c", "guest-console-log"), PATIENCE)
    cluster._wait("the agent answers", lambda: probe(cluster, pod, "--guestAgentPing").returncode == 0, PATIENCE)
    probe(cluster, pod, "--command", "poweroff")  # its own exit code may come too late for an answer
    cluster._wait("the pod succeeds", lambda: get(cluster, pod)["status"]["phase"] == "Succeeded", PATIENCE)


def probe(cluster, name, *arguments):
    return cluster.kubectl("exec", name, "-c", "compute", "--", "virt-probe", "--domainName", "default_plain-vm",
                           "--timeoutSeconds", "30", *arguments, check=False)


def kubectl_argv(cluster):
    return [f"{cluster.settings()['plane']}/kubectl", "--kubeconfig", str(cluster.kubeconfig)]
