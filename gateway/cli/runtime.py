"""How a long-running command uses the machine: event loop, malloc, garbage collector."""

import asyncio
import ctypes
import ctypes.util
import gc
from contextlib import suppress
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
"""From glibc's malloc.h."""

_LARGE_BLOCK: Final = 1 << 20


def new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop where it is installed, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def return_large_blocks() -> None:
    """Let malloc return the memory of large request bodies to the system when they are freed.

    glibc raises the size from which it does so each time such a block is freed, and keeps smaller
    blocks in its heap. After many simultaneous bodies of 20 MB the process kept half a gigabyte,
    and while they were there it used more than ``limits.buffered_bytes``. Without glibc this does
    nothing.
    """
    name = ctypes.util.find_library("c")
    with suppress(OSError, AttributeError):
        ctypes.CDLL(name).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def relax_garbage_collection() -> None:
    """Exclude the objects made at startup from garbage collection, and collect less often.

    They live as long as the process: searching them again and again finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
