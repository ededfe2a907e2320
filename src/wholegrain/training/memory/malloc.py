"""How a process treats memory that was freed."""

from __future__ import annotations

import ctypes
import os
import sys


def keep_freed_memory() -> None:
    """Has glibc keep large blocks that are freed, for the next step needs the same again.

    By default every activation above 32 MiB is fresh memory that the kernel must clear: two thirds of the time in which a CPU
    encodes photos (MobileNetV2, 160 pixels, 64 at a time: 52 ms a photo, 15 with this), for 3% more memory at the peak.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mmap_max, trim_threshold, top_pad = -4, -1, -2
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # not glibc
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)
