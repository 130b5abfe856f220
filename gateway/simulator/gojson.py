"""JSON as Go's ``encoding/json`` reads and writes it.

Reading: keys match struct fields without regard to case (by Unicode folding), the last of
duplicates wins, null leaves a field unchanged, and everything after the first value is ignored.
Writing: ``<``, ``>``, ``&`` and the two Unicode line separators are escaped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec

_encoder = msgspec.json.Encoder()

_HTML = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))

_KEY = "looking for beginning of object key string"
_VALUE = "looking for beginning of value"
_CONTEXTS = {
    "Expecting value": _VALUE,
    "Expecting property name enclosed in double quotes": _KEY,
    "Illegal trailing comma before end of object": _KEY,
    "Illegal trailing comma before end of array": _VALUE,
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}


class NotReadable(ValueError):
    """The handler cannot read the body; the message is Go's own."""


class EmptyBody(NotReadable):
    """Nothing but white space; ``/api`` has its own message for it."""

    def __init__(self) -> None:
        super().__init__("EOF")


def encode(value: object) -> bytes:
    out = _encoder.encode(value)
    for plain, escaped in _HTML:
        if plain in out:
            out = out.replace(plain, escaped)
    if b"\xe2\x80" in out:
        for plain, escaped in _SEPARATORS:
            out = out.replace(plain, escaped)
    return out


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keep the order of the last occurrences: folding then finds the last spelling of a key.

    A null changes nothing.
    """
    kept: dict[str, Any] = {}
    for key, value in pairs:
        if value is None:
            kept.setdefault(key, None)
            continue
        kept.pop(key, None)
        kept[key] = value
    return kept


def _refuse_constant(name: str) -> Any:
    raise NotReadable(f"invalid character {_quoted(name[0])} looking for beginning of value")


_decoder = json.JSONDecoder(object_pairs_hook=_last_wins, parse_constant=_refuse_constant)


def decode(body: bytes) -> Any:
    """Return the first JSON value of ``body``; raise ``NotReadable`` with Go's message."""
    text = body.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise EmptyBody
    try:
        value, _ = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise NotReadable(_go_message(error, body)) from None
    except RecursionError:
        raise NotReadable("invalid character '[' exceeded max depth") from None
    return value


def _go_message(error: json.JSONDecodeError, body: bytes) -> str:
    if error.msg.startswith("Unterminated string") or error.pos >= len(error.doc):
        return "unexpected EOF"
    offset = len(error.doc[: error.pos].encode())
    # Go names the byte, shown as the character of that number: a BOM's first byte is 'ï'.
    character = chr(body[offset]) if offset < len(body) else error.doc[error.pos]
    context = _CONTEXTS.get(error.msg, _VALUE)
    return f"invalid character {_quoted(character)} {context}"


def _quoted(character: str) -> str:
    if character == "'":
        return "'\\''"
    if character.isprintable():
        return f"'{character}'"
    return {"\n": "'\\n'", "\t": "'\\t'", "\r": "'\\r'"}.get(
        character, f"'\\x{ord(character):02x}'"
    )


def kind(value: object) -> str:
    """Return Go's name for the type of a JSON value."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object read into a Go struct; ``type`` is the name of the struct in messages."""

    type: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, go_type: str, value: object) -> Self:
        if value is None:
            return cls(go_type, {})
        if not isinstance(value, dict):
            raise NotReadable(
                f"json: cannot unmarshal {kind(value)} into Go value of type {go_type}"
            )
        return cls(go_type, {k.casefold(): v for k, v in value.items() if v is not None})

    def any(self, name: str) -> Any:
        return self.values.get(name)

    def text(self, name: str) -> str:
        value = self.values.get(name, "")
        if not isinstance(value, str):
            raise self._mismatch(name, "string")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._mismatch(name, "bool")
        return value

    def integer(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self._mismatch(name, "int")
        return value

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self._mismatch(name, "float64")
        return value

    def items(self, name: str, go_type: str) -> list[Any]:
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._mismatch(name, go_type)
        return value

    def fields(self, name: str, go_type: str) -> "Fields":
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._mismatch(name, go_type)
        return Fields.of(go_type, value)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a Go ``map[string]any``, whose keys stay unchanged."""
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._mismatch(name, "map[string]interface {}")
        return value

    def _mismatch(self, name: str, go_type: str) -> NotReadable:
        struct = self.type.rpartition(".")[2]
        return NotReadable(
            f"json: cannot unmarshal {kind(self.values[name])} "
            f"into Go struct field {struct}.{name} of type {go_type}"
        )
