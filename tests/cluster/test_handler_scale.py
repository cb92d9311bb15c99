# SPDX-License-Identifier: Apache-2.0
"""virt-handler's memory: 5 MiB of its own, and 20 KiB for each instance; what scale_handler.py measures, in small."""
import pytest

from scale_handler import Node, measure
from test_crds import crds  # noqa: F401 (a fixture)

BASE_KIB, INSTANCE_KIB = 5 * 1024, 20


@pytest.fixture
def node(crds, tmp_path):  # noqa: F811
    return Node(crds, tmp_path)


def test_memory(node):
    few, many = measure(node, 10), measure(node, 150)
    for first, second in zip(few, many):
        assert first[1] <= BASE_KIB + 10 * INSTANCE_KIB
        assert second[1] <= BASE_KIB + 150 * INSTANCE_KIB
        assert (second[1] - first[1]) / 140 <= INSTANCE_KIB, (few, many)
