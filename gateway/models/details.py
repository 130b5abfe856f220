"""What else callers discover: one model's details, Ollama's version, what is loaded.

Details are kept by model, digest and ``verbose``: the digest stands for all that they say, so they
are served without asking until the list shows another digest.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from gateway.errors import UpstreamUnreachable
from gateway.models.discovery import shown_fields
from gateway.models.list_cache import JUST_NOW
from gateway.models.listing import Model, decoded_object, named_entries
from gateway.models.show_cache import ShowCache
from gateway.models.single_flight import Latest, UpstreamDown
from gateway.models.source import ShowReply, Source

T = TypeVar("T")

VERSION_TIMEOUT: Final = 1.0
"""Seconds. Ollama says its version in a millisecond unless something is wrong."""


class Details:
    """``show``, ``version`` and ``ps``, each asked once at a time.

    ``ttl``, ``stale_limit`` and ``fetch_timeout`` in seconds. ``doubt`` is called when Ollama could
    not be reached, so that the list's keeper looks at once.
    """

    def __init__(
        self,
        source: Source,
        *,
        ttl: float,
        stale_limit: float,
        now: Callable[[], float],
        fetch_timeout: float,
        doubt: Callable[[], None],
    ) -> None:
        self._source = source
        self._ttl = ttl
        self._stale_limit = stale_limit
        self._now = now
        self._fetch_timeout = fetch_timeout
        self._doubt = doubt
        # All mutable state. A flight lives as long as somebody waits for its answer.
        self._shown = ShowCache()
        self._flights: WeakValueDictionary[tuple[str, str, bool], Latest[ShowReply]] = (
            WeakValueDictionary()
        )
        self._version = Latest(self._ask_version, now=now, timeout=VERSION_TIMEOUT)
        self._ps = Latest(self._ask_ps, now=now, timeout=fetch_timeout)

    def __repr__(self) -> str:
        return f"<Details {self._shown!r}, version {self._version!r}, ps {self._ps!r}>"

    async def show(self, model: Model, *, verbose: bool) -> ShowReply:
        """Ollama's answer about ``model``; only those of status 200 are kept.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError``.
        """
        if (reply := self._shown.find(model, verbose=verbose)) is not None:
            return reply
        ask = partial(self._ask_show, model, verbose)
        new = Latest(ask, now=self._now, timeout=self._fetch_timeout)
        flight = self._flights.setdefault((model.name, model.digest, verbose), new)
        return await self._since(flight, self._now() - JUST_NOW)

    async def version(self) -> bytes:
        """The body of ``/api/version``, asked for at most ``ttl`` ago, or older if Ollama is away.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError`` when there is none younger than
        ``stale_limit``.
        """
        try:
            return await self._since(self._version, self._now() - self._ttl)
        except UpstreamDown:
            kept = self._version.stamped
            if kept is None or self._now() - kept.asked_at >= self._stale_limit:
                raise
            return kept.value

    async def ps(self, *, within: float = JUST_NOW) -> bytes:
        """The body of ``/api/ps``, asked for at most ``within`` seconds ago.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError``.
        """
        return await self._since(self._ps, self._now() - within)

    async def _since(self, latest: Latest[T], moment: float) -> T:
        try:
            return (await latest.since(moment)).value
        except UpstreamUnreachable:
            self._doubt()
            raise

    async def _ask_show(self, model: Model, verbose: bool, _: float) -> ShowReply:  # noqa: FBT001  - bound by partial
        if (reply := self._shown.find(model, verbose=verbose)) is not None:
            return reply
        reply = await self._source.show(model.name, verbose)
        if reply.status == 200:
            shown_fields(reply.body)
            self._shown.keep(model, reply, verbose=verbose)
        return reply

    async def _ask_version(self, _: float) -> bytes:
        body = await self._source.version()
        decoded_object(body, "/api/version")
        return body

    async def _ask_ps(self, _: float) -> bytes:
        body = await self._source.ps()
        named_entries(decoded_object(body, "/api/ps"), "/api/ps")
        return body
