"""From Ollama to the client: the head, then bytes as they come.

Ollama ends broken streams politely: only the dialect's final event proves that a stream is
complete.
"""

from collections.abc import Iterable
from typing import Final, Protocol

from gateway.dialects import Body, Scanner
from gateway.errors import GatewayError, UpstreamIncomplete, UpstreamProtocolError
from gateway.proxy.integrity import TRUNCATED_HEADER, Headers, TruncationGuard
from gateway.proxy.request import InferenceRequest
from gateway.telemetry.record import Phase, RequestRecord
from gateway.upstream import Reply

_BUSY: Final = b"server busy"
"""Ollama's words, in every dialect, when ``OLLAMA_MAX_QUEUE`` requests wait for a model to load."""

_NO_FIRST_BYTE: Final = (
    "Ollama began a response and ended it before its first byte: it was restarted or has crashed. "
    "Its own log says why; try again."
)
_NO_STREAM: Final = (
    "The server at `ollama.url` sent neither a stream nor JSON: it does not look like Ollama."
)

# RFC 9110, section 7.6.1, and what RFC 2616 had before it.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# The gateway's own: framing, the server's identity, and every header that promises something.
_OWN: Final = frozenset(
    {"content-length", "date", "server", "x-request-id", "server-timing", "age", "set-cookie"}
)
_WITHHELD: Final = _HOP_BY_HOP | _OWN
_WITHHELD_OF_STREAM: Final = _WITHHELD | {"cache-control", "x-accel-buffering"}

STREAM_HEADERS: Final = (
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
)
"""Tell nginx and every cache in between to pass each event on as it comes."""

_RETRYABLE_4XX: Final = frozenset({408, 409, 429})


class UpstreamBusy(Exception):
    """Ollama had no room for the request and did nothing: it may be sent again, later."""


