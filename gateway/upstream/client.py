"""How a request reaches Ollama, and what of its answer may go further."""

import asyncio
from types import TracebackType

from msgspec import Struct
from yarl import URL

from gateway.errors import UpstreamProtocolError
from gateway.timeouts import Deadlines
from gateway.upstream.connection import Connection
from gateway.upstream.deadlines import Deadlines as ReplyDeadlines
from gateway.upstream.pool import Pool
from gateway.upstream.reply import Reply

MAX_PROBE_BYTES = 64 * 1024 * 1024


class Outgoing(Struct, frozen=True):
    """A request to Ollama: a constant path of ours, never a caller's, and a body that we built."""

    method: str
    path: str
    body: bytes = b""
    request_id: str = ""


class Upstream:
    """The one Ollama behind this gateway.

    Nothing of a caller's head goes to it: ``Host`` is its own address (bound to loopback it
    refuses others), and no credential, cookie or origin is ever passed on.
    """

    def __init__(self, url: URL, *, version: str) -> None:
        self.pool = Pool(url)
        host = f"{url.host_subcomponent}:{url.port}"
        self._head = (
            f"Host: {host}\r\nUser-Agent: ollama-gateway/{version}\r\nAccept: */*\r\n"
        ).encode("ascii")

    def open(self, request: Outgoing, timeouts: Deadlines) -> "_Opening":
        """``async with upstream.open(...) as reply``: send it, wait for the head, lend the reply.

        Leaving the block gives the connection back, or closes it if the reply is not whole,
        which stops Ollama's work within milliseconds.

        Raises:
            UpstreamUnreachable: nothing was sent.
            UpstreamProtocolError: it was sent, and Ollama closed or spoke nonsense.
            UpstreamFirstByteTimeout, UpstreamTimeout: a clock of ``clocks`` ran out.
        """
        return _Opening(self.pool, self._render(request), request.body, timeouts)

    async def fetch(self, request: Outgoing, timeouts: Deadlines) -> tuple[int, bytes]:
        """Status and whole body of a small answer (lists, probes).

        Raises, besides what ``open`` and ``Reply.read`` raise, UpstreamProtocolError for an
        answer of more than ``MAX_PROBE_BYTES``.
        """
        async with self.open(request, timeouts) as reply:
            chunks: list[bytes] = []
            size = 0
            while data := await reply.read():
                chunks.append(data)
                size += len(data)
                if size > MAX_PROBE_BYTES:
                    raise UpstreamProtocolError("Ollama's answer is far too long for a list.")
            return reply.status, b"".join(chunks)

    def _render(self, request: Outgoing) -> bytes:
        line = f"{request.method} {request.path} HTTP/1.1\r\n".encode("ascii")
        tail = f"X-Request-Id: {request.request_id}\r\n" if request.request_id else ""
        if request.method == "POST":
            tail += f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n"
        return line + self._head + tail.encode("ascii") + b"\r\n"


class _Opening:
    """One exchange as a context: acquire, send, head; release whatever happens."""

    __slots__ = ("_body", "_connection", "_head", "_pool", "_timeouts")

    def __init__(self, pool: Pool, head: bytes, body: bytes, timeouts: Deadlines) -> None:
        self._pool = pool
        self._head = head
        self._body = body
        self._timeouts = timeouts
        self._connection: Connection | None = None

    async def __aenter__(self) -> Reply:
        timeouts = self._timeouts
        connection = await self._pool.acquire(timeouts.connect)
        try:
            now = asyncio.get_running_loop().time()
            deadlines = ReplyDeadlines(
                sent_at=now,
                first_byte_timeout=timeouts.first_byte,
                idle_timeout=timeouts.idle,
                total_timeout=timeouts.total,
            )
            reply = connection.send(self._head, self._body, deadlines)
            self._body = b""
            await reply.head()
            if 300 <= reply.status < 400:  # RFC 9110, section 15.4
                raise UpstreamProtocolError(
                    "What answers at `ollama.url` redirects elsewhere: it is not an Ollama."
                )
        except BaseException:
            self._pool.release(connection)
            raise
        self._connection = connection
        return reply

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._pool.release(self._connection)
            self._connection = None
