"""The answer: the only place that writes to a caller, with the only state that says how far it is.

    pending -> committed -> ended | aborted

Pending, nothing was sent and every failure is an honest status. Committed, the status is gone: a
failure is told inside the stream, where the dialect has a way and an event may stand, and then the
connection is closed without the end of the body, so that no client takes a part for the whole.

An answer commits with its first byte. That is Ollama's, or a heartbeat where Ollama is silent for
long: then nothing is known yet but that it will be a stream or one piece.
"""

from collections.abc import Iterable
from typing import cast

from aiohttp import HttpVersion11, web

from gateway.dialects import Dialect, Scanner
from gateway.errors import (
    AsSent,
    ClientDisconnected,
    GatewayError,
    UpstreamFailed,
    UpstreamProtocolError,
)
from gateway.proxy.headers import STREAM_HEADERS
from gateway.public.memory import Reservation
from gateway.public.state import ResponseKind, State
from gateway.public.writer import LOW_WATER, Pace, ResponseWriter

Headers = Iterable[tuple[str, str]]

_OTHER_KIND = (
    "Ollama answered in one piece what was asked for as a stream, or the other way round, or in a "
    "compressed form, after the answer had begun."
)


class _Head(web.StreamResponse):
    """A response whose head leaves together with its first bytes, in one packet."""

    _send_headers_immediately = False


