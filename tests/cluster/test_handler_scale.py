# SPDX-License-Identifier: Apache-2.0
"""virt-handler's memory: 5 MiB of its own, and 20 KiB for each instance; what scale_handler.py measures, in small. What is resident
besides are clean pages of shared libraries, which the kernel takes back when it wants them (k8s/manifests/README.md)."""
import pytest

from scale_handler import Node, measure
from test_crds import crds  # noqa: F401 (a fixture)

BASE_KIB, INSTANCE_KIB = 5 * 1024, 20


@pytest.fixture
def node(crds, tmp_path):  # noqa: F811
    return Node(crds, tmp_path)


def test_memory(node):
    sizes = 0, 1, 100
    measured = [measure(node, size) for size in sizes]
    for rows in zip(*measured):  # as they became Running, and with an agent started anew
        own = [row.memory.own for row in rows]
        print(*(f"{size} instances: {row.memory}" for size, row in zip(sizes, rows)), sep="\n")
        assert all(kib <= BASE_KIB + size * INSTANCE_KIB for size, kib in zip(sizes, own)), own
        assert (own[-1] - own[0]) / sizes[-1] <= INSTANCE_KIB, own
