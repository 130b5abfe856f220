"""The latest response to one question to Ollama, fetched once for all who need it at that moment.

Rules, without tasks of its own:

1. The first caller fetches under a lock. The others wait for the lock and find the response.
2. Every wait, for the lock or for Ollama, ends at the caller's own timeout.
3. A failure is shared with the callers that waited for it, and with none that come later.
4. A cancelled fetch is no failure: the next caller in line fetches.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from gateway.errors import GatewayError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnreachable

T = TypeVar("T")

UPSTREAM_DOWN: Final = (UpstreamUnreachable, UpstreamProtocolError)
"""How a question to Ollama fails; a timeout means that Ollama is unreachable."""


@dataclass(frozen=True, slots=True)
class Stamped(Generic[T]):
    """A response and when it was asked for: it knows nothing of what happened after that."""

    value: T
    asked_at: float


class SingleFlight(Generic[T]):
    """Keeps the newest response of ``fetch``.

    Args:
        fetch: asks Ollama; it is given the time at which it is called.
        now: monotonic clock in seconds.
        timeout: seconds that one caller waits at most.
        on_end: called after every fetch that ended, with None or the reason of its failure.
    """

    def __init__(
        self,
        fetch: Callable[[float], Awaitable[T]],
        *,
        now: Callable[[], float],
        timeout: float,
        on_end: Callable[[GatewayError | None], None] = lambda _: None,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._timeout = timeout
        self._on_end = on_end
        # All mutable state. ``_failures`` tells a caller whether a fetch failed while it waited.
        self._lock = asyncio.Lock()
        self._stamped: Stamped[T] | None = None
        self._attempted_at = -math.inf
        self._failures = 0
        self._failure: GatewayError = UpstreamUnreachable()

    def __repr__(self) -> str:
        kept = "nothing" if self._stamped is None else f"a response of {self._stamped.asked_at:g}"
        in_flight = ", in flight" * self.in_flight
        return f"<SingleFlight {kept}, {self._failures} failures{in_flight}>"

    @property
    def stamped(self) -> Stamped[T] | None:
        """The last good response, however old."""
        return self._stamped

    @property
    def in_flight(self) -> bool:
        return self._lock.locked()

    @property
    def attempted_at(self) -> float:
        """When Ollama was last asked, with or without success; minus infinity before that."""
        return self._attempted_at

    async def since(self, moment: float) -> Stamped[T]:
        """Return a response that was asked for at ``moment`` or later, fetching one if needed.

        Raises:
            UpstreamUnreachable: Ollama did not respond, or not in time.
            UpstreamProtocolError: the response is not Ollama's.
        """
        if (kept := self._kept_since(moment)) is not None:
            return kept
        failures = self._failures
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                if (kept := self._kept_since(moment)) is not None:
                    return kept
                if self._failures != failures:
                    # A new error object: two callers must not raise the same one.
                    raise type(self._failure)(self._failure.message)
                return await self._fetch_now()
        except TimeoutError:
            raise self._failed(self._timed_out()) from None

    def _kept_since(self, moment: float) -> Stamped[T] | None:
        kept = self._stamped
        return kept if kept is not None and kept.asked_at >= moment else None

    async def _fetch_now(self) -> Stamped[T]:
        asked_at = self._attempted_at = self._now()
        try:
            value = await self._fetch(asked_at)
        except UpstreamTimeout:
            raise self._failed(self._timed_out()) from None
        except UPSTREAM_DOWN as error:
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

    def _timed_out(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"Ollama did not answer within {self._timeout:g} s. "
            "Check on its machine that it runs and is not overloaded."
        )
