"""``/v1/messages``: Anthropic's dialect."""

from dataclasses import dataclass

import msgspec
from msgspec import Raw

from gateway.dialects.body import UNREADABLE, Reading, WholeBody
from gateway.dialects.dialect import Body, Scanner
from gateway.dialects.payload import (
    NOTHING,
    decode,
    encode,
    failure_text,
    filled,
    lost_count,
    printable,
    rest_of_object,
    usage_of,
)
from gateway.dialects.scanner import Findings
from gateway.dialects.sse import STREAM_TYPE, comment, event_scanner, skip
from gateway.errors import GatewayError

_ERROR_TYPES = frozenset(
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


class _Delta(msgspec.Struct):
    text: Raw = NOTHING
    thinking: Raw = NOTHING
    partial_json: Raw = NOTHING


class _Reply(msgspec.Struct):
    """An event of a stream, a whole answer, or the body of an error."""

    type: Raw = NOTHING
    delta: Raw = NOTHING
    stop_reason: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


_reply = msgspec.json.Decoder(_Reply)
_delta = msgspec.json.Decoder(_Delta)


@dataclass(frozen=True, slots=True)
class Anthropic:
    name: str = "anthropic"
    stream_type: str = STREAM_TYPE

    def streams(self, stream: bytes | None) -> bool:
        return stream is not None and stream.strip() == b"true"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        detail = {"type": _error_type(error), "message": printable(error.message)}
        return encode({"type": "error", "error": detail, "request_id": request_id})

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(error, request_id) + b"\n\n"

    def whole_in_stream(self, body: bytes) -> bytes | None:  # noqa: ARG002  - whatever it is
        return None

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:
        if not streaming:
            return b" "
        ping = b'event: ping\ndata: {"type": "ping"}\n\n'
        return comment(note).removesuffix(b"\n") + ping if note else ping

    def scanner(self) -> Scanner:
        return event_scanner(read=_read_event, read_tail=skip)

    def body(self) -> Body:
        return WholeBody(read=_read_document, read_tail=_read_tail)


def _error_type(error: GatewayError) -> str:
    """Anthropic's own word, so that its SDKs and whoever reads them know it."""
    if error.status == 413:
        return "request_too_large"
    return error.type if error.type in _ERROR_TYPES else "api_error"


def _read_event(found: Findings, name: bytes, data: bytes) -> None:
    """An event is what its ``event:`` line says: the SDKs go by it, and no text can reach it."""
    event = decode(_reply, data)
    if event is None:
        return
    if name == b"content_block_delta":
        delta = decode(_delta, event.delta) or _Delta()
        found.pieces += any(map(filled, (delta.text, delta.thinking, delta.partial_json)))
    elif name == b"message_delta":
        # The usage in message_start is Ollama's guess (3 where this says 27): not taken.
        found.report(usage_of(event.usage))
    elif name == b"message_stop":
        found.complete = found.complete or bytes(event.type) == b'"message_stop"'
    elif name in {b"error", b""}:
        found.failure = found.failure or failure_text(event.error)


def _read_document(document: bytes) -> Reading:
    reply = decode(_reply, document)
    if reply is None:
        return UNREADABLE
    return Reading(
        usage=usage_of(reply.usage),
        broke_off=bytes(reply.type) == b'"message"' and not filled(reply.stop_reason),
        failure=failure_text(reply.error),
    )


def _read_tail(tail: bytes) -> Reading:
    """Of a megabyte of answer ``usage`` comes last. No tokens in it: Ollama lost count of them."""
    reply = decode(_reply, rest_of_object(tail, b"usage"))
    if reply is None:
        return UNREADABLE
    return Reading(usage=usage_of(reply.usage), broke_off=lost_count(reply.usage))
