"""How the process uses the memory of the machine."""

import ctypes
import ctypes.util
from contextlib import suppress
from typing import Final

_MMAP_THRESHOLD: Final = -3
"""``M_MMAP_THRESHOLD`` of glibc's malloc.h."""

_LARGE: Final = 1024 * 1024


def return_large_blocks() -> None:
    """Let large bodies have memory of their own, which goes back when they go.

    glibc raises the size from which it does so whenever such a block is freed, and keeps what is
    smaller in its heap: after a crowd of 20 MB bodies the process held half a gigabyte for nobody,
    and more than ``limits.buffered_bytes`` while they were there. Elsewhere this does nothing.
    """
    name = ctypes.util.find_library("c")
    with suppress(OSError, AttributeError):
        ctypes.CDLL(name).mallopt(_MMAP_THRESHOLD, _LARGE)
