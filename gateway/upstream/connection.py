"""One connection to Ollama: HTTP/1.1, one exchange at a time.

Parsing is httptools' (llhttp); this module knows when a reply is whole, broken or late. Every byte
is untrusted: heads are bounded, and anything that no exchange asked for closes the connection.
"""

import asyncio
import select
from typing import cast

import httptools

from gateway.errors import GatewayError, UpstreamIncomplete, UpstreamProtocolError
from gateway.upstream.deadlines import Deadlines
from gateway.upstream.reply import Reply

MAX_HEAD_BYTES = 64 * 1024

_CLOSED_EARLY = (
    "Ollama closed the connection before it answered: it was restarted or has crashed. "
    "Its own log says why; try again."
)
_NONSENSE = (
    "What answered is not an Ollama, or its answer is broken HTTP. "
    "The owner should check `ollama.url`."
)
_CUT = (
    "Ollama closed the connection in the middle of the answer: it was stopped or has crashed. "
    "The text so far is not the whole answer."
)


class Connection(asyncio.Protocol):
    """All mutable state of a connection: its transport, the parser, and the reply under way."""

    __slots__ = (
        "_bare_bytes",
        "_fields_bytes",
        "_interim",
        "_loop",
        "_parser",
        "_poll",
        "_reply",
        "_rings_at",
        "_timer",
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
        self._rings_at = 0.0
        # Of the headers, and of all that came since the last byte of a body.
        self._fields_bytes = 0
        self._bare_bytes = 0
        self._interim = False
        self.closed = False
        self.reusable = True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._reply else "idle"
        return f"<Connection {state}>"

    # What the pool and the client call.

    def usable(self) -> bool:
        """Whether an idle connection can carry a request.

        Ollama may have closed it a moment ago without the event loop having seen it: the kernel
        knows. Readable while nothing is asked means end of file or bytes that nobody asked for.
        """
        if self.closed or not self.reusable or self._transport is None:
            return False
        if self._transport.is_closing():
            return False
        return not self._poll.poll(0)

    def send(self, head: bytes, body: bytes, deadlines: Deadlines) -> Reply:
        """Send one request; the clocks of ``deadlines`` run from here."""
        if self._reply is not None or self._transport is None:
            raise RuntimeError(f"{self!r} cannot send")
        self._reply = Reply(self, deadlines)
        self._fields_bytes = 0
        self._bare_bytes = 0
        self._interim = False
        if len(body) <= 65536:  # joining what is small saves a packet
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        self._rearm(self._reply)
        return self._reply

    def release(self) -> bool:
        """End the exchange. True if the connection may carry another one.

        It may not while anything of this exchange is still on its way: of the reply, of the request
        (Ollama answered without reading it to its end), or in the kernel because reading is paused.
        """
        reply, self._reply = self._reply, None
        if reply is not None and (not reply.complete or reply.deadlines.held):
            self.reusable = False
        if self._transport is not None and self._transport.get_write_buffer_size():
            self.reusable = False
        if not self.reusable or self.closed:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close at once: Ollama stops generating when its client's connection goes."""
        self.reusable = False
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # Flow control, for the reply.

    def pause(self) -> None:
        if self._transport is not None and self._reply is not None and not self.closed:
            self._reply.deadlines.held = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._reply is not None and not self.closed:
            self._reply.deadlines.held = False
            self._reply.deadlines.last_byte_at = self._loop.time()
            self._transport.resume_reading()
            self._rearm(self._reply)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or reply.over:
            self.close()
            return
        silent = reply.first_byte_at is None
        self._bare_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(UpstreamProtocolError(_NONSENSE))
            return
        if self._bare_bytes > MAX_HEAD_BYTES and not reply.over:
            # The parser keeps a header, of a trailer too, until its end.
            self._fail(UpstreamProtocolError(_NONSENSE))
            return
        if not reply.status:
            return
        if silent and reply.first_byte_at is not None and not reply.over:
            # From here another clock runs, and it may ring earlier than the one that was set.
            self._rearm(reply)
        reply.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.closed = True
        self.reusable = False
        self._stop_timer()
        if self._reply is not None and not self._reply.over:
            began = self._reply.status
            self._fail(UpstreamIncomplete(_CUT) if began else UpstreamProtocolError(_CLOSED_EARLY))
        elif self._reply is not None:
            self._reply.wake()

    # httptools

    def on_message_begin(self) -> None:
        if self._reply is None or self._reply.over:
            # Nobody asked for this; its beginning would stay in the parser and spoil the next.
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > MAX_HEAD_BYTES:
            raise ValueError("head too long")
        # What comes behind a body is no part of the head (RFC 9110, section 6.5.1).
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
        self._interim = 100 <= status < 200  # RFC 9110, section 15.2
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
        self._bare_bytes = 0
        reply.feed(body, self._loop.time())

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._reply is not None:
            self._reply.finish()

    # Clocks

    def _watch(self) -> None:
        """Look at the clocks; they move with every byte, the timer only when it rings."""
        self._timer = None
        reply = self._reply
        if reply is None or reply.over:
            return
        error = reply.deadlines.overdue(self._loop.time())
        if error is not None:
            self._fail(error)
        else:
            self._rearm(reply)

    def _rearm(self, reply: Reply) -> None:
        """Look when the next clock can run out. A timer that is set and rings before is kept, from
        one exchange to the next: it costs less to let it ring than to set another each time.
        """
        when = reply.deadlines.next()
        if self._timer is not None and self._rings_at <= when:
            return
        self._stop_timer()
        self._rings_at = when
        self._timer = self._loop.call_at(when, self._watch)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: GatewayError) -> None:
        if self._reply is not None:
            self._reply.fail(error)
        self.close()
