"""The latest answer to one question, asked by whoever needs it first: single flight without tasks.

Rules:

* The first caller asks Ollama under a lock; the others wait for the lock and find his answer.
* Every wait, for the lock or for Ollama, ends at the caller's own timeout.
* A failure is shared with those who waited for it, and with nobody who comes later.
* A cancelled asker has found out nothing: the next in line asks.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.errors import GatewayError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnreachable

T = TypeVar("T")

UpstreamDown = (UpstreamUnreachable, UpstreamProtocolError)
"""How a question to Ollama fails; a timeout is Ollama being out of reach."""


@dataclass(frozen=True, slots=True)
class Stamped(Generic[T]):
    """An answer and when Ollama was asked for it: it knows nothing of what happened after."""

    value: T
    asked_at: float


class Latest(Generic[T]):
    """Keeps the newest answer that ``ask`` gave.

    ``now`` is a monotonic clock, ``timeout`` bounds each caller's wait; both in seconds.
    ``on_end`` hears of every question that ended: None, or why it failed.
    """

    def __init__(
        self,
        ask: Callable[[float], Awaitable[T]],
        *,
        now: Callable[[], float],
        timeout: float,
        on_end: Callable[[GatewayError | None], None] = lambda _: None,
    ) -> None:
        """``ask`` is given the time at which it is called."""
        self._ask = ask
        self._now = now
        self._timeout = timeout
        self._on_end = on_end
        # All mutable state. ``_failures`` tells a waiter whether somebody failed while he waited.
        self._lock = asyncio.Lock()
        self._stamped: Stamped[T] | None = None
        self._attempted_at = -math.inf
        self._failures = 0
        self._failure: GatewayError = UpstreamUnreachable()

    def __repr__(self) -> str:
        kept = "nothing" if self._stamped is None else f"an answer of {self._stamped.asked_at:g}"
        return f"<Latest {kept}, {self._failures} failures{', asking' * self.asking}>"

    @property
    def stamped(self) -> Stamped[T] | None:
        return self._stamped

    @property
    def asking(self) -> bool:
        return self._lock.locked()

    @property
    def attempted_at(self) -> float:
        """When Ollama was last asked, with or without success; minus infinity before that."""
        return self._attempted_at

    async def since(self, moment: float) -> Stamped[T]:
        """An answer that was asked for at ``moment`` or later: the one we have, or a new one.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError``.
        """
        if (have := self._if_since(moment)) is not None:
            return have
        failures = self._failures
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                if (have := self._if_since(moment)) is not None:
                    return have
                if self._failures != failures:
                    raise type(self._failure)(self._failure.message)
                return await self._ask_now()
        except TimeoutError:
            raise self._failed(UpstreamUnreachable(self._silent())) from None

    def _if_since(self, moment: float) -> Stamped[T] | None:
        have = self._stamped
        return have if have is not None and have.asked_at >= moment else None

    async def _ask_now(self) -> Stamped[T]:
        asked_at = self._attempted_at = self._now()
        try:
            value = await self._ask(asked_at)
        except UpstreamTimeout:
            raise self._failed(UpstreamUnreachable(self._silent())) from None
        except UpstreamDown as error:
            self._failed(error)
            raise
        self._stamped = Stamped(value, asked_at)
        self._on_end(None)
        return self._stamped

    def _failed(self, error: GatewayError) -> GatewayError:
        self._failures += 1
        self._failure = error
        self._on_end(error)
        return error

    def _silent(self) -> str:
        return (
            f"Ollama did not answer within {self._timeout:g} s. "
            "Check on its machine that it runs and is not overloaded."
        )
