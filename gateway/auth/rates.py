"""How many requests each key may make in a minute."""

import asyncio
from collections.abc import Callable, Collection

from aiolimiter import AsyncLimiter

from gateway.auth.principal import Principal
from gateway.errors import RateLimitExceeded

_MINUTE = 60.0


class Rates:
    """A leaky bucket for each key that has an ``rpm``: that many at once, as many again per minute.

    ``names`` gives the names of the keys there are: limiters of others are dropped whenever a new
    one is made, so there are never more of them than keys.
    """

    # All mutable state: _limiters, and _loop, the event loop that they belong to.

    def __init__(self, names: Callable[[], Collection[str]]) -> None:
        self._names = names
        self._limiters: dict[str, AsyncLimiter] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Rates {len(self._limiters)} limiters>"

    async def take(self, principal: Principal) -> None:
        """Counts one request of the key. Never waits; raises RateLimitExceeded."""
        if principal.rpm is None:
            return
        limiter = self._limiter(principal.key, principal.rpm)
        if not limiter.has_capacity():
            # One request's share is what must leak at the most; the limiter's level is its own.
            raise RateLimitExceeded(
                f"This key may make {principal.rpm} requests per minute. Wait for as long as "
                "Retry-After says; the owner of the gateway can raise `rpm` in its keys.toml.",
                retry_after=_MINUTE / principal.rpm,
            )
        # The limiter waits only without capacity, and it has some, so this await yields to nobody
        # and the two are one step. Driving the coroutine by hand would rely on the same thing, and
        # break where this would wait.
        await limiter.acquire()

    def _limiter(self, name: str, rpm: int) -> AsyncLimiter:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # A limiter keeps the clock of the loop that it first ran in, and warns in any other.
            self._limiters.clear()
            self._loop = loop
        limiter = self._limiters.get(name)
        if limiter is None or limiter.max_rate != rpm:
            limiter = self._make(name, rpm)
        return limiter

    def _make(self, name: str, rpm: int) -> AsyncLimiter:
        known = self._names()
        for gone in [other for other in self._limiters if other not in known]:
            del self._limiters[gone]
        limiter = self._limiters[name] = AsyncLimiter(rpm, _MINUTE)
        return limiter
