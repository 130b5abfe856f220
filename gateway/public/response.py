"""The response to one request: its state, and what may be written to the client in each state."""

# States of a response
#
# "Committed" means that the status line has left (or leaves with the next byte): from then on no
# failure can change the status. A response is committed by its first byte. That is Ollama's, or a
# heartbeat if Ollama is silent for long; a heartbeat promises only whether a stream or a complete
# response follows (``ResponseKind``).
#
#   state      event                  next       what the client sees
#   ---------  ---------------------  ---------  ----------------------------------------------
#   pending    send, begin_stream     committed  Ollama's status and headers
#   pending    send_heartbeat         committed  status 200 and the first heartbeat
#   pending    fail                   ended      status and body of the error
#   pending    abort                  aborted    a closed connection
#   committed  send, begin_stream     committed  after heartbeats: Ollama's body, or the failure
#   committed  write, send_heartbeat  committed  bytes of the body
#   committed  end                    ended      the end of the body
#   committed  fail                   aborted    an error event where one may stand in the stream,
#                                                then a body that does not end
#   committed  fail (see below)       ended      the body of the error, with status 200
#   committed  abort                  aborted    a closed connection
#   ended, aborted: final
#
# A failure after heartbeats of a complete response of which nothing was written ends it with the
# error's JSON, if ``tunnel.late_error`` is "object". If it is "abort", or the complete response has
# begun, nothing can be reported to this client: its retry gets the failure
# (``cannot_report_errors``, gateway.proxy.replay).

from collections.abc import Iterable
from enum import StrEnum

from aiohttp import web

from gateway.dialects import Dialect, Scanner
from gateway.errors import (
    ClientDisconnected,
    GatewayError,
    UpstreamFailed,
    UpstreamProtocolError,
    UpstreamReply,
)
from gateway.proxy.relay import STREAM_HEADERS
from gateway.public.body import Reservation
from gateway.public.writer import ResponseWriter
from gateway.settings import Settings

Headers = Iterable[tuple[str, str]]

_JSON = ("Content-Type", "application/json")

_OTHER_KIND = (
    "Ollama sent a complete response to a request for a stream, or the other way round, or a "
    "compressed one, after the response had begun."
)


class State(StrEnum):
    """How far a response is; see the table above."""

    PENDING = "pending"
    COMMITTED = "committed"
    ENDED = "ended"
    ABORTED = "aborted"


class ResponseKind(StrEnum):
    """What a heartbeat promises before Ollama has sent anything."""

    STREAM = "stream"
    COMPLETE = "complete"


