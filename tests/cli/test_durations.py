import argparse
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.keys import duration, duration_or_time, time_after

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("2w", timedelta(weeks=2)),
        ("0", timedelta()),
        ("0d", timedelta()),
        ("36525d", timedelta(days=36525)),
    ],
)
def test_a_duration(text: str, expected: timedelta) -> None:
    """A number and its unit; 0 needs none."""
    assert duration(text) == expected
    assert duration_or_time(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "d", "90", "90 d", "-1d", "1.5h", "1y", "1D", "36526d", "9999999w", "\u0661d", "1d1h"],
)
def test_a_wrong_duration_is_refused(text: str) -> None:
    """With examples, and never an overflow."""
    with pytest.raises(argparse.ArgumentTypeError, match="must be a duration such as"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2030-12-31", datetime(2030, 12, 31, tzinfo=UTC)),
        ("2030-12-31T18:30", datetime(2030, 12, 31, 18, 30, tzinfo=UTC)),
        ("2030-12-31T18:30Z", datetime(2030, 12, 31, 18, 30, tzinfo=UTC)),
        (
            "2030-12-31T18:30+02:00",
            datetime(2030, 12, 31, 18, 30, tzinfo=timezone(timedelta(hours=2))),
        ),
    ],
)
def test_a_point_in_time(text: str, expected: datetime) -> None:
    """UTC by default; a date is its midnight."""
    assert duration_or_time(text) == expected


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """A point in time always has a zone."""
    try:
        found = duration_or_time(text)
    except argparse.ArgumentTypeError:
        return
    assert isinstance(found, timedelta) or found.tzinfo is not None


def test_time_after() -> None:
    """A duration counts from now; a point in time and None stay unchanged."""
    assert time_after(NOW, timedelta(days=1)) == datetime(2030, 2, 1, 12, tzinfo=UTC)
    assert time_after(NOW, NOW) == NOW
    assert time_after(NOW, None) is None
