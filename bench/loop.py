"""Which event loop a process of the benchmark runs on."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress


def new_loop(*, uvloop: bool) -> asyncio.AbstractEventLoop:
    """uvloop's where it is wanted and there is one, else asyncio's own."""
    if uvloop:
        with suppress(ImportError):
            import uvloop as module  # noqa: PLC0415  - not on every platform

            return module.new_event_loop()
    return asyncio.new_event_loop()


def run_until_stopped(main: Coroutine[object, object, None], *, uvloop: bool) -> None:
    """Run a server; SIGTERM ends the process, as nothing of it is worth saving."""
    with (
        suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=lambda: new_loop(uvloop=uvloop)) as runner,
    ):
        runner.run(main)
