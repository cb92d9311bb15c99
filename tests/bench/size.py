# SPDX-License-Identifier: Apache-2.0
"""What an installation takes: the stripped programs of a VM's pod, without QEMU and the libraries that Debian has."""
import os
import subprocess
import tempfile
from pathlib import Path

from bench_common import TOP, row

CLUSTER = {"virt-controller", "virt-handler"}  # in images of their own
LIMIT_MIB = 3.0


def programs():
    """{name: bytes} of what `meson install --strip` puts into bin and sbin."""
    with tempfile.TemporaryDirectory(prefix="vmlet-size-") as root:
        subprocess.run(["meson", "install", "-C", TOP / "build", "--no-rebuild", "--strip", "--quiet"], check=True,
                       env={**os.environ, "DESTDIR": root}, stdout=subprocess.DEVNULL)
        return {p.name: p.stat().st_size for p in Path(root).rglob("*bin/*") if p.is_file()}


def measure(_options):
    found = programs()
    pod = sum(size for name, size in found.items() if name not in CLUSTER) / (1 << 20)
    return {
        "name": "size", "what": "installed programs, stripped", "notes": [],
        "rows": [row(name, [size / 1024], "KiB") for name, size in sorted(found.items(), key=lambda item: -item[1])],
        "budgets": [{"name": "programs of a VM's pod, MiB", "value": pod, "limit": LIMIT_MIB}],
    }
