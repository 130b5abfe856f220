"""``/v1/messages``: Anthropic's dialect."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.dialects.body import (
    NOTHING,
    UNREADABLE,
    Body,
    BodyFindings,
    decode,
    encodable,
    encode,
    failure_text,
    filled,
    read_usage_tail,
    usage_of,
)
from gateway.dialects.dialect import Dialect
from gateway.dialects.framing import EventScanner, Scanner, sse_comment
from gateway.errors import GatewayError

_ERROR_TYPES: Final = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "overloaded_error",
    }
)
_PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'


class _Delta(Struct):
    text: Raw = NOTHING
    thinking: Raw = NOTHING
    partial_json: Raw = NOTHING


class _Reply(Struct):
    """An event of a stream, a complete response, or the body of an error."""

    type: Raw = NOTHING
    delta: Raw = NOTHING
    stop_reason: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


_reply: Final = msgspec.json.Decoder(_Reply)
_delta: Final = msgspec.json.Decoder(_Delta)


class Anthropic(Dialect):
    __slots__ = ()

    name = "anthropic"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        # The type must be one of Anthropic's own: its SDKs choose their exception by it.
        if error.status == 413:
            kind = "request_too_large"
        else:
            kind = error.type if error.type in _ERROR_TYPES else "api_error"
        detail = {"type": kind, "message": encodable(error.message)}
        return encode({"type": "error", "error": detail, "request_id": request_id})

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(error, request_id) + b"\n\n"

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:
        """Anthropic's own keep-alive event. A note becomes a comment at its head."""
        if not streaming:
            return b" "
        return sse_comment(note).removesuffix(b"\n") + _PING if note else _PING

    def scanner(self) -> Scanner:
        return EventScanner(_read_event)

    def body(self) -> Body:
        return Body(read=_read_document, read_tail=read_usage_tail)


def _read_event(scanner: Scanner, name: bytes, data: bytes) -> None:
    """Read an event by its ``event:`` line: the SDKs go by it, and no text can be part of it."""
    event = decode(_reply, data)
    if event is None:
        return
    if name == b"content_block_delta":
        delta = decode(_delta, event.delta) or _Delta()
        scanner.content_events += any(map(filled, (delta.text, delta.thinking, delta.partial_json)))
    elif name == b"message_delta":
        # The usage in message_start is Ollama's guess (3 where this says 27): not taken.
        scanner.report(usage_of(event.usage))
    elif name == b"message_stop":
        scanner.complete = scanner.complete or bytes(event.type) == b'"message_stop"'
    elif name in {b"error", b""}:
        scanner.failure = scanner.failure or failure_text(event.error)


def _read_document(document: bytes) -> BodyFindings:
    reply = decode(_reply, document)
    if reply is None:
        return UNREADABLE
    return BodyFindings(
        usage=usage_of(reply.usage),
        # Ollama leaves the reason out when it gives up, e.g. at its repeat limit.
        incomplete=bytes(reply.type) == b'"message"' and not filled(reply.stop_reason),
        failure=failure_text(reply.error),
    )
