# SPDX-License-Identifier: Apache-2.0
from vmlet_lab import initramfs, lab, short_tmp  # noqa: F401  (fixtures)
