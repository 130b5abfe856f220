"""``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``: OpenAI's dialect."""

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

_DONE = b"[DONE]"
"""The final event, exactly: a chunk whose text is "[DONE]" is JSON and never this."""

# A chunk that ends like this and not like those has a delta whose last text is not empty: a piece,
# and nothing else worth decoding. Inside a text every quote would have a backslash before it.
_PIECE_END = b'"},"finish_reason":null}]}'
_NO_PIECE_ENDS = (
    b'""},"finish_reason":null}]}',
    b'"role":"assistant"},"finish_reason":null}]}',
)


class _Delta(msgspec.Struct):
    content: Raw = NOTHING
    reasoning: Raw = NOTHING
    tool_calls: Raw = NOTHING


class _Choice(msgspec.Struct):
    delta: Raw = NOTHING
    text: Raw = NOTHING
    finish_reason: Raw = NOTHING


class _Reply(msgspec.Struct):
    """A chunk of a stream, a whole answer, or the body of an error."""

    choices: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


_reply = msgspec.json.Decoder(_Reply)
_choices = msgspec.json.Decoder(list[_Choice])
_delta = msgspec.json.Decoder(_Delta)


@dataclass(frozen=True, slots=True)
class OpenAi:
    name: str = "openai"
    stream_type: str = STREAM_TYPE

    def streams(self, stream: bytes | None) -> bool:
        return stream is not None and stream.strip() == b"true"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002  - a header's
        return encode({"error": error_object(error)})

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        return b"data: " + self.error_body(error, request_id) + b"\n\n"

    def whole_in_stream(self, body: bytes) -> bytes | None:  # noqa: ARG002  - whatever it is
        return None

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:
        return comment(note) if streaming else b" "

    def scanner(self) -> Scanner:
        return event_scanner(read=_read_event, read_tail=skip)

    def body(self) -> Body:
        return WholeBody(read=_read_document, read_tail=_read_tail)


def error_object(error: GatewayError) -> dict[str, str | None]:
    """What stands under ``error`` on every ``/v1`` route but ``/v1/messages``."""
    return {
        "message": printable(error.message),
        "type": error.type,
        "param": error.param and printable(error.param),
        "code": error.code,
    }


def _read_event(found: Findings, _name: bytes, data: bytes) -> None:
    if data == _DONE:
        found.complete = True
    elif (
        data.endswith(_PIECE_END)
        and not data.endswith(_NO_PIECE_ENDS)
        and b'"usage"' not in data
        and b'"error"' not in data
    ):
        found.pieces += 1
    else:
        _read_chunk(found, data)


def _read_chunk(found: Findings, data: bytes) -> None:
    chunk = decode(_reply, data)
    if chunk is None:
        return
    found.failure = found.failure or failure_text(chunk.error)
    found.report(usage_of(chunk.usage))
    if any(map(_carries, decode(_choices, chunk.choices) or ())):
        found.pieces += 1


def _carries(choice: _Choice) -> bool:
    delta = decode(_delta, choice.delta) or _Delta()
    return any(map(filled, (choice.text, delta.content, delta.reasoning, delta.tool_calls)))


def _read_document(document: bytes) -> Reading:
    reply = decode(_reply, document)
    if reply is None:
        return UNREADABLE
    return Reading(
        usage=usage_of(reply.usage),
        broke_off=any(
            not filled(choice.finish_reason) for choice in decode(_choices, reply.choices) or ()
        ),
        failure=failure_text(reply.error),
    )


def _read_tail(tail: bytes) -> Reading:
    """Of a megabyte of answer ``usage`` comes last. No tokens in it: Ollama lost count of them."""
    reply = decode(_reply, rest_of_object(tail, b"usage"))
    if reply is None:
        return UNREADABLE
    return Reading(usage=usage_of(reply.usage), broke_off=lost_count(reply.usage))
