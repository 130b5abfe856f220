"""How tests and the simulator wait for each other without sleeping."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

Predicate = Callable[[], bool]


class Watch:
    """Wakes whoever waits for a condition, each time that something has changed.

    Its mutable state is the list of waiters; a waiter leaves it when granted or cancelled.
    """

    def __init__(self) -> None:
        self._waiters: list[tuple[Predicate, asyncio.Future[None]]] = []

    def changed(self) -> None:
        for predicate, future in self._waiters:
            if future.done():
                continue
            try:
                holds = predicate()
            except Exception as error:  # noqa: BLE001  - it is the waiter's own
                future.set_exception(error)
            else:
                if holds:
                    future.set_result(None)

    async def until(self, predicate: Predicate) -> None:
        if predicate():
            return
        waiter = (predicate, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter[1]
        finally:
            self._waiters.remove(waiter)


class Hold:
    """While it is held, every generation stops before each token until ``release`` lets it pass.

    As a context manager it lets everything run again at its end.
    """

    def __init__(self, watch: Watch, on_end: Callable[["Hold"], None]) -> None:
        self._watch = watch
        self._on_end = on_end
        self._permits = 0
        self._open = False
        self.waiting = 0
        """Generations that stand before a token now."""

    def release(self, tokens: int = 1) -> None:
        """Let ``tokens`` more tokens pass, whosever they are."""
        self._permits += tokens
        self._watch.changed()

    def end(self) -> None:
        self._open = True
        self._on_end(self)
        self._watch.changed()

    async def passes(self) -> None:
        self.waiting += 1
        self._watch.changed()
        try:
            while not self._take():
                await self._watch.until(lambda: self._open or self._permits > 0)
        finally:
            self.waiting -= 1

    def _take(self) -> bool:
        if self._open:
            return True
        if self._permits:
            self._permits -= 1
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<Hold {self.waiting} waiting, {self._permits} released>"
