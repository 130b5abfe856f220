"""One HTTP/1.1 connection to Ollama, and one response on it.

httptools (llhttp) parses; this module decides when a response is complete, broken or late.

Every byte is untrusted: heads, trailers and chunk extensions are bounded, and bytes outside of a
response close the connection. A request is sent once and never again: Ollama may have begun to
work. The end of a response is only what its framing says. A connection that closes before that
is a failure even where RFC 9112, section 8, allows it as an end, since a crash looks the same.
"""

import asyncio
import select
from typing import Final, cast

import httptools

from gateway.errors import (
    GatewayError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from gateway.timeouts import Deadlines

HIGH_WATER: Final = 256 * 1024
"""Unread bytes of a response above which reading is paused: TCP then slows Ollama down."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes of one head, and of anything else beside the body that the parser has to keep."""

_JOIN_BYTES: Final = 64 * 1024
"""A body up to this size is sent together with its head, which saves a packet."""

_CLOSED_EARLY: Final = (
    "Ollama closed the connection before it answered: it was restarted or has crashed. "
    "Its own log says why; try again."
)
_BROKEN_HTTP: Final = (
    "The server at `ollama.url` does not look like Ollama, or its response is broken HTTP. "
    "The owner should check `ollama.url`."
)
_ABORTED: Final = (
    "Ollama closed the connection in the middle of the response: it was stopped or has crashed. "
    "The text so far is not complete."
)
_ALLOW_LONGER: Final = "The owner can allow this model longer with `{}` under [[models]]."


class Reply:
    """What Ollama sends back: a head, then bytes in the pieces in which they came.

    The connection writes, and one task reads (``head``, then ``read`` until it returns nothing). An
    error is raised only after the bytes that came before it were read.

    Attributes:
        status: 0 until the head is there.
        headers: in order, with duplicates.
        content_length: as declared, if it was.
        first_byte_at, last_byte_at: when bytes of the body came, in seconds of the loop's time.
            Resuming counts as a byte.
        complete: the response has ended as its framing says.
        over: nothing more will come: it is complete or has failed.
        paused: reading is paused, because the client takes the response more slowly than it comes.
        unread, unread_bytes: what came and was not read yet.
        error: why it ended before its end.
    """

    # All mutable state of one response: the attributes above, and `_waiter`, what the reading task
    # waits for, while it does.
    __slots__ = (
        "_connection",
        "_deadlines",
        "_sent_at",
        "_waiter",
        "complete",
        "content_length",
        "error",
        "first_byte_at",
        "headers",
        "last_byte_at",
        "over",
        "paused",
        "status",
        "unread",
        "unread_bytes",
    )

    def __init__(self, connection: "Connection", deadlines: Deadlines, *, sent_at: float) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.content_length: int | None = None
        self.first_byte_at: float | None = None
        self.last_byte_at = sent_at
        self.complete = self.over = self.paused = False
        self.unread: list[bytes] = []
        self.unread_bytes = 0
        self.error: GatewayError | None = None
        self._connection = connection
        self._deadlines = deadlines
        self._sent_at = sent_at
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "failed" if self.error else "complete" if self.complete else "open"
        return f"<Reply {self.status} {state}, {self.unread_bytes} bytes unread>"

    def header(self, name: str) -> str:
        """Return the first header of that lower-case name, or an empty text."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return ""

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            UpstreamProtocolError: the connection closed first, or it was not HTTP.
            UpstreamFirstByteTimeout, UpstreamTimeout: a deadline passed first.
        """
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._wait()

    async def read(self) -> bytes:
        """Return the bytes that came since the last call, or wait for some; empty at the end.

        Raises:
            UpstreamIncomplete: the connection closed before the end of the response.
            UpstreamProtocolError: its framing broke.
            UpstreamFirstByteTimeout, UpstreamIdleTimeout, UpstreamTimeout: a deadline passed.
        """
        unread = self.unread
        while not unread:
            if self.error is not None:
                raise self.error
            if self.complete:
                return b""
            await self._wait()
        data = unread[0] if len(unread) == 1 else b"".join(unread)
        unread.clear()
        self.unread_bytes = 0
        if self.paused:
            self._connection.resume()
        return data

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let the reading task look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: GatewayError) -> None:
        """End the response with an error. The first failure is the cause; later ones follow."""
        if not self.over:
            self.error = error
            self.over = True
        self.wake()

    # Deadlines: three timeouts, of which the earliest counts.
    # 1. total, from the request on, always.
    # 2. first byte, from the request on, until a byte of the body. A head alone is no response.
    # 3. idle, from the last byte on, but not while reading is paused: what Ollama cannot send is
    #    not its fault. The total timeout goes on, or a client that takes nothing would keep Ollama
    #    busy for ever.

    def next_deadline(self) -> float:
        """Return the earliest instant at which ``overdue`` can return an error."""
        deadlines = self._deadlines
        total = self._sent_at + deadlines.total
        if self.first_byte_at is None:
            return min(total, self._sent_at + deadlines.first_byte)
        if self.paused:
            return total
        return min(total, self.last_byte_at + deadlines.idle)

    def overdue(self, now: float) -> GatewayError | None:
        """Return the timeout that has passed at the instant ``now``, if one has."""
        deadlines = self._deadlines
        # 1. First, since a non-streaming response has the same limit for its first byte and its
        # end: it is the end that the client waited for.
        if now >= self._sent_at + deadlines.total:
            return UpstreamTimeout(
                f"Ollama did not complete the response within {deadlines.total:g} s. "
                + _ALLOW_LONGER.format("total_timeout")
            )
        # 2.
        if self.first_byte_at is None:
            if now < self._sent_at + deadlines.first_byte:
                return None
            return UpstreamFirstByteTimeout(
                f"Ollama sent nothing within {deadlines.first_byte:g} s: the model is "
                "still loading, the prompt is long, or its runner hangs. "
                + _ALLOW_LONGER.format("first_byte_timeout")
            )
        # 3.
        if self.paused or now < self.last_byte_at + deadlines.idle:
            return None
        return UpstreamIdleTimeout(
            f"Ollama stopped in the middle of the response and sent nothing for "
            f"{deadlines.idle:g} s. The owner can allow longer pauses with "
            "`timeouts.idle_timeout`."
        )


