"""``/v1/responses``: OpenAI's newer dialect."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.dialects.body import (
    NOTHING,
    UNREADABLE,
    Body,
    BodyFindings,
    decode,
    encode,
    failure_text,
    filled,
    json_tail,
    read_usage_tail,
    usage_of,
    zero_token_count,
)
from gateway.dialects.dialect import Dialect, error_object
from gateway.dialects.framing import EventScanner, Scanner
from gateway.errors import GatewayError

_FINAL: Final = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})


class _Part(Struct):
    text: Raw = NOTHING


class _Item(Struct):
    type: Raw = NOTHING
    content: Raw = NOTHING


class _Response(Struct):
    """A complete response, the same inside an event, or the body of an error."""

    output: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


class _Event(Struct):
    type: Raw = NOTHING
    delta: Raw = NOTHING
    response: Raw = NOTHING
    error: Raw = NOTHING
    message: Raw = NOTHING


_response: Final = msgspec.json.Decoder(_Response)
_event: Final = msgspec.json.Decoder(_Event)
_items: Final = msgspec.json.Decoder(list[_Item])
_parts: Final = msgspec.json.Decoder(list[_Part])


class Responses(Dialect):
    __slots__ = ()

    name = "responses"

    def late_error(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 - a header has it
        """Return OpenAI's ``error`` event with an ``error`` field besides.

        openai-python hands the documented event on as one among others and raises only for the
        field. ``sequence_number`` is required, and no client reads it: a constant.
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

    def scanner(self) -> Scanner:
        return EventScanner(_read_event, _read_event_tail)

    def body(self) -> Body:
        return Body(read=_read_document, read_tail=read_usage_tail)


def _read_event(scanner: Scanner, name: bytes, data: bytes) -> None:
    """Read an event. The final one must say so in its ``event:`` line and in its ``type``."""
    event = decode(_event, data)
    if event is None:
        return
    if name.endswith(b".delta"):
        scanner.content_events += filled(event.delta)
    elif name in _FINAL and bytes(event.type) == b'"' + name + b'"':
        scanner.complete = True
        response = decode(_response, event.response) or _Response()
        scanner.report(usage_of(response.usage))
        if name == b"response.failed":
            scanner.failure = scanner.failure or failure_text(response.error) or name.decode()
    elif name in {b"error", b""}:
        scanner.failure = (
            scanner.failure or failure_text(event.error) or failure_text(event.message)
        )


def _read_event_tail(scanner: Scanner, name: bytes, tail: bytes) -> None:
    """Read the end of an oversized event: the final one repeats the complete response."""
    if name not in _FINAL:
        return
    scanner.complete = True
    event = decode(_event, json_tail(tail, b"usage", within=b'{"response":{'))
    if event is not None:
        scanner.report(usage_of((decode(_response, event.response) or _Response()).usage))
    if name == b"response.failed":
        scanner.failure = scanner.failure or name.decode()


def _read_document(document: bytes) -> BodyFindings:
    response = decode(_response, document)
    if response is None:
        return UNREADABLE
    return BodyFindings(
        usage=usage_of(response.usage),
        # Ollama calls a completion that it gave up on "completed", but counts no token of it.
        incomplete=zero_token_count(response.usage) and _has_content(response),
        failure=failure_text(response.error),
    )


def _has_content(response: _Response) -> bool:
    for item in decode(_items, response.output) or ():
        parts = decode(_parts, item.content) or ()
        if bytes(item.type) != b'"message"' or any(filled(part.text) for part in parts):
            return True
    return False
