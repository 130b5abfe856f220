"""Bodies of discovery responses: Ollama's own shapes, without what tells about its machine. Pure.

``modelfile``, ``template``, ``system`` and ``messages`` are the owner's text. The first also has
the path of the blob, and with it a user name; ``parent_model`` can be such a path. They are left
out unless ``full``. All other fields, known or not, pass as Ollama sent them.

``may_use`` tells for a name as Ollama lists it whether the client's key may use the model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.models.listing import (
    UNREADABLE,
    Listing,
    Model,
    decoded_object,
    named_entries,
    not_ollama,
)
from gateway.models.names import is_path, namespace_of

_HIDDEN: Final = frozenset({"modelfile", "template", "system", "messages"})
_PARENT: Final = "parent_model"


def tags_body(listing: Listing, may_use: Callable[[str], bool], *, full: bool) -> bytes:
    """Return the body of ``GET /api/tags``."""
    entries = [model.raw for model in listing.models if may_use(model.name)]
    return _models_body(listing.envelope, entries, full=full)


def ps_body(raw: bytes, may_use: Callable[[str], bool], *, full: bool) -> bytes:
    """Return the body of ``GET /api/ps``, from Ollama's own.

    Raises:
        UpstreamProtocolError: ``raw`` is not Ollama's.
    """
    envelope = decoded_object(raw, "/api/ps")
    named = named_entries(envelope, "/api/ps")
    entries = [entry for name, entry in named if may_use(name)]
    return _models_body(envelope, entries, full=full)


def show_body(raw: bytes, *, full: bool) -> bytes:
    """Return the body of ``POST /api/show``, from Ollama's own of status 200.

    Raises:
        UpstreamProtocolError: ``raw`` is not Ollama's.
    """
    fields = shown_fields(raw)
    if full:
        return raw
    try:
        kept = {key: _raw_pruned(key, value) for key, value in fields.items() if key not in _HIDDEN}
    except UNREADABLE:
        raise not_ollama("/api/show") from None
    return msgspec.json.encode({key: value for key, value in kept.items() if value is not None})


def shown_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    """Return the top level of a ``/api/show`` body; values stay bytes: they can be megabytes.

    Raises:
        UpstreamProtocolError: ``raw`` is not a JSON object.
    """
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        raise not_ollama("/api/show") from None


def v1_models_body(listing: Listing, may_use: Callable[[str], bool]) -> bytes:
    """Return the body of ``GET /v1/models``: always a list; Ollama writes null for no models."""
    models = [model for model in listing.models if may_use(model.name)]
    data = [_v1_model(model, model.name) for model in models]
    return _line({"object": "list", "data": data})


def v1_model_body(model: Model, requested_name: str) -> bytes:
    """Return the body of ``GET /v1/models/{model}``; ``id`` is the name as the client wrote it."""
    return _line(_v1_model(model, requested_name))


def _v1_model(model: Model, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": namespace_of(name),
    }


def _line(value: object) -> bytes:
    # Ollama ends bodies of /v1 with a newline, and bodies of /api without.
    return msgspec.json.encode(value) + b"\n"


def _models_body(
    envelope: Mapping[str, object], entries: Sequence[Mapping[str, object]], *, full: bool
) -> bytes:
    try:
        models = [dict(entry) if full else _redacted(entry) for entry in entries]
        return msgspec.json.encode({**envelope, "models": models})
    except UNREADABLE:
        raise not_ollama("/api/tags or /api/ps") from None


def _redacted(entry: Mapping[str, object]) -> dict[str, object]:
    return {
        key: _pruned(value)
        for key, value in entry.items()
        if key not in _HIDDEN and not _is_parent_path(key, value)
    }


def _raw_pruned(key: str, raw: msgspec.Raw) -> msgspec.Raw | None:
    """Return ``raw`` without paths, None if it is one."""
    # Ollama writes ASCII letters of keys unescaped, so most values need not be decoded.
    if key != _PARENT and _PARENT.encode() not in bytes(raw):
        return raw
    value = msgspec.json.decode(raw)
    return None if _is_parent_path(key, value) else msgspec.Raw(msgspec.json.encode(_pruned(value)))


def _pruned(value: object) -> object:
    """Return ``value`` without any ``parent_model`` that is a path, at any depth."""
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    if isinstance(value, dict):
        pairs = value.items()
        return {key: _pruned(item) for key, item in pairs if not _is_parent_path(key, item)}
    return value


def _is_parent_path(key: str, value: object) -> bool:
    return key == _PARENT and not (isinstance(value, str) and not is_path(value))
