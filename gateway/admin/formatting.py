"""How numbers are told to people: pure."""

from datetime import UTC, datetime
from typing import Final

_SIZES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def size(size_bytes: int | None) -> str:
    """``4.7 GB``: in powers of a thousand, as `ollama list` writes it; a dash for None."""
    if size_bytes is None:
        return "-"
    for unit, name in _SIZES:
        if size_bytes >= unit:
            number = size_bytes / unit
            return f"{number:.1f} {name}" if number < 10 else f"{number:.0f} {name}"
    return f"{size_bytes} B"


def span(seconds: float) -> str:
    """``3 minutes``: whole units, rounded down, of the largest that there is one of."""
    for unit, name in _SPANS:
        if seconds >= unit:
            return count(int(seconds // unit), name)
    return "less than a second"


def took(seconds: float) -> str:
    """``40 ms``, ``1.2 s``, ``95 s``: how long something lasted."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


def limit(seconds: float) -> str:
    """``90 s``, ``10 min``: to the hundredth, in minutes from five on where they are whole."""
    if seconds >= 300 and seconds % 60 == 0:
        return f"{seconds / 60:.0f} min"
    return f"{round(seconds, 2):g} s"


def rate(per_second: float) -> str:
    """``4.8``, ``48``, ``1,200``: how many in a second."""
    return f"{per_second:.1f}" if per_second < 10 else f"{per_second:,.0f}"


def count(number: int, noun: str) -> str:
    """``1 call``, ``1,024 calls``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def iso(moment: datetime) -> str:
    """``2030-01-31T12:00:00Z``: RFC 3339 in UTC, of an aware time."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def since(moment: str, now: str) -> str:
    """``3 minutes ago``; both are times in ISO 8601 with a zone."""
    seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(moment)).total_seconds()
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def minute(moment: str) -> str:
    """``2030-01-31 12:00 UTC``, of a time in ISO 8601 in UTC."""
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def until(moment: str, now: str) -> str:
    """``in 3 days``; both are times in ISO 8601 with a zone."""
    seconds = (datetime.fromisoformat(moment) - datetime.fromisoformat(now)).total_seconds()
    return f"in {span(seconds)}" if seconds >= 1 else "now"
