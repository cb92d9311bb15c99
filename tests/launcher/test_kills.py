# SPDX-License-Identifier: Apache-2.0
"""The launcher killed again and again while its guest writes. The long run is tests/fault's."""
import statistics

from fault_lab import Pod, kill_while_it_writes
from vmlet_lab import TOP, initramfs, short_tmp, vmi  # noqa: F401


def test_twenty_kills_lose_no_line(short_tmp, initramfs):  # noqa: F811
    pod = Pod(short_tmp, TOP / "build", vmi("vmlet.write=0 vmlet.pace=0.1"), initramfs)
    try:
        times = kill_while_it_writes(pod, 20)
    finally:
        pod.close()
    print(f"answers again after ms: median {statistics.median(times) * 1000:.0f}, max {max(times) * 1000:.0f}")
    assert statistics.median(times) < 0.5  # the budget is 100 ms; this machine may be busy
