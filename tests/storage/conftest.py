# SPDX-License-Identifier: Apache-2.0
import pytest
from launcher_lab import Pod
from vmlet_lab import initramfs, lab, short_tmp  # noqa: F401


@pytest.fixture
def pod(short_tmp, initramfs):
    made = Pod(short_tmp, initramfs)
    yield made
    made.close()
