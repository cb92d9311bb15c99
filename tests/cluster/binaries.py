# SPDX-License-Identifier: Apache-2.0
"""The programs of a cluster, built from source once and kept: Kubernetes, etcd and kubectl as one program from server/,
containerd from containerd/, each pinned by its go.mod. runc and the CNI plugins are Debian's packages."""
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("VMLET_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmlet") / "cluster"
LINKS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet", "kubectl")


class CannotBuild(Exception):
    """This machine cannot build them, for a reason that is none of the project's."""


def version(module, folder):
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (HERE / folder / "go.mod").read_text(), re.M)
    return found.group(1)


KUBERNETES = version("k8s.io/kubernetes", "server")
CONTAINERD = version("github.com/containerd/containerd/v2", "containerd")


def build(folder, target, ldflags):
    """The folder with the programs of tests/cluster/FOLDER. Minutes at first; kept until its source changes."""
    sources = [p for p in sorted((HERE / folder).iterdir()) if p.suffix in (".go", ".mod", ".sum")]
    key = hashlib.sha256(b"".join(p.read_bytes() for p in sources) + ldflags.encode()).hexdigest()[:16]
    out = CACHE / f"{folder}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{folder}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (out / "done").exists():
            return out
        if not shutil.which("go"):
            raise CannotBuild("no Go toolchain: the programs of the test cluster cannot be built (apt install golang-go, or a newer Go)")
        print(f"cluster: building {folder} ({out}), some minutes", file=sys.stderr, flush=True)
        out.mkdir(exist_ok=True)
        done = subprocess.run(
            ["nice", "-n", "19", "go", "build", "-p", "2", "-trimpath", "-ldflags", f"-s -w {ldflags}", "-o", f"{out}/", *target],
            cwd=HERE / folder, env=os.environ | {"CGO_ENABLED": "0"}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            if re.search(r"dial tcp|no such host|i/o timeout|requires go >=|toolchain not available", done.stderr):
                raise CannotBuild("the programs of the test cluster cannot be built here: " + done.stderr.strip().splitlines()[-1])
            raise RuntimeError(done.stderr)
        (out / "done").touch()
        return out


def control_plane():
    """The program `cluster`, with links by which it is kubectl and the others."""
    out = build("server", ["."], f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}")
    for name in LINKS:
        if not (out / name).is_symlink():
            try:
                (out / name).symlink_to("server")
            except FileExistsError:
                pass  # another process was here first
    return out


def containerd():
    return build("containerd", ["tool"], f"-X github.com/containerd/containerd/v2/version.Version={CONTAINERD}")
