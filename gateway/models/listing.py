"""Ollama's list of models, as a value: pure.

The bytes of ``/api/tags`` are not trusted: whatever answers on Ollama's port may not be Ollama.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.errors import UpstreamProtocolError
from gateway.models.names import is_cloud_name, name_key
from gateway.models.sizes import parameter_count

_LARGEST_SIZE: Final = 1 << 63
"""Bytes. Ollama counts them in 64 bits; JSON can say numbers that are no float any more."""

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)
"""What msgspec raises for bytes that are no JSON, and for JSON too deep or with endless numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the list.

    ``name`` is spelled as Ollama lists it, ``parameters`` are billions, ``created`` is Unix time in
    whole seconds, ``raw`` the entry as Ollama sent it. ``remote``: the entry names a remote host or
    model, so Ollama runs it elsewhere whatever its name is.
    """

    name: str
    digest: str
    size_bytes: int | None
    parameters: float | None
    remote: bool
    created: int
    raw: Mapping[str, object] = field(repr=False, hash=False)

    @property
    def leaves_the_machine(self) -> bool:
        return self.remote or is_cloud_name(self.name)


@dataclass(frozen=True, slots=True)
class Listing:
    """All models at one time; ``fetched_at`` is when Ollama was asked, by the catalog's clock.

    ``envelope`` holds what stood beside ``models`` in Ollama's answer.
    """

    models: tuple[Model, ...]
    fetched_at: float
    envelope: Mapping[str, object] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, hash=False
    )
    _index: Mapping[str, Model] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, Model] = {}
        for model in self.models:
            index.setdefault(name_key(model.name) or model.name, model)
        object.__setattr__(self, "_index", MappingProxyType(index))

    def find(self, name: str) -> Model | None:
        """The model that Ollama would run for ``name``: ``foo`` is ``foo:latest``, in any case."""
        key = name_key(name)
        return None if key is None else self._index.get(key)


def parse_listing(body: bytes, *, fetched_at: float) -> Listing:
    """Read an answer to ``/api/tags``; entries without a name are skipped.

    Raises ``UpstreamProtocolError`` where the answer is not Ollama's.
    """
    envelope = decoded_object(body, "/api/tags")
    entries = named_entries(envelope, "/api/tags")
    rest = {key: value for key, value in envelope.items() if key != "models"}
    models = tuple(_model(name, entry) for name, entry in entries)
    return Listing(models, fetched_at, MappingProxyType(rest))


def decoded_object(body: bytes, route: str) -> dict[str, object]:
    """The JSON object in ``body``, or ``UpstreamProtocolError`` naming the ``route``."""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except UNREADABLE:
        raise not_ollama(route) from None


def not_ollama(route: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(
        f"What answers at Ollama's address sent something else than Ollama's {route}. "
        "Check that `ollama.url` points at Ollama."
    )


def named_entries(
    envelope: Mapping[str, object], route: str
) -> list[tuple[str, dict[str, object]]]:
    """The entries under ``models`` with their names; Go writes an empty list as null."""
    if "models" not in envelope:
        raise not_ollama(route)
    entries = envelope["models"]
    if not isinstance(entries, list | None):
        raise not_ollama(route)
    named = ((_name(entry), entry) for entry in entries or () if isinstance(entry, dict))
    return [(name, entry) for name, entry in named if name]


def _name(entry: Mapping[str, object]) -> str:
    # Both are there and equal; where they are not, ``model`` is the identity that Ollama itself
    # puts on /v1/models.
    return _text(entry, "model") or _text(entry, "name")


def _model(name: str, entry: dict[str, object]) -> Model:
    details = entry.get("details")
    details = details if isinstance(details, dict) else {}
    remote = bool(entry.get("remote_host") or entry.get("remote_model"))
    return Model(
        name=name,
        digest=_text(entry, "digest"),
        # A remote model's few hundred bytes on disk say nothing about the model.
        size_bytes=None if remote else _size(entry),
        parameters=parameter_count(_text(details, "parameter_size")),
        remote=remote,
        created=_unix(_text(entry, "modified_at")),
        raw=MappingProxyType(entry),
    )


def _size(entry: Mapping[str, object]) -> int | None:
    size = entry.get("size")
    return size if isinstance(size, int) and 0 < size < _LARGEST_SIZE else None


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _unix(text: str) -> int:
    """Whole seconds since 1970 of an RFC 3339 time; 0 where there is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        return 0
    return int(moment.replace(microsecond=0).timestamp())
