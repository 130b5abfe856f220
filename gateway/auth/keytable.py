"""A key as a table of ``keys.toml``, both ways.

Everything that is read is checked here, and every complaint names the key and the field. An
unknown field is an error and never ignored: ``modles = ["llama*"]`` would allow every model.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Final, TypeVar

from gateway.auth.globs import EVERY
from gateway.auth.keys import Key, OldSecret
from gateway.auth.principal import Scope

MAX_REQUESTS_PER_MINUTE: Final = 1_000_000
MAX_ACTIVE: Final = 10_000
WEIGHTS: Final = (0.01, 100.0)
INTERACTIVE: Final = "interactive"
BATCH: Final = "batch"
CLASSES: Final = (INTERACTIVE, BATCH)
MAX_GLOB: Final = 256
YEARS: Final = range(2000, 3000)
"""Far enough for any key, and no sum of times in here leaves the calendar."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_GLOB: Final = re.compile(r"[^\s\[\]]+")

_FIELDS: Final = (
    "sha256",
    "scopes",
    "models",
    "created",
    "expires",
    "rpm",
    "max_active",
    "tune",
    "cloud",
    "weight",
    "class",
    "revoked",
    "previous",
)

Table = Mapping[str, object]


class InvalidKey(ValueError):
    """A key that cannot be; the text is one line that names the key and the field."""


def check_name(name: str) -> str:
    """The name as it is. Names stand in logs, metrics and ``https://name:key@host``."""
    if not _NAME.fullmatch(name):
        raise InvalidKey(
            f"{_shown(name)} cannot name a key: "
            "a name is 1 to 64 characters out of A-Z a-z 0-9 . _ -"
        )
    return name


def to_table(key: Key) -> dict[str, object]:
    """The fields in the order of the file; those at their default are left out."""
    table: dict[str, object] = {
        "sha256": key.digest,
        "scopes": [scope.value for scope in Scope if scope in key.scopes],
        "models": list(key.models),
        "created": key.created,
    }
    optional: dict[str, object] = {
        "expires": key.expires,
        "rpm": key.rpm,
        "max_active": key.max_active,
        "tune": key.tune or None,
        "cloud": list(key.cloud) or None,
        "weight": None if key.weight == 1.0 else key.weight,
        "class": BATCH if key.batch else None,
        "revoked": key.revoked,
        "previous": previous_of(key) or None,
    }
    return table | {field: value for field, value in optional.items() if value is not None}


def previous_of(key: Key) -> list[dict[str, object]]:
    """The field ``previous``: the secrets that were rotated away, the latest last."""
    return [{"sha256": old.digest, "until": old.until} for old in key.previous]


def from_table(name: str, table: object) -> Key:
    """Raises InvalidKey for the first thing that is wrong."""
    check_name(name)
    if not isinstance(table, Mapping):
        raise InvalidKey(f"key {name}: must be a table, [keys.{name}]")
    fields = _Fields(name, table)
    fields.allow_only(_FIELDS)
    return Key(
        name=name,
        digest=fields.required("sha256", _digest),
        created=fields.required("created", _moment),
        scopes=fields.required("scopes", _scopes),
        models=fields.optional("models", _models, EVERY),
        cloud=fields.optional("cloud", _globs, ()),
        tune=fields.optional("tune", _flag, False),
        rpm=fields.optional("rpm", _requests_per_minute, None),
        max_active=fields.optional("max_active", _active, None),
        weight=fields.optional("weight", _weight, 1.0),
        batch=fields.optional("class", _batch, False),
        expires=fields.optional("expires", _moment, None),
        revoked=fields.optional("revoked", _moment, None),
        previous=fields.optional("previous", _previous, ()),
    )


def keys_from(document: Table) -> tuple[Key, ...]:
    """Every key of a parsed file, in its order; raises InvalidKey."""
    if unknown := sorted(set(document) - {"keys"}):
        raise InvalidKey(f"unknown entry {_shown(unknown[0])}: keys are tables, [keys.NAME]")
    tables = document.get("keys", {})
    if not isinstance(tables, Mapping):
        raise InvalidKey("`keys` must hold one table for each key, [keys.NAME]")
    keys = tuple(from_table(name, table) for name, table in tables.items())
    _check_names_differ(keys)
    _check_secrets_differ(keys)
    return keys


_T = TypeVar("_T")


class _Wrong(ValueError):
    """A value that cannot be; the text continues a sentence that begins with the field."""