class Response:
    """The response to one request.

    Mutable state, besides its writer's:

    * ``state``, ``status`` (None while pending)
    * ``headers``: go out with the head, whatever the response becomes
    * ``_early_headers``: go out only with a head that a heartbeat commits
    * ``_promised``: what a heartbeat has promised; None if none committed the response
    * ``_scanner``: follows a stream; tells where something of ours may stand between its events
    * ``_has_begun``: bytes of Ollama's, or of an error, follow the heartbeats
    * ``heartbeats``: how many were sent; ``bytes_out``: bytes of the body without them
    """

    __slots__ = (
        "_early_headers",
        "_has_begun",
        "_promised",
        "_request_id",
        "_scanner",
        "_settings",
        "_writer",
        "bytes_out",
        "dialect",
        "headers",
        "heartbeats",
        "state",
        "status",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        dialect: Dialect,
        *,
        request_id: str,
        reservation: Reservation,
        settings: Settings,
    ) -> None:
        self._writer = ResponseWriter(request, reservation=reservation, settings=settings)
        self._settings = settings
        self._request_id = request_id
        self._scanner: Scanner | None = None
        self._promised: ResponseKind | None = None
        self._has_begun = False
        self._early_headers: list[tuple[str, str]] = []
        self.dialect = dialect
        self.headers = {"x-request-id": request_id}
        self.state = State.PENDING
        self.status: int | None = None
        self.heartbeats = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Response {self.state} {self.status or ''}, {self.bytes_out} bytes>"

    @property
    def aiohttp_response(self) -> web.StreamResponse:
        """What aiohttp wants back from the handler."""
        return self._writer.aiohttp_response

    @property
    def wrote_at(self) -> float | None:
        """When bytes were last written, in seconds of the loop's clock."""
        return self._writer.wrote_at

    @property
    def cannot_report_errors(self) -> bool:
        """Return True if a failure now can only abort the response, without a word about it."""
        if self.state is not State.COMMITTED or self._is_stream:
            return False
        return self._has_begun or self._settings.tunnel.late_error != "object"

    # For the pipeline (gateway.proxy.relay.Response).

    def add_header(self, name: str, value: str) -> None:
        """Add a header to a head that a heartbeat commits, before Ollama's is known."""
        self._early_headers.append((name, value))

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Commit to a complete response and write it; ``end`` sees it off.

        Raises:
            UpstreamFailed: it is no success, and its status can no longer be sent.
            UpstreamProtocolError: a heartbeat has promised a stream.
            ClientDisconnected: the client is gone.
        """
        if self._promised is None:
            self._commit(status, headers, length=len(body))
        else:
            body = self._after_heartbeat(status, headers, body)
        self._has_begun = True
        if self._writer.has_body:
            self.bytes_out += len(body)
        self._writer.write_now(body)

    async def begin_stream(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        """Commit to a response whose bytes follow.

        Args:
            status: Ollama's.
            headers: the head's, besides those for every response.
            length: bytes that Ollama declared, or None.
            scanner: follows a stream; None for a complete response that arrives in pieces.

        Raises as ``send``.
        """
        if self._promised is None:
            self._commit(status, headers, length=length)
            if length is not None:
                self._writer.expect(length)
        elif status != 200:
            raise UpstreamFailed.from_reply(UpstreamReply(status, tuple(headers), b""))
        elif (scanner is not None) is not (self._promised is ResponseKind.STREAM) or _is_encoded(
            headers
        ):
            raise UpstreamProtocolError(_OTHER_KIND)
        self._scanner = scanner
        self._has_begun = True

    async def write(self, data: bytes) -> None:
        """Write bytes. Waits only while more than the read-ahead is unsent.

        Raises:
            ClientDisconnected: the client is gone.
            ClientWriteTimeout: the client took nothing for ``timeouts.write_timeout``.
        """
        self.bytes_out += len(data)
        # A stream comes no faster than the model generates: its fixed read-ahead is enough.
        await self._writer.write(data, extend_read_ahead=self._scanner is None)

    async def end(self) -> None:
        """End the body, and wait until nearly all of it has left the gateway's memory.

        Raises as ``write``.
        """
        if self.state is State.COMMITTED:
            await self._writer.end()
            self.state = State.ENDED

    # For the request handler.

    def send_heartbeat(self, kind: ResponseKind, note: str = "") -> None:
        """Keep a silent response alive: commit to one of this kind, or write a heartbeat.

        Nothing is written where no heartbeat may stand: inside an event, after the final one, in a
        complete response that has begun; nor to a client that has not taken what was sent.

        Args:
            kind: what the request has asked for.
            note: text for a comment, in dialects that have comments.
        """
        try:
            if self.state is State.PENDING:
                self._promised = kind
                is_stream = kind is ResponseKind.STREAM
                content_type = self.dialect.stream_type if is_stream else "application/json"
                head = [("Content-Type", content_type), *STREAM_HEADERS, *self._early_headers]
                self._commit(200, head, length=None)
            if (
                self.state is State.COMMITTED
                and not self._writer.unsent
                and self._is_between_events
            ):
                self._writer.write_now(self.dialect.heartbeat(streaming=self._is_stream, note=note))
                self.heartbeats += 1
        except ClientDisconnected:
            # The handler learns of it from the connection.
            return

    async def fail(self, error: GatewayError) -> None:
        """Report ``error`` in the way that the state leaves; see the table above.

        Raises as ``write``.
        """
        if self.state is State.PENDING:
            body = self.dialect.error_body(error, self._request_id)
            await self.send(error.status, [_JSON, *error.headers.items()], body)
            await self.end()
        elif self.state is State.COMMITTED:
            if self._promised is None or self._is_stream or self.cannot_report_errors:
                self._truncate(error)
            else:
                await self._end_with_error(error)

    def abort(self) -> None:
        """Drop the connection: its client is gone, or takes nothing."""
        if self.state in (State.PENDING, State.COMMITTED):
            self.state = State.ABORTED
        self._writer.abort()

    def _commit(self, status: int, headers: Headers, *, length: int | None) -> None:
        common = self.headers
        head = [header for header in headers if header[0] not in common]
        head += common.items()
        self._writer.begin(status, head, length=length)
        self.status = status
        self.state = State.COMMITTED

    def _truncate(self, error: GatewayError) -> None:
        event = b""
        if self._is_stream and self._is_between_events:
            event = self.dialect.late_error(error, self._request_id)
        self.state = State.ABORTED
        self._writer.truncate(event)

    async def _end_with_error(self, error: GatewayError) -> None:
        body = self.dialect.error_body(error, self._request_id)
        if isinstance(error, UpstreamFailed) and self._error_message(error.reply.body):
            # Ollama's own JSON. Anything else could not be told from a generation.
            body = error.reply.body
        self._has_begun = True
        await self.write(body)
        await self.end()

    @property
    def _is_stream(self) -> bool:
        return self._scanner is not None or self._promised is ResponseKind.STREAM

    @property
    def _is_between_events(self) -> bool:
        """Return True if bytes of ours may stand here: before Ollama's first byte if heartbeats
        have begun the response, or after an event that is not the final one.
        """
        if self._scanner is not None:
            return self._scanner.at_boundary and not self._scanner.complete
        return self._promised is not None and not self._has_begun

    def _after_heartbeat(self, status: int, headers: Headers, body: bytes) -> bytes:
        """Return what is written of a complete response whose head has left already."""
        if status != 200:
            message = self._error_message(body) or ""
            raise UpstreamFailed.from_reply(UpstreamReply(status, tuple(headers), body), message)
        if self._promised is ResponseKind.STREAM:
            # Ollama answers some requests for a stream with one object, such as "model loaded".
            converted = self.dialect.complete_in_stream(body)
        else:
            converted = body
        if converted is None or _is_encoded(headers):
            raise UpstreamProtocolError(_OTHER_KIND)
        return converted

    def _error_message(self, body: bytes) -> str | None:
        """Return Ollama's message if ``body`` is an error of its own."""
        reading = self.dialect.body()
        reading.feed(body)
        return reading.failure


def _is_encoded(headers: Headers) -> bool:
    """Return True if a head that has left already would have had to name a content encoding."""
    return any(name.lower() == "content-encoding" for name, _ in headers)
