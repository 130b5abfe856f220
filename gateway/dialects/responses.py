"""``/v1/responses``: OpenAI's newer dialect."""

from dataclasses import dataclass

import msgspec
from msgspec import Raw

from gateway.dialects.body import UNREADABLE, Reading, WholeBody
from gateway.dialects.dialect import Body, Scanner
from gateway.dialects.openai import error_object
from gateway.dialects.payload import (
    NOTHING,
    decode,
    encode,
    failure_text,
    filled,
    lost_count,
    rest_of_object,
    usage_of,
)
from gateway.dialects.scanner import Findings
from gateway.dialects.sse import STREAM_TYPE, comment, event_scanner
from gateway.errors import GatewayError

_FINAL = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})


class _Part(msgspec.Struct):
    text: Raw = NOTHING


class _Item(msgspec.Struct):
    type: Raw = NOTHING
    content: Raw = NOTHING


class _Response(msgspec.Struct):
    """A whole answer, the same inside an event, or the body of an error."""

    output: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


class _Event(msgspec.Struct):
    type: Raw = NOTHING
    delta: Raw = NOTHING
    response: Raw = NOTHING
    error: Raw = NOTHING
    message: Raw = NOTHING


_response = msgspec.json.Decoder(_Response)
_event = msgspec.json.Decoder(_Event)
_items = msgspec.json.Decoder(list[_Item])
_parts = msgspec.json.Decoder(list[_Part])


@dataclass(frozen=True, slots=True)
class Responses:
    name: str = "responses"
    stream_type: str = STREAM_TYPE

    def streams(self, stream: bytes | None) -> bool:
        return stream is not None and stream.strip() == b"true"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002  - a header's
        return encode({"error": error_object(error)})

    def late_error(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002  - a header's
        """OpenAI's ``error`` event, and ``error`` in it besides.

        The SDK hands the documented event on as one among others and raises for the field alone.
        The sequence number is required and read by nobody: a constant.
        """
        detail = error_object(error)
        event = {
            "type": "error",
            "code": detail["code"],
            "message": detail["message"],
            "param": detail["param"],
            "sequence_number": 0,
            "error": detail,
        }
        return b"event: error\ndata: " + encode(event) + b"\n\n"

    def whole_in_stream(self, body: bytes) -> bytes | None:  # noqa: ARG002  - whatever it is
        return None

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:
        return comment(note) if streaming else b" "

    def scanner(self) -> Scanner:
        return event_scanner(read=_read_event, read_tail=_read_event_tail)

    def body(self) -> Body:
        return WholeBody(read=_read_document, read_tail=_read_tail)


def _read_event(found: Findings, name: bytes, data: bytes) -> None:
    """An event is what its ``event:`` line and its ``type`` both say."""
    event = decode(_event, data)
    if event is None:
        return
    if name.endswith(b".delta"):
        found.pieces += filled(event.delta)
    elif name in _FINAL and bytes(event.type) == b'"' + name + b'"':
        found.complete = True
        response = decode(_response, event.response) or _Response()
        found.report(usage_of(response.usage))
        if name == b"response.failed":
            found.failure = found.failure or failure_text(response.error) or name.decode()
    elif name in {b"error", b""}:
        found.failure = found.failure or failure_text(event.error) or failure_text(event.message)


def _read_event_tail(found: Findings, name: bytes, tail: bytes) -> None:
    """An overlong event. The final one repeats the whole answer, so it can be one."""
    if name not in _FINAL:
        return
    found.complete = True
    event = decode(_event, rest_of_object(tail, b"usage", within=b'{"response":{'))
    if event is not None:
        found.report(usage_of((decode(_response, event.response) or _Response()).usage))
    if name == b"response.failed":
        found.failure = found.failure or name.decode()


def _read_document(document: bytes) -> Reading:
    response = decode(_response, document)
    if response is None:
        return UNREADABLE
    return Reading(
        usage=usage_of(response.usage),
        broke_off=lost_count(response.usage) and _says_something(response),
        failure=failure_text(response.error),
    )


def _read_tail(tail: bytes) -> Reading:
    """Of a megabyte of answer the settings come last, with ``usage`` among them."""
    response = decode(_response, rest_of_object(tail, b"usage"))
    if response is None:
        return UNREADABLE
    return Reading(usage=usage_of(response.usage), broke_off=lost_count(response.usage))


def _says_something(response: _Response) -> bool:
    for item in decode(_items, response.output) or ():
        parts = decode(_parts, item.content) or ()
        if bytes(item.type) != b'"message"' or any(filled(part.text) for part in parts):
            return True
    return False
