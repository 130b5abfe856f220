"""Spans and moments as a person types them, for argparse: errors are ArgumentTypeError."""

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Final

LONGEST: Final = timedelta(days=36_525)
"""A hundred years."""

_SPAN: Final = re.compile(r"(?P<number>[0-9]{1,7})(?P<unit>[mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def span(text: str) -> timedelta:
    """``90d``, ``12h``, ``30m``, ``2w``; ``0`` is none."""
    if text == "0":
        return timedelta()
    found = _SPAN.fullmatch(text)
    number, unit = (int(found["number"]), _UNITS[found["unit"]]) if found else (0, timedelta())
    if found is None or number * unit > LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a span such as 30m, 12h, 90d or 2w, at most 100 years"
        )
    return number * unit


def span_or_moment(text: str) -> timedelta | datetime:
    """A span, or a date or time in ISO 8601; without a zone it is UTC, a date its midnight."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    try:
        return span(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a span such as 12h or 90d, or a date such as 2030-01-31"
        ) from None


def moment_after(now: datetime, end: timedelta | datetime | None) -> datetime | None:
    """The end as a moment; None stays None."""
    return now + end if isinstance(end, timedelta) else end
