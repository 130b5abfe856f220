"""Keys as text for a terminal and as JSON; neither shows a digest."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from gateway.auth.keys import Key, State
from gateway.auth.principal import Scope

_HEADINGS: Final = ("NAME", "SCOPES", "MODELS", "LIMITS", "CREATED", "STATE")
_GAP: Final = "  "


class Permissions(Protocol):
    """What a key and a wish for one have in common."""

    @property
    def scopes(self) -> frozenset[Scope]: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def cloud(self) -> tuple[str, ...]: ...
    @property
    def tune(self) -> bool: ...
    @property
    def rpm(self) -> int | None: ...
    @property
    def max_active(self) -> int | None: ...
    @property
    def weight(self) -> float: ...
    @property
    def batch(self) -> bool: ...


def table(keys: Sequence[Key], now: datetime) -> str:
    """One line for each key below a line of headings."""
    rows = [_HEADINGS, *(_row(key, now) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def record(key: Key, now: datetime) -> dict[str, object]:
    """The key for JSON; times are ISO 8601 in UTC, ``overlap_until`` is the old secret's end."""
    return {
        "name": key.name,
        "state": key.state(now).value,
        "scopes": scope_names(key),
        "models": list(key.models),
        "cloud": list(key.cloud),
        "tune": key.tune,
        "rpm": key.rpm,
        "max_active": key.max_active,
        "weight": key.weight,
        "class": "batch" if key.batch else "interactive",
        "created": _iso(key.created),
        "expires": _iso(key.expires),
        "revoked": _iso(key.revoked),
        "overlap_until": _iso(key.overlap_end(now)),
    }


def scope_names(key: Permissions) -> list[str]:
    return [scope.value for scope in Scope if scope in key.scopes]


def limits(key: Permissions) -> str:
    """What narrows or widens the key, in words; empty if nothing does."""
    return ", ".join(_limits(key))


def minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _limits(key: Permissions) -> Iterator[str]:
    if key.rpm is not None:
        yield f"{key.rpm} per minute"
    if key.max_active is not None:
        yield f"{key.max_active} at once"
    if key.tune:
        yield "may tune"
    if key.cloud:
        yield f"cloud {' '.join(key.cloud)}"
    if key.weight != 1.0:
        yield f"weight {key.weight:g}"
    if key.batch:
        yield "batch"


def _row(key: Key, now: datetime) -> tuple[str, ...]:
    return (
        key.name,
        ",".join(scope_names(key)),
        " ".join(key.models),
        limits(key) or "-",
        f"{key.created:%Y-%m-%d}",
        _state(key, now),
    )


def _state(key: Key, now: datetime) -> str:
    state = key.state(now)
    if state is State.REVOKED and key.revoked is not None:
        return f"revoked {minute(key.revoked)}"
    if state is State.EXPIRED and key.expires is not None:
        return f"expired {minute(key.expires)}"
    overlap = key.overlap_end(now)
    expires = f", expires {minute(key.expires)}" if key.expires is not None else ""
    return f"active{expires}{'' if overlap is None else f', old one until {minute(overlap)}'}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
