"""The body of a call: only its top level is parsed, every value stays the bytes that came.

Ollama matches keys without regard to case (by Unicode folding), takes the last of duplicates and
ignores what follows the first JSON value. Two readings of one body are how a gateway is fooled, so
a body that could be read in two ways is refused, and what is sent on is rebuilt from what was read.
"""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from gateway.errors import InvalidRequestBody

Fields: TypeAlias = dict[str, msgspec.Raw]

READ = frozenset(
    {
        "model",
        "name",
        "stream",
        "keep_alive",
        "options",
        "tools",
        "prompt",
        "messages",
        "input",
        "truncate",
        "verbose",
    }
)
"""Every top-level field by which the gateway decides anything."""

MAX_FIELDS = 256
"""Fields of one body. The longest list of parameters that any route knows has some forty."""

MAX_COLONS = 500_000
"""Colons in one body, in texts and between keys and values alike.

Each field costs about 200 bytes and half a microsecond while it is read, during which nobody else
is served: 32 MiB of nothing but short fields would be 600 MB and two seconds.
"""

_FIELDS = msgspec.json.Decoder(Fields)
_ANY = msgspec.json.Decoder()


def parse(data: bytes | bytearray) -> Fields:
    """The top level of a JSON object.

    Raises:
        InvalidRequestBody: not one JSON object and nothing else, nested or cut into fields beyond
            all reason, or with a key that Ollama would take for one of ``READ``.
    """
    if not data:
        raise InvalidRequestBody("The request has no body. Send a JSON object.")
    if data.count(b":") > MAX_COLONS:
        raise InvalidRequestBody(
            f"The body has more than {MAX_COLONS} colons, which is more than any model can read. "
            "Send it in parts."
        )
    try:
        fields = _FIELDS.decode(data)
    except RecursionError:
        raise InvalidRequestBody("The JSON body is nested too deeply.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestBody(f"The body is not one JSON object: {_where(error)}.") from None
    if len(fields) > MAX_FIELDS:
        raise InvalidRequestBody(f"The body has more than {MAX_FIELDS} fields.")
    for key in fields:
        _refuse_second_reading(key)
    return fields


def build(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """The body that is sent on: each key once, each value as it came."""
    # Joined by hand, for an encoder that grows its buffer holds a large body twice.
    parts: list[bytes | memoryview] = []
    for key, raw in fields.items():
        parts += (b"," if parts else b"{", msgspec.json.encode(key), b":", memoryview(raw))
    return b"".join((*parts, b"}")) if parts else b"{}"


def model_name(fields: Fields, *keys: str) -> str:
    """The first of ``keys`` that is there, which must be a non-empty text.

    Raises:
        InvalidRequestBody: none is there, or it is something else.
    """
    for key in keys:
        if key in fields:
            value = value_of(fields, key)
            if isinstance(value, str) and value.strip():
                return value
            raise InvalidRequestBody(f"`{key}` must be the name of a model.", param=key)
    raise InvalidRequestBody(
        f"`{keys[0]}` is missing. Name the model to use; GET /v1/models lists them.", param=keys[0]
    )


def value_of(fields: Fields, key: str) -> object:
    """The decoded value of one field, None if absent.

    Raises:
        InvalidRequestBody: its own JSON is broken in a way that the top level did not show.
    """
    raw = fields.get(key)
    if raw is None:
        return None
    try:
        return _ANY.decode(raw)
    except RecursionError:
        raise InvalidRequestBody(f"`{key}` is nested too deeply.", param=key) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestBody(
            f"`{key}` is not valid JSON: {_where(error)}.", param=key
        ) from None


def _refuse_second_reading(key: str) -> None:
    if key in READ:
        return
    folded = key.casefold()
    if folded in READ:
        raise InvalidRequestBody(
            f"A field is spelt like `{folded}` but for case. Ollama would take it for `{folded}`; "
            f"write it as `{folded}`, once.",
            param=folded,
        )
    if folded.startswith("_debug"):
        raise InvalidRequestBody("Fields that begin with `_debug` are not accepted.")


def _where(error: Exception) -> str:
    """The decoder's words, which hold positions and types, never what the caller wrote."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error).rstrip(".").removeprefix("JSON is malformed: ")
