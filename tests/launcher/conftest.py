# SPDX-License-Identifier: Apache-2.0
"""virt-launcher with a real guest, its directories below the test's own. Where it runs as PID 1's child is tests/pod's."""
import pytest
from launcher_lab import LAUNCHER, Pod  # noqa: F401
from vmlet_lab import initramfs, short_tmp  # noqa: F401


@pytest.fixture
def pod(short_tmp, initramfs):
    made = Pod(short_tmp, initramfs)
    yield made
    made.close()