class Response(Protocol):
    """The response to the client: pending, committed, then ended or aborted.

    Each coroutine raises ClientDisconnected or ClientWriteTimeout if the client is gone or takes
    nothing: neither is a failure of Ollama.
    """

    def add_header(self, name: str, value: str) -> None:
        """Add a header for the case that the head is sent before Ollama's is there."""

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Commit to a complete response."""

    async def begin_stream(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        """Commit to a response whose bytes follow.

        Args:
            length: the length that Ollama declared, if it did.
            scanner: of a stream: it tells where an event of the gateway may be inserted.
        """

    async def write(self, data: bytes) -> None:
        """Send bytes now. Returns at once unless the read-ahead is full."""

    async def end(self) -> None:
        """End the response after everything was written."""


async def relay(
    reply: Reply,
    response: Response,
    *,
    request: InferenceRequest,
    record: RequestRecord,
    guard: TruncationGuard,
    timing: str,
    too_long: bool,
    read_ahead_bytes: int,
) -> None:
    """Relay Ollama's response to the client. Ollama's reply decides whether it is a stream.

    Args:
        timing: the value of ``Server-Timing``.
        too_long: Ollama will certainly truncate the prompt.
        read_ahead_bytes: a complete response up to this size is read before it is sent.

    Raises:
        UpstreamBusy: Ollama did nothing.
        UpstreamProtocolError: a stream ended before its first byte, or the response to a streaming
            request is neither a stream nor JSON, which could end anywhere and look complete.
        UpstreamIncomplete: a stream ended, however politely, without its final event.
        GatewayError: what ``reply.read``, ``response`` and the checks of ``guard`` raise.
    """
    content_type = reply.header("content-type").lower()
    if reply.status == 200 and content_type.startswith(request.dialect.stream_type):
        record.streaming = True
        headers = response_headers(reply.status, reply.headers, timing, streaming=True)
        if too_long:
            # The head goes before Ollama has reported any token.
            record.prompt_truncated = True
            headers.append(TRUNCATED_HEADER)
        await _relay_stream(reply, response, headers, request.dialect.scanner(), record)
        return

    is_json = content_type.startswith("application/json")
    if request.streaming and reply.status == 200 and not is_json:
        # JSON is fine: Ollama has loaded a model, say.
        raise UpstreamProtocolError(_NO_STREAM)
    headers = response_headers(reply.status, reply.headers, timing, streaming=False)
    body = request.dialect.body()
    try:
        complete = await _read_complete(reply, body, record, limit=read_ahead_bytes)
        if isinstance(complete, bytes):
            if reply.status == 503 and _BUSY in complete:
                raise UpstreamBusy
            headers += await guard.check_response(request, record, reply.status, body)
            await response.send(reply.status, headers, complete)
        else:
            # Too long to be collected: it is passed on as it comes, and cannot be checked first.
            await response.begin_stream(
                reply.status, headers, length=reply.content_length, scanner=None
            )
            for data in complete:
                await response.write(data)
            complete.clear()
            while data := await reply.read():
                body.feed(data)
                await response.write(data)
    finally:
        _record_usage(record, body)
    if body.failure is not None:
        record.error = body.failure
    elif body.incomplete:
        # Ollama itself says so, and ``integrity.incomplete`` lets it pass: the client can read it
        # there, the owner in the log.
        record.outcome = UpstreamIncomplete.code
        record.error = UpstreamIncomplete.default_message


async def _relay_stream(
    reply: Reply, response: Response, headers: Headers, scanner: Scanner, record: RequestRecord
) -> None:
    # Nothing is sent before the first byte is there: until then a failure has its own status.
    try:
        data = await reply.read()
    except UpstreamIncomplete:
        data = b""
    if not data:
        raise UpstreamProtocolError(_NO_FIRST_BYTE)
    record.phase = Phase.RELAY
    record.first_byte_at = reply.first_byte_at
    try:
        await response.begin_stream(reply.status, headers, length=None, scanner=scanner)
        while data:
            scanner.feed(data)
            await response.write(data)
            try:
                data = await reply.read()
            except GatewayError:
                # After the final event the stream is complete, whatever happens to the connection.
                if not scanner.complete:
                    raise
                break
    finally:
        _record_usage(record, scanner)
        if scanner.failure is not None:
            record.error = scanner.failure
    if not scanner.complete:
        raise UpstreamIncomplete
    if scanner.failure is not None:
        # Ollama reported it in its dialect and ended the stream: the client library raises.
        record.outcome = UpstreamIncomplete.code


async def _read_complete(
    reply: Reply, body: Body, record: RequestRecord, *, limit: int
) -> bytes | list[bytes]:
    """Read a response that does not stream. If it has more than ``limit`` bytes, return a part.

    While nothing was sent, a failure in the middle still has its own status.
    """
    chunks: list[bytes] = []
    size = 0
    while data := await reply.read():
        record.phase = Phase.RELAY
        body.feed(data)
        chunks.append(data)
        size += len(data)
        if size > limit:
            return chunks
    return b"".join(chunks)


def _record_usage(record: RequestRecord, reader: Scanner | Body) -> None:
    usage = reader.usage
    record.tokens_in = usage.tokens_in
    record.tokens_out = usage.tokens_out
    record.tokens_counted = usage.counted if usage.tokens_out is not None else None
    record.timings = reader.timings


def response_headers(
    status: int, headers: Iterable[tuple[str, str]], timing: str, *, streaming: bool
) -> list[tuple[str, str]]:
    """Return the headers of a response: Ollama's that may go on, and the gateway's own.

    Withheld are headers for this connection only, also those that ``Connection`` names, and headers
    that are the gateway's own.

    Args:
        timing: the value of ``Server-Timing``.
    """
    withheld = _WITHHELD_OF_STREAM if streaming else _WITHHELD
    headers = list(headers)
    for name, value in headers:
        if name.lower() == "connection":
            withheld = withheld.union(token.strip().lower() for token in value.split(","))
    kept = [
        header
        for header in headers
        if (name := header[0].lower()) not in withheld and not name.startswith("x-gateway-")
    ]
    if streaming:
        kept += STREAM_HEADERS
    kept.append(("Server-Timing", timing))
    if status >= 400:
        # Advice where Ollama gave none: its 4xx cannot succeed next time, its 5xx soon may.
        names = {name.lower() for name, _ in kept}
        if status < 500 and status not in _RETRYABLE_4XX:
            if "x-should-retry" not in names:
                kept.append(("x-should-retry", "false"))
        elif "retry-after" not in names:
            kept.append(("Retry-After", "2"))
    return kept
