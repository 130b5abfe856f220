"""What models there are: the one place that answers it, for discovery and for every call.

Filters by key stand behind the caches, never in them: what is kept here is Ollama's own answer.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Never

from gateway.models.details import Details
from gateway.models.list_cache import JUST_NOW, RETRY_EVERY, CachedList, Lists
from gateway.models.listing import Model
from gateway.models.names import name_key
from gateway.models.rejections import cannot_tell, not_allowed, not_found
from gateway.models.single_flight import UpstreamDown
from gateway.models.source import ShowReply, Source

_REFRESHED_AFTER: Final = 0.75
"""Of ``ttl``: the list is renewed before it expires, so that no caller waits for it."""

_SHORTEST_REST: Final = 0.5


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """``up``: Ollama answered when last asked for its list; ``age`` of the list in seconds."""

    up: bool
    age: float | None
    models: int


def _ignore(_up: bool, _reason: str) -> None:  # noqa: FBT001  - the shape of on_change
    pass


class Catalog:
    """Ollama's models, its version and what it has loaded, cached.

    ``ttl``: a list is served that long without asking; ``stale_limit``: how old a list may be that
    is served while Ollama is away; ``fetch_timeout``: how long anybody waits for Ollama, all in
    seconds of ``now``, a monotonic clock. ``on_change`` is told when Ollama comes up (True) or goes
    away (False, and why), the first time included.
    """

    def __init__(
        self,
        source: Source,
        *,
        ttl: float,
        stale_limit: float,
        now: Callable[[], float],
        fetch_timeout: float = 2.0,
        on_change: Callable[[bool, str], None] = _ignore,
    ) -> None:
        self._ttl = ttl
        # All mutable state, but for what the two caches hold.
        self._doubted = asyncio.Event()
        self._lists = Lists(
            source,
            ttl=ttl,
            stale_limit=stale_limit,
            now=now,
            fetch_timeout=fetch_timeout,
            on_change=on_change,
        )
        self._details = Details(
            source,
            ttl=ttl,
            stale_limit=stale_limit,
            now=now,
            fetch_timeout=fetch_timeout,
            doubt=self.doubt,
        )

    def __repr__(self) -> str:
        held = self.snapshot()
        models = f"{held.models} model{'' if held.models == 1 else 's'}"
        what = "no list" if held.age is None else f"{models}, {held.age:.0f} s old"
        return f"<Catalog {what}, {'up' if held.up else 'down'}>"

    @property
    def up(self) -> bool:
        """Whether Ollama answered when it was last asked for its list."""
        return self._lists.up

    def age(self) -> float | None:
        """Seconds since Ollama was asked for the list that we have."""
        return self._lists.age()

    def snapshot(self) -> CatalogSnapshot:
        listing = self._lists.latest
        return CatalogSnapshot(self.up, self.age(), 0 if listing is None else len(listing.models))

    async def listing(self) -> CachedList:
        """The cached list, at most ``ttl`` old; while Ollama is away, at most ``stale_limit``.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError`` without such a list, as
        ``refresh`` and ``fresh`` do.
        """
        return await self._lists.cached()

    async def refresh(self) -> CachedList:
        """Ask Ollama now; if it does not answer, the last good list, marked stale."""
        return await self._lists.asked(within=0.0)

    async def fresh(self) -> CachedList:
        """As ``refresh``, but a list that Ollama was asked for within the last second will do."""
        return await self._lists.asked(within=JUST_NOW)

    async def resolve(self, name: str, may_use: Callable[[str], bool]) -> Model:
        """The model that Ollama would run for ``name``, if the caller's key may use it.

        ``may_use`` is asked with names as Ollama lists them. A name that is not in the list is
        looked up once more at Ollama, for it may have been pulled a moment ago. Whether the model
        may leave the machine is for the caller to decide (``Model.leaves_the_machine``); a cloud
        name that was never pulled is not found.

        Raises ``ModelNotFound``, ``NoModelsPulled`` or ``ModelNotAllowed``; without any list, or
        for a name that is not in the last one while Ollama is away, ``UpstreamUnreachable`` or
        ``UpstreamProtocolError``.
        """
        served = await self._lists.cached()
        model = served.listing.find(name)
        if model is None and name_key(name) is not None:
            served = await self._lists.asked_again(served)
            model = served.listing.find(name)
        if model is None:
            if not self.up:
                raise cannot_tell(name)
            raise not_found(name, served.listing, may_use)
        if not may_use(model.name):
            raise not_allowed(model.name, served.listing, may_use)
        return model

    async def show(self, model: Model, *, verbose: bool) -> ShowReply:
        """Ollama's answer to ``/api/show`` for a model that ``resolve`` gave, cached by digest.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError``.
        """
        return await self._details.show(model, verbose=verbose)

    async def version(self) -> bytes:
        """The body of Ollama's ``/api/version``, at most ``ttl`` old, older while Ollama is away.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError``.
        """
        return await self._details.version()

    async def ps(self, *, within: float = JUST_NOW) -> bytes:
        """The body of Ollama's ``/api/ps``, asked for at most ``within`` seconds ago.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError``.
        """
        return await self._details.ps(within=within)

    def doubt(self) -> None:
        """Somebody could not reach Ollama: let ``run`` look now, not when the list expires."""
        if self.up:
            self._doubted.set()

    async def run(self) -> Never:
        """Keep the list fresh, and notice within seconds when Ollama comes or goes."""
        misses = 0
        while True:
            misses = 0 if await self._look() else misses + 1
            await self._rest(self._pause(misses))

    async def _look(self) -> bool:
        try:
            await self._lists.fetched(within=0.0)
        except UpstreamDown:
            return False
        return True

    def _pause(self, misses: int) -> float:
        if misses == 0:
            return max(_SHORTEST_REST, self._ttl * _REFRESHED_AFTER)
        return min(RETRY_EVERY, _SHORTEST_REST * 2.0 ** min(misses - 1, 2))

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._doubted.wait()
        # A list of just now says nothing of what somebody saw after it, and yet many doubts at once
        # are one reason to look.
        await asyncio.sleep(max(0.0, JUST_NOW - (self.age() or 0.0)) if self.up else 0.0)
        self._doubted.clear()
