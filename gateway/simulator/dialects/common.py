"""Shared by the dialects: reading bodies, errors, ids."""

import secrets
from typing import Any

from gateway.simulator.gojson import EmptyBody, Fields, NotReadable, decode, encode
from gateway.simulator.params import Refusal

_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def openai_fields(body: bytes, go_type: str) -> Fields:
    """Read a ``/v1`` body; raise ``Refusal`` as the layer before the handler does."""
    try:
        return Fields.of(go_type, decode(body))
    except NotReadable as error:
        raise Refusal(400, str(error), early=True) from None


def native_fields(body: bytes, go_type: str) -> Fields:
    try:
        return Fields.of(go_type, decode(body))
    except EmptyBody:
        raise Refusal(400, "missing request body") from None
    except NotReadable as error:
        raise Refusal(400, str(error)) from None


def openai_error(refusal: Refusal) -> bytes:
    body = encode(
        {
            "error": {
                "message": refusal.message,
                "type": _TYPES.get(refusal.status, "api_error"),
                "param": None,
                "code": None,
            }
        }
    )
    return body if refusal.early else body + b"\n"


def native_error(message: str) -> bytes:
    return encode({"error": message})


def texts(value: Any) -> tuple[str, ...]:
    """Read ``stop``: a text or a list of texts."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, str))
    return ()


def hex_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def number_id(prefix: str, below: int) -> str:
    return f"{prefix}{secrets.randbelow(below)}"
