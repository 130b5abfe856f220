"""An event loop on which time passes faster, so that hours fit into minutes.

Callers, proxies and the gateway run on it as they are, unpatched and at their own settings: every
sleep, timeout and deadline that goes through the loop is shorter by one factor, so a `Retry-After`
of 7, a timeout of 60 and the SDK's backoff of 0.5 mean on this loop what they mean outside. (To
divide all settings instead would distort: `Retry-After` counts whole seconds, at least 1 of them,
and the SDK's own sleeps cannot be set at all.) What is not faster is the machine: a millisecond of
work counts as ``1 / scale`` milliseconds.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits ``scale`` times as long as the loop asks for."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout * self._scale)


class FastLoop(asyncio.SelectorEventLoop):
    """``scale`` real seconds pass for each second of this loop."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        super().__init__(_Selector(scale))

    def time(self) -> float:
        return super().time() / self._scale


def run(main: Coroutine[object, object, T], *, scale: float) -> T:
    """Run a program on such a loop."""
    with asyncio.Runner(loop_factory=lambda: FastLoop(scale)) as runner:
        return runner.run(main)


def serve(main: Coroutine[object, object, None], *, scale: float) -> None:
    """Run a program that Ctrl-C ends quietly."""
    with suppress(KeyboardInterrupt):
        run(main, scale=scale)