class Response:
    """What goes back for one request. All mutable state of an answer is here and in its outlet.

    ``headers`` go out with whatever the answer becomes. ``share`` is this request's part of the
    gateway's memory; a long whole answer is read ahead only as far as there is room in it.
    ``heartbeats`` is their number, and in no other count. With ``late_object`` an answer in one
    piece that fails after them ends with the error's JSON instead of a cut.
    """

    __slots__ = (
        "_announced",
        "_begun",
        "_late_object",
        "_outlet",
        "_promised",
        "_request",
        "_response",
        "_scanner",
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
        share: Reservation,
        pace: Pace,
        late_object: bool = False,
    ) -> None:
        self._request = request
        self._outlet = ResponseWriter(request, share=share, pace=pace)
        self._late_object = late_object
        self._response: web.StreamResponse | None = None
        self._scanner: Scanner | None = None
        self._promised: ResponseKind | None = None
        self._begun = False
        self._announced: list[tuple[str, str]] = []
        self.dialect = dialect
        self.headers: dict[str, str] = {}
        self.state = State.PENDING
        self.status: int | None = None
        self.heartbeats = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Answer {self.state} {self.status or ''}, {self.bytes_out} bytes>"

    @property
    def response(self) -> web.StreamResponse:
        """What aiohttp wants back from the handler."""
        return self._response or web.Response(status=500)

    @property
    def wrote_at(self) -> float | None:
        """When bytes were last written, by the loop's clock."""
        return self._outlet.wrote_at

    @property
    def cannot_report_errors(self) -> bool:
        """Whether a failure can only be told by a cut: whoever comes again wants to know why."""
        if self.state is not State.COMMITTED or self._streams:
            return False
        return self._begun or not self._late_object

    # The pipeline's side.

    def add_header(self, name: str, value: str) -> None:
        """A header of an answer whose head must go before Ollama's is there."""
        self._announced.append((name, value))

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Commit to an answer that is all there, and to its length.

        Raises:
            UpstreamFailed: it is no success, and its status can no longer be sent.
            UpstreamProtocolError: a stream was promised.
            ClientDisconnected, ClientWriteTimeout: as ``write``.
        """
        if self._promised is not None:
            body = self._kept_promise(status, headers, body)
        else:
            self._commit(status, headers, length=len(body))
        self._begun = True
        if len(body) > LOW_WATER:
            self._outlet.allow_ahead(len(body))
        if self._request.method != "HEAD":
            await self.write(body)

    async def begin_stream(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        """Commit to an answer whose bytes follow; with a ``scanner`` it is a stream.

        Raises what ``whole`` raises.
        """
        if self._promised is None:
            if length is not None:
                self._outlet.expect(length)
            self._commit(status, headers, length=length)
        elif status != 200:
            raise UpstreamFailed.of(AsSent(status, tuple(headers), b""))
        elif (scanner is not None) is not (self._promised is ResponseKind.STREAM) or _encoded(
            headers
        ):
            raise UpstreamProtocolError(_OTHER_KIND)
        self._scanner = scanner
        self._begun = True
        self._outlet.allow_ahead()

    async def write(self, data: bytes) -> None:
        """Send bytes. Waits only when more than the read-ahead is already on its way.

        Raises:
            ClientDisconnected: the caller is gone.
            ClientWriteTimeout: he has taken nothing for ``write_timeout`` seconds.
        """
        self.bytes_out += len(data)
        # A stream comes no faster than the model speaks and has its share.
        await self._outlet.write(data, run_ahead=self._scanner is None)

    async def end(self) -> None:
        """End properly, and see the last byte off: nothing of this request is kept after it.

        Raises what ``write`` raises.
        """
        if self.state is not State.COMMITTED:
            return
        await self._outlet.end(cast("web.StreamResponse", self._response))
        self.state = State.ENDED

    # The edge's side.

    def send_heartbeat(self, shape: ResponseKind, note: str = "") -> None:
        """Keep a silent answer alive: commit to one of this shape, or send a heartbeat in it.

        Nothing happens where none may stand: inside an event, after the final one, in an answer in
        one piece that has begun, or towards a caller who has not taken what was sent.
        """
        try:
            if self.state is State.PENDING:
                kind = (
                    self.dialect.stream_type if shape is ResponseKind.STREAM else "application/json"
                )
                self._promised = shape
                head = [("Content-Type", kind), *STREAM_HEADERS, *self._announced]
                self._commit(200, head, length=None)
            if self._may_beat():
                self._outlet.put(self.dialect.heartbeat(streaming=self._streams, note=note))
                self.heartbeats += 1
        except ClientDisconnected:
            # Whoever serves him is told by his connection.
            return

    async def fail(self, error: GatewayError, request_id: str) -> None:
        """Tell the caller that the request failed, in the way that is left."""
        if self.state is State.PENDING:
            await self._refuse(error, request_id)
        elif self.state is State.COMMITTED:
            if self._promised is None or self._streams or self.cannot_report_errors:
                self._cut(error, request_id)
            else:
                await self._tell_in_ok(error, request_id)

    def abort(self) -> None:
        """The caller is gone or takes nothing: let go of the connection at once."""
        if self.state in (State.PENDING, State.COMMITTED):
            self.state = State.ABORTED
        self._outlet.drop()

    async def _refuse(self, error: GatewayError, request_id: str) -> None:
        body = self.dialect.error_body(error, request_id)
        headers = [("Content-Type", "application/json"), *error.headers.items()]
        await self.send(error.status, headers, body)
        await self.end()

    async def _tell_in_ok(self, error: GatewayError, request_id: str) -> None:
        body = self.dialect.error_body(error, request_id)
        if isinstance(error, UpstreamFailed) and self._failure_in(error.reply.body):
            # Anything else could not be told from an answer, or not be read without its head.
            body = error.reply.body
        self._begun = True
        await self.write(body)
        await self.end()

    def _cut(self, error: GatewayError, request_id: str) -> None:
        self.state = State.ABORTED
        event = b""
        if self._streams and self._between_events:
            event = self.dialect.late_error(error, request_id)
        self._outlet.cut(event, cast("web.StreamResponse", self._response))

    def _commit(self, status: int, headers: Headers, *, length: int | None) -> None:
        ours = self.headers
        theirs = (each for each in headers if each[0] not in ours)
        response = _Head(status=status, headers=[*theirs, *ours.items()])
        if length is not None:
            response.content_length = length
        response.headers["Server"] = "ollama-gateway"
        closing = response.headers.get("Connection", "").lower() == "close"
        if closing or self._request.version < HttpVersion11:
            response.force_close()
        self._response = response
        self.status = status
        self.state = State.COMMITTED
        self._outlet.open(response)

    @property
    def _streams(self) -> bool:
        return self._scanner is not None or self._promised is ResponseKind.STREAM

    def _may_beat(self) -> bool:
        return self.state is State.COMMITTED and not self._outlet.unsent and self._between_events

    @property
    def _between_events(self) -> bool:
        """Whether something of ours may stand here: before the first event, or after a whole one
        that is not the final one.
        """
        if self._scanner is not None:
            return self._scanner.at_boundary and not self._scanner.complete
        return self._promised is not None and not self._begun

    def _kept_promise(self, status: int, headers: Headers, body: bytes) -> bytes:
        """What is written of an answer in one piece, now that its head has gone."""
        if status != 200:
            words = self._failure_in(body) or ""
            raise UpstreamFailed.of(AsSent(status, tuple(headers), body), words)
        whole = self._promised is ResponseKind.COMPLETE
        kept = body if whole else self.dialect.complete_in_stream(body)
        if kept is None or _encoded(headers):
            raise UpstreamProtocolError(_OTHER_KIND)
        return kept

    def _failure_in(self, body: bytes) -> str | None:
        """Ollama's words, where this is an error of its own."""
        reading = self.dialect.body()
        reading.feed(body)
        return reading.failure


def _encoded(headers: Headers) -> bool:
    """Whether a head that can no longer be sent would have to say how the body is to be read."""
    return any(name.lower() == "content-encoding" for name, _ in headers)
