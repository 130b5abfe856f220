"""Lets tests and the simulator wait for each other without sleeping."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

Predicate = Callable[[], bool]


class Watch:
    """Conditions that are awaited; each is evaluated again whenever something has changed.

    Mutable state: the awaited conditions; each is removed when it is met or its wait is cancelled.
    """

    def __init__(self) -> None:
        self._conditions: list[tuple[Predicate, asyncio.Future[None]]] = []

    def changed(self) -> None:
        for predicate, future in self._conditions:
            if future.done():
                continue
            try:
                met = predicate()
            except Exception as error:  # noqa: BLE001  - it belongs to the code that waits
                future.set_exception(error)
            else:
                if met:
                    future.set_result(None)

    async def until(self, predicate: Predicate) -> None:
        if predicate():
            return
        condition = (predicate, asyncio.get_running_loop().create_future())
        self._conditions.append(condition)
        try:
            await condition[1]
        finally:
            self._conditions.remove(condition)


class Hold:
    """Stops every generation before each token until ``release`` permits the token.

    As a context manager it lets all generations continue when the block ends.
    """

    def __init__(self, watch: Watch, on_end: Callable[["Hold"], None]) -> None:
        self._watch = watch
        self._on_end = on_end
        self._permits = 0
        self._open = False
        self.waiting = 0
        """Generations that wait for a permit now."""

    def release(self, tokens: int = 1) -> None:
        """Permit ``tokens`` more tokens, of any generation."""
        self._permits += tokens
        self._watch.changed()

    def end(self) -> None:
        self._open = True
        self._on_end(self)
        self._watch.changed()

    async def permit(self) -> None:
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
