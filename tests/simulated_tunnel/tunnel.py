"""A tunnel, or any other proxy, between clients and a gateway, whose behaviour a test controls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from gateway.simulator.control import Watch
from gateway.simulator.http import Head
from gateway.simulator.response import Request, Response
from gateway.simulator.server import Server
from tests.simulated_tunnel.behaviour import TunnelBehaviour
from tests.simulated_tunnel.passage import Dropped, Passage
from tests.simulated_tunnel.wire import InvalidResponse, ReplyReader, forwarded

_LOOPBACK = "127.0.0.1"
_PIECE = 65536
_GONE = 502
_TRANSPARENT = TunnelBehaviour()


@dataclass(slots=True)
class TunnelStats:
    """Counters of requests since the tunnel was created; each finished one is in one of them."""

    requests: int = 0
    active: int = 0
    """In flight now."""
    passed: int = 0
    """Responses forwarded completely, whatever their status."""
    aborted_silent: int = 0
    aborted_long: int = 0
    dropped: int = 0
    broken: int = 0
    """Responses that the target did not send, or not completely."""
    disconnected: int = 0
    """Clients that disconnected before their response was complete."""
    refused: int = 0
    """Requests whose body was too large."""


class Tunnel:
    """Listens on a free loopback port and forwards to ``target``, a URL or a loopback port.

    ``port`` asks for a specific port instead. Each request is read completely and forwarded on a
    connection of its own; when either connection closes, the other one is closed at once. Clients
    must use HTTP/1.1: with HTTP/1.0 the end of a stream and an abort look the same.
    Mutable state: the counters, and how many responses are still to be dropped.
    """

    def __init__(
        self, target: str | int, behaviour: TunnelBehaviour = _TRANSPARENT, *, port: int = 0
    ) -> None:
        url = urlsplit(target if isinstance(target, str) else f"http://{_LOOPBACK}:{target}")
        if url.scheme != "http" or url.hostname is None or url.port is None or url.path.strip("/"):
            raise ValueError(f"a target is http://host:port, not {target!r}")
        self._host, self._target_port = url.hostname, url.port
        self.behaviour = behaviour
        self.port = port
        self.stats = TunnelStats()
        self.failures: list[BaseException] = []
        """Bugs of the tunnel itself; leaving ``async with`` raises the first one."""
        self._drops_remaining = behaviour.drop_count
        self._watch = Watch()
        self._listener: asyncio.Server | None = None
        self._server = Server(
            handle=self._handle,
            accepts=_accept_any_body,
            on_connection=self._watch.changed,
            on_failure=self.failures.append,
            blocked=lambda _: None,
        )

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}"

    async def wait_for(self, condition: Callable[[], bool], *, timeout: float = 5.0) -> None:  # noqa: ASYNC109  - its error tells the state
        """Wait until ``condition`` holds; it is evaluated after each change of the counters.

        Raises:
            TimeoutError: after ``timeout`` real seconds; the message is the tunnel's state.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._watch.until(condition)
        except TimeoutError:
            raise TimeoutError(f"condition not met after {timeout} s: {self!r}") from None

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
            f"{stats.aborted_silent} aborted silent, {stats.aborted_long} aborted long, "
            f"{stats.dropped} dropped, {stats.broken} broken, "
            f"{stats.disconnected} disconnected, {stats.refused} refused>"
        )

    async def _handle(self, request: Request, response: Response) -> None:
        stats = self.stats
        stats.requests += 1
        stats.active += 1
        self._watch.changed()
        try:
            await self._forward(request, Passage(response, request, self.behaviour, self._may_drop))
        except Dropped:
            stats.dropped += 1
        except asyncio.CancelledError:
            stats.disconnected += 1
            raise
        finally:
            stats.active -= 1
            self._watch.changed()

    async def _forward(self, request: Request, passage: Passage) -> None:
        behaviour, stats = self.behaviour, self.stats
        if behaviour.request_bytes is not None and len(request.body) > behaviour.request_bytes:
            stats.refused += 1
            passage.refuse(413)
            return
        total, silence_timeout = asyncio.timeout(behaviour.longest), asyncio.timeout(None)
        try:
            async with total, silence_timeout:
                await self._relay(request, passage, silence_timeout)
        except TimeoutError:
            if total.expired():
                stats.aborted_long += 1
            else:
                stats.aborted_silent += 1
            passage.abort(behaviour.timeout_status)
        except (ConnectionError, EOFError, InvalidResponse):
            stats.broken += 1
            passage.abort(_GONE)
        else:
            stats.passed += 1

    async def _relay(
        self, request: Request, passage: Passage, silence_timeout: asyncio.Timeout
    ) -> None:
        async with self._connected() as (reader, writer):
            writer.write(forwarded(request, self.behaviour, f"{self._host}:{self._target_port}"))
            # The target may have responded without reading the complete request.
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            self._restart(silence_timeout)
            reply = ReplyReader(request.head.method)
            while not reply.complete:
                begun = reply.head is not None
                data = await reader.read(_PIECE)
                body = reply.feed(data) if data else b""
                if not data:
                    reply.close()
                if not begun and reply.head is not None:
                    passage.begin(reply.head)
                if body:
                    passage.carry(body)
                if body or (self.behaviour.head_counts and not begun):
                    self._restart(silence_timeout)
                await self._room(passage, silence_timeout)
            passage.end()

    async def _room(self, passage: Passage, silence_timeout: asyncio.Timeout) -> None:
        """Wait for a slow reader; this time does not count as silence of the target."""
        now = asyncio.get_running_loop().time
        due = silence_timeout.when()
        disconnected = None if due is None else due - now()
        silence_timeout.reschedule(None)
        await passage.room()
        silence_timeout.reschedule(None if disconnected is None else now() + disconnected)

    def _restart(self, silence_timeout: asyncio.Timeout) -> None:
        if self.behaviour.silence is not None:
            silence_timeout.reschedule(asyncio.get_running_loop().time() + self.behaviour.silence)

    def _may_drop(self) -> bool:
        if self._drops_remaining is None:
            return True
        self._drops_remaining -= 1
        return self._drops_remaining >= 0

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self._host, self._target_port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _accept_any_body(_head: Head, _answer: Response) -> bool:
    """Let every client that sends ``Expect: 100-continue`` send its body."""
    return True
