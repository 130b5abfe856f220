"""Which event loop a process of the benchmark runs on."""

import asyncio
import os
import stat
import sys
from collections.abc import Coroutine
from contextlib import suppress


def new_loop(*, uvloop: bool) -> asyncio.AbstractEventLoop:
    """uvloop's where it is wanted and there is one, else asyncio's own."""
    if uvloop:
        with suppress(ImportError):
            import uvloop as module  # noqa: PLC0415  - not on every platform

            return module.new_event_loop()
    return asyncio.new_event_loop()


def stay_awake(loop: asyncio.AbstractEventLoop) -> None:
    """Never let the running loop sleep: from now on it takes a whole core.

    Who sends to a sleeping process pays for waking its core, and a slow sender, whose peers sleep
    more, pays more often. Beside peers that are awake a contender is charged for its own work.
    """
    loop.call_soon(stay_awake, loop)


def run_until_stopped(main: Coroutine[object, object, None], *, uvloop: bool) -> None:
    """Run a server until SIGTERM, or until the pipe on its standard input ends.

    The latter is how it learns that the benchmark has died: one that never sleeps must not outlive
    it.
    """
    with (
        suppress(KeyboardInterrupt, asyncio.CancelledError),
        asyncio.Runner(loop_factory=lambda: new_loop(uvloop=uvloop)) as runner,
    ):
        runner.run(_while_wanted(main))


async def _while_wanted(main: Coroutine[object, object, None]) -> None:
    task = asyncio.current_task()
    if task is not None and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), task.cancel)
    await main
