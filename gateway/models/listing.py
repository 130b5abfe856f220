"""Ollama's list of models as a value, and reading it from ``/api/tags``. Pure.

The bytes are not trusted: what listens on Ollama's port may not be Ollama.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.errors import UpstreamProtocolError
from gateway.models.names import is_cloud_name, name_key

_MAX_SIZE: Final = 1 << 63
"""Bytes. Ollama counts them in 64 bits; JSON can express numbers that no float can hold."""

_PARAMETER_COUNT: Final = re.compile(
    r"\s*(?:([0-9]{1,4})\s*x\s*)?([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmbt]?)\s*",
    re.IGNORECASE | re.ASCII,
)
_BILLIONS: Final = {"": 1e-9, "k": 1e-6, "m": 1e-3, "b": 1.0, "t": 1e3}
_MAX_COUNT_LENGTH: Final = 40
_MAX_BILLIONS: Final = 100_000.0

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)
"""What msgspec raises for bytes that are not JSON, or JSON too deep or with endless numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the list.

    Args:
        name: as Ollama lists it.
        parameters: in billions.
        remote: the entry names a remote host or model, so Ollama runs it elsewhere.
        created: Unix time in whole seconds.
        raw: the entry as Ollama sent it.
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
        """Whether Ollama sends prompts for this model to another machine."""
        return self.remote or is_cloud_name(self.name)


@dataclass(frozen=True, slots=True)
class Listing:
    """All models at one time.

    Args:
        models: in Ollama's order.
        fetched_at: when Ollama was asked, by the catalog's clock.
        envelope: the fields beside ``models`` in Ollama's response.
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
        """Return the model that Ollama would run for ``name``: ``FOO`` finds ``foo:latest``."""
        key = name_key(name)
        return None if key is None else self._index.get(key)


def parse_listing(body: bytes, *, fetched_at: float) -> Listing:
    """Read the body of ``/api/tags``; entries without a name are skipped.

    Raises:
        UpstreamProtocolError: the body is not Ollama's.
    """
    envelope = decoded_object(body, "/api/tags")
    entries = named_entries(envelope, "/api/tags")
    rest = {key: value for key, value in envelope.items() if key != "models"}
    models = tuple(_model(name, entry) for name, entry in entries)
    return Listing(models, fetched_at, MappingProxyType(rest))


def decoded_object(body: bytes, route: str) -> dict[str, object]:
    """Return the JSON object in ``body``.

    Raises:
        UpstreamProtocolError: the body is not Ollama's; the message names ``route``.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except UNREADABLE:
        raise not_ollama(route) from None


def not_ollama(route: str) -> UpstreamProtocolError:
    """Return the error for a body that Ollama does not send on ``route``."""
    return UpstreamProtocolError(
        f"What answers at Ollama's address sent something else than Ollama's {route}. "
        "Check that `ollama.url` points at Ollama."
    )


def named_entries(
    envelope: Mapping[str, object], route: str
) -> list[tuple[str, dict[str, object]]]:
    """Return the entries under ``models`` with their names; Go writes an empty list as null.

    Raises:
        UpstreamProtocolError: there is no such list; the message names ``route``.
    """
    if "models" not in envelope:
        raise not_ollama(route)
    entries = envelope["models"]
    if not isinstance(entries, list | None):
        raise not_ollama(route)
    named = ((_name(entry), entry) for entry in entries or () if isinstance(entry, dict))
    return [(name, entry) for name, entry in named if name]


def parameter_count(text: str) -> float | None:
    """Return billions of parameters, None if ``text`` is not a plausible number.

    Ollama writes the count for people: ``70.6B``, ``494.03M``, ``152K``, ``8x7B``, plain digits
    below a thousand, or nothing. A mixture counts all of its experts (``8x7B`` is 56), because all
    of them are loaded.
    """
    match = _PARAMETER_COUNT.fullmatch(text) if len(text) <= _MAX_COUNT_LENGTH else None
    if match is None:
        return None
    experts, number, unit = match.groups()
    count = int(experts or 1) * float(number) * _BILLIONS[unit.lower()]
    return count if 0.0 < count <= _MAX_BILLIONS else None


def _name(entry: Mapping[str, object]) -> str:
    # Ollama sends both, with the same value. If they differ, ``model`` is what it shows on
    # /v1/models.
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
    return size if isinstance(size, int) and 0 < size < _MAX_SIZE else None


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _unix(text: str) -> int:
    """Return whole seconds since 1970 for an RFC 3339 time, 0 if there is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        return 0
    return int(moment.replace(microsecond=0).timestamp())
