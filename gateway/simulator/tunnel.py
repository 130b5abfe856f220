"""A tunnel, or any other proxy, between callers and a gateway: a test commands how it behaves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from gateway.simulator.answer import Answer, Request
from gateway.simulator.control import Watch
from gateway.simulator.http import Head
from gateway.simulator.server import Server
from gateway.simulator.tunnel_habits import TunnelHabits
from gateway.simulator.tunnel_passage import Dropped, Passage
from gateway.simulator.tunnel_wire import Nonsense, ReplyReader, forwarded

_LOOPBACK = "127.0.0.1"
_PIECE = 65536
_GONE = 502
_AS_IT_IS = TunnelHabits()


@dataclass(slots=True)
class TunnelStats:
    """Counters of requests since the tunnel was made; each but the active ones ended one way."""

    requests: int = 0
    active: int = 0
    """Under way now."""
    passed: int = 0
    """Answers that were passed on whole, whatever their status."""
    cut_silent: int = 0
    cut_long: int = 0
    dropped: int = 0
    broken: int = 0
    """Answers that the target did not give, or not to their end."""
    left: int = 0
    """Callers who left before they had their answer."""
    refused: int = 0
    """Requests that were too long."""


class Tunnel:
    """Listens on a free port of loopback and passes on to ``target``, a URL or a port of loopback.

    ``port`` asks for a certain one instead. Each request is collected and goes on a connection of
    its own, which closes at once when the caller's does, and the other way round. Callers speak
    HTTP/1.1: to one who speaks HTTP/1.0 the end of a stream and a cut look the same.
    Its mutable state: the counters, and how many answers are still to be dropped.
    """

    def __init__(
        self, target: str | int, habits: TunnelHabits = _AS_IT_IS, *, port: int = 0
    ) -> None:
        url = urlsplit(target if isinstance(target, str) else f"http://{_LOOPBACK}:{target}")
        if url.scheme != "http" or url.hostname is None or url.port is None or url.path.strip("/"):
            raise ValueError(f"a target is http://host:port, not {target!r}")
        self._host, self._target_port = url.hostname, url.port
        self.habits = habits
        self.port = port
        self.stats = TunnelStats()
        self.failures: list[BaseException] = []
        """Bugs of the tunnel itself; leaving ``async with`` raises them."""
        self._drops_left = habits.drop_times
        self._watch = Watch()
        self._listener: asyncio.Server | None = None
        self._server = Server(
            handle=self._handle,
            welcome=_welcome,
            on_connection=self._watch.changed,
            on_failure=self.failures.append,
            blocked=lambda _: None,
        )

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}"

    async def wait_for(self, condition: Callable[[], bool], *, timeout: float = 5.0) -> None:  # noqa: ASYNC109  - its error tells the state
        """Wait until ``condition`` holds, asked after each change of the counters.

        ``TimeoutError`` after so many real seconds; its message is the state.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._watch.until(condition)
        except TimeoutError:
            raise TimeoutError(f"still not so after {timeout} s: {self!r}") from None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server.open()
        self._listener = await loop.create_server(
            self._server.factory, _LOOPBACK, self.port, backlog=1024
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._server.close()
        if self.failures and error is None:
            raise self.failures[0]

    def __repr__(self) -> str:
        stats = self.stats
        return (
            f"<Tunnel {stats.requests} requests, {stats.active} active, {stats.passed} passed, "
            f"{stats.cut_silent} cut silent, {stats.cut_long} cut long, {stats.dropped} dropped, "
            f"{stats.broken} broken, {stats.left} left, {stats.refused} refused>"
        )

    async def _handle(self, request: Request, answer: Answer) -> None:
        stats = self.stats
        stats.requests += 1
        stats.active += 1
        self._watch.changed()
        try:
            await self._pass(request, Passage(answer, request, self.habits, self._may_drop))
        except Dropped:
            stats.dropped += 1
        except asyncio.CancelledError:
            stats.left += 1
            raise
        finally:
            stats.active -= 1
            self._watch.changed()

    async def _pass(self, request: Request, passage: Passage) -> None:
        habits, stats = self.habits, self.stats
        if habits.request_bytes is not None and len(request.body) > habits.request_bytes:
            stats.refused += 1
            passage.refuse(413)
            return
        whole, quiet = asyncio.timeout(habits.longest), asyncio.timeout(None)
        try:
            async with whole, quiet:
                await self._exchange(request, passage, quiet)
        except TimeoutError:
            if whole.expired():
                stats.cut_long += 1
            else:
                stats.cut_silent += 1
            passage.cut(habits.cut_status)
        except (ConnectionError, EOFError, Nonsense):
            stats.broken += 1
            passage.cut(_GONE)
        else:
            stats.passed += 1

    async def _exchange(self, request: Request, passage: Passage, quiet: asyncio.Timeout) -> None:
        async with self._reached() as (reader, writer):
            writer.write(forwarded(request, self.habits, f"{self._host}:{self._target_port}"))
            # It may have answered without reading everything.
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            self._restart(quiet)
            reply = ReplyReader(request.head.method)
            while not reply.whole:
                begun = reply.head is not None
                data = await reader.read(_PIECE)
                body = reply.feed(data) if data else b""
                if not data:
                    reply.close()
                if not begun and reply.head is not None:
                    passage.begin(reply.head)
                if body:
                    passage.carry(body)
                if body or (self.habits.head_counts and not begun):
                    self._restart(quiet)
                await self._room(passage, quiet)
            passage.end()

    async def _room(self, passage: Passage, quiet: asyncio.Timeout) -> None:
        """Wait for a caller who takes nothing; that is not the target's silence."""
        now = asyncio.get_running_loop().time
        due = quiet.when()
        left = None if due is None else due - now()
        quiet.reschedule(None)
        await passage.room()
        quiet.reschedule(None if left is None else now() + left)

    def _restart(self, quiet: asyncio.Timeout) -> None:
        if self.habits.silence is not None:
            quiet.reschedule(asyncio.get_running_loop().time() + self.habits.silence)

    def _may_drop(self) -> bool:
        if self._drops_left is None:
            return True
        self._drops_left -= 1
        return self._drops_left >= 0

    @contextlib.asynccontextmanager
    async def _reached(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self._host, self._target_port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _welcome(_head: Head, _answer: Answer) -> bool:
    """Whoever asks before he sends a body may send it."""
    return True