class _Fields:
    """One table's fields, taken out one by one; puts key and field before what a reader says."""

    def __init__(self, name: str, table: Table) -> None:
        self._name = name
        self._table = table

    def allow_only(self, known: Sequence[str]) -> None:
        if unknown := [field for field in self._table if field not in known]:
            raise InvalidKey(
                f"key {self._name}: unknown field {_shown(unknown[0])}; "
                f"the fields are {', '.join(known)}"
            )

    def required(self, field: str, read: Callable[[object], _T]) -> _T:
        if field not in self._table:
            raise InvalidKey(f"key {self._name}: the field {field} is missing")
        try:
            return read(self._table[field])
        except _Wrong as error:
            raise InvalidKey(f"key {self._name}: {field} {error}") from None

    def optional(self, field: str, read: Callable[[object], _T], default: _T) -> _T:
        return self.required(field, read) if field in self._table else default


# The readers: a value, or _Wrong with the rest of a sentence that begins with the field.


def _digest(value: object) -> str:
    # Not shown: whoever pastes a key where its digest belongs has a secret in this place.
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise _Wrong("must be a SHA-256 digest, 64 characters out of 0-9 a-f")
    return value


def _moment(value: object) -> datetime:
    """A date alone is its midnight; a time without a zone is UTC, as the file's head says."""
    if isinstance(value, date) and value.year in YEARS:
        clock = value if isinstance(value, datetime) else datetime.combine(value, time())
        return clock.astimezone(UTC) if clock.tzinfo else clock.replace(tzinfo=UTC)
    raise _Wrong(f"must be a time such as 2030-01-31T12:00:00Z, not {_shown(value)}")


def _scopes(value: object) -> frozenset[Scope]:
    texts = _texts(value)
    if not texts:
        raise _Wrong(f"must hold at least one of {', '.join(Scope)}")
    for text in texts:
        if text not in set(Scope):
            raise _Wrong(f"must hold only {', '.join(Scope)}, not {_shown(text)}")
    return frozenset(map(Scope, texts))


def _models(value: object) -> tuple[str, ...]:
    globs = _globs(value)
    if not globs:
        raise _Wrong('must hold at least one name or glob; ["*"] allows every model')
    return globs


def _globs(value: object) -> tuple[str, ...]:
    globs = _texts(value)
    for glob in globs:
        if len(glob) > MAX_GLOB or not glob.isprintable() or not _GLOB.fullmatch(glob):
            raise _Wrong(
                f"must hold model names, in which * and ? are wildcards, not {_shown(glob)}"
            )
    return globs


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Wrong(f"must be a list of texts, not {_shown(value)}")
    return tuple(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"must be true or false, not {_shown(value)}")
    return value


def _requests_per_minute(value: object) -> int:
    return _whole(value, most=MAX_REQUESTS_PER_MINUTE)


def _active(value: object) -> int:
    return _whole(value, most=MAX_ACTIVE)


def _whole(value: object, *, most: int) -> int:
    # True is an int to Python, and `rpm = true` a mistake to its owner.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _Wrong(f"must be a whole number from 1 to {most}, not {_shown(value)}")
    return value


def _weight(value: object) -> float:
    least, most = WEIGHTS
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _Wrong(f"must be a number from {least:g} to {most:g}, not {_shown(value)}")
    return float(value)


def _batch(value: object) -> bool:
    """The file says the class in a word, for a person to read."""
    if value not in CLASSES:
        raise _Wrong(f"must be {' or '.join(CLASSES)}, not {_shown(value)}")
    return value == BATCH


def _previous(value: object) -> tuple[OldSecret, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"must be a list of {{sha256, until}}, not {_shown(value)}")
    return tuple(_old_secret(item) for item in value)


def _old_secret(item: object) -> OldSecret:
    if not isinstance(item, Mapping) or set(item) != {"sha256", "until"}:
        raise _Wrong("must be a list of {sha256, until}")
    return OldSecret(_digest(item["sha256"]), _moment(item["until"]))


# What only all keys together show.


def _check_names_differ(keys: Sequence[Key]) -> None:
    seen: dict[str, str] = {}
    for key in keys:
        other = seen.setdefault(key.name.casefold(), key.name)
        if other != key.name:
            raise InvalidKey(f"keys {other} and {key.name}: names must differ in more than case")


def _check_secrets_differ(keys: Sequence[Key]) -> None:
    seen: dict[str, str] = {}
    for key in keys:
        for digest in (key.digest, *(old.digest for old in key.previous)):
            if digest in seen:
                raise InvalidKey(f"keys {seen[digest]} and {key.name}: sha256 is the same")
            seen[digest] = key.name


def _shown(value: object) -> str:
    """A value of the owner's own file, on one line and short; never called for a digest."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
