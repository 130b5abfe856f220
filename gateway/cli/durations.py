"""Durations and points in time on the command line: argparse types."""

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Final

LONGEST: Final = timedelta(days=36_525)
"""A hundred years."""

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,7})(?P<unit>[mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def duration(text: str) -> timedelta:
    """Parse ``90d``, ``12h``, ``30m``, ``2w`` or ``0``."""
    if text == "0":
        return timedelta()
    found = _DURATION.fullmatch(text)
    number, unit = (int(found["number"]), _UNITS[found["unit"]]) if found else (0, timedelta())
    if found is None or number * unit > LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a duration such as 30m, 12h, 90d or 2w, at most 100 years"
        )
    return number * unit


def duration_or_time(text: str) -> timedelta | datetime:
    """Parse a duration, or an ISO 8601 date or time: the default zone is UTC."""
    try:
        point = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return point if point.tzinfo is not None else point.replace(tzinfo=UTC)
    try:
        return duration(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a duration such as 12h or 90d, or a date such as 2030-01-31"
        ) from None


def time_after(now: datetime, end: timedelta | datetime | None) -> datetime | None:
    """Return the end as a point in time; None stays None."""
    return now + end if isinstance(end, timedelta) else end