class Connection(asyncio.Protocol):
    """One connection, for one request at a time.

    idle -> send -> (bytes of the response) -> release -> idle, or closed if the request or the
    response is not complete. Closing stops Ollama's work within milliseconds.
    """

    # All mutable state:
    # _reply                      the response under way; None while idle
    # _head_bytes                 bytes of header fields of this response
    # _bytes_since_body           bytes since the last byte of a body: heads, chunk sizes, trailers
    # _interim                    the head just read was an interim one (1xx)
    # _timer, _timer_at           see `_arm`
    # reusable                    False once the connection must not carry another request
    __slots__ = (
        "_bytes_since_body",
        "_head_bytes",
        "_interim",
        "_loop",
        "_parser",
        "_poll",
        "_reply",
        "_timer",
        "_timer_at",
        "_transport",
        "closed",
        "reusable",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self._reply: Reply | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._head_bytes = 0
        self._bytes_since_body = 0
        self._interim = False
        self.closed = False
        self.reusable = True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._reply else "idle"
        return f"<Connection {state}>"

    def is_usable(self) -> bool:
        """Return True if an idle connection can carry a request.

        Ollama may have closed it a moment ago without the event loop having seen it, and a POST on
        it would fail and could not be repeated. The kernel knows: readable while no request is
        under way means end of file or bytes that belong to no response. (0.5 µs.)
        """
        return (
            self.reusable
            and self._transport is not None
            and not self._transport.is_closing()
            and not self._poll.poll(0)
        )

    def send(self, head: bytes, body: bytes, deadlines: Deadlines) -> Reply:
        """Send one request. Its timeouts start now."""
        if self._reply is not None or self._transport is None:
            raise RuntimeError(f"{self!r} cannot send")
        reply = self._reply = Reply(self, deadlines, sent_at=self._loop.time())
        self._head_bytes = self._bytes_since_body = 0
        self._interim = False
        if len(body) <= _JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        self._arm(reply)
        return reply

    def release(self) -> bool:
        """End the current request. Return True if the connection may carry another one.

        It may not while the response is incomplete, the request was not sent completely (Ollama
        responded without reading all of it), or bytes may wait in the kernel while reading is
        paused.
        """
        reply, self._reply = self._reply, None
        if reply is not None and (not reply.complete or reply.paused):
            self.reusable = False
        if self._transport is not None and self._transport.get_write_buffer_size():
            self.reusable = False
        if not self.reusable:
            self.close()
        return self.reusable

    def close(self) -> None:
        """Close at once."""
        self.reusable = False
        self._disarm()
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop reading: the reply has more than ``HIGH_WATER`` unread bytes."""
        if self._transport is not None and self._reply is not None and not self.closed:
            self._reply.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again: the reply was read."""
        if self._transport is not None and self._reply is not None and not self.closed:
            self._reply.paused = False
            self._reply.last_byte_at = self._loop.time()  # Ollama may send from now on
            self._transport.resume_reading()
            self._arm(self._reply)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or reply.over:
            # Bytes outside of a response. They must never become the next one.
            self.close()
            return
        before_first_byte = reply.first_byte_at is None
        self._bytes_since_body += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(UpstreamProtocolError(_BROKEN_HTTP))
            return
        if self._bytes_since_body > MAX_HEAD_BYTES and not reply.over:
            # `on_header` bounds complete fields. This bounds a field, a trailer or a chunk
            # extension that never ends, which the parser keeps until its end.
            self._fail(UpstreamProtocolError(_BROKEN_HTTP))
            return
        if not reply.status:
            return
        if before_first_byte and reply.first_byte_at is not None and not reply.over:
            # From here on the idle timeout counts, which may be shorter than what is left of the
            # first byte's.
            self._arm(reply)
        reply.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.closed = True
        self.reusable = False
        self._disarm()
        if self._reply is not None and not self._reply.over:
            began = self._reply.status
            self._fail(
                UpstreamIncomplete(_ABORTED) if began else UpstreamProtocolError(_CLOSED_EARLY)
            )
        elif self._reply is not None:
            self._reply.wake()

    # httptools calls these from `feed_data`; what they raise comes out of it as HttpParserError.

    def on_message_begin(self) -> None:
        if self._reply is None or self._reply.over:
            # A second response behind the first. Its beginning would stay in the parser.
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("head too long")
        # A field after the body is a trailer, no part of the head (RFC 9110, section 6.5.1).
        if self._reply is not None and not self._reply.status:
            self._reply.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None or reply.over:
            self.reusable = False
            return
        status = self._parser.get_status_code()
        if not 100 <= status < 600:
            raise ValueError("no status")
        # An interim response (RFC 9110, section 15.2) precedes the one that counts; its fields
        # count towards the limit of the head all the same.
        self._interim = status < 200
        if self._interim:
            reply.headers.clear()
            return
        length = reply.header("content-length")
        reply.content_length = int(length) if length.isdigit() else None
        reply.status = status

    def on_body(self, body: bytes) -> None:
        reply = self._reply
        if reply is None or reply.over:
            self.reusable = False
            return
        self._bytes_since_body = 0
        reply.last_byte_at = self._loop.time()
        if reply.first_byte_at is None:
            reply.first_byte_at = reply.last_byte_at
        reply.unread.append(body)
        reply.unread_bytes += len(body)
        if reply.unread_bytes > HIGH_WATER and not reply.paused:
            self.pause()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._reply is not None:
            self._reply.complete = self._reply.over = True

    # The timer of the deadlines

    def _arm(self, reply: Reply) -> None:
        """Look at the deadlines when the next one can pass.

        A timer that fires earlier is kept, also from one request to the next: deadlines move with
        every byte, and it costs less to let a timer fire in vain than to set one each time.
        """
        when = reply.next_deadline()
        if self._timer is not None and self._timer_at <= when:
            return
        self._disarm()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._timer = None
        reply = self._reply
        if reply is None or reply.over:
            return
        error = reply.overdue(self._loop.time())
        if error is not None:
            self._fail(error)
        else:
            self._arm(reply)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: GatewayError) -> None:
        if self._reply is not None:
            self._reply.fail(error)
        self.close()
