from datetime import datetime, timedelta, timezone

import pytest

from gateway.admin import formatting as wording

NOON = "2030-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (274_302_450, "274 MB"),
        (4_683_087_561, "4.7 GB"),
        (42_520_413_916, "43 GB"),
        (1_400_000_000_000, "1.4 TB"),
    ],
)
def test_sizes_are_told_as_ollama_does(size: int | None, said: str) -> None:
    """In powers of a thousand, with a decimal only below ten."""
    assert wording.size(size) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "less than a second"),
        (1.9, "1 second"),
        (59.9, "59 seconds"),
        (60.0, "1 minute"),
        (7_199.0, "1 hour"),
        (172_800.0, "2 days"),
    ],
)
def test_spans_are_told_in_their_largest_unit(seconds: float, said: str) -> None:
    """Rounded down: an age is never said to be more than it is."""
    assert wording.span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.5, "0.5 s"),
        (73.4182, "73.42 s"),
        (90.0, "90 s"),
        (120.0, "120 s"),
        (300.0, "5 min"),
        (301.0, "301 s"),
    ],
)
def test_limits_are_told_exactly(seconds: float, said: str) -> None:
    """What cuts an answer off is not rounded, but for what nobody could notice."""
    assert wording.limit(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 ms"), (0.0404, "40 ms"), (1.24, "1.2 s"), (95.2, "95 s"), (1_800.0, "1,800 s")],
)
def test_durations_are_told_with_two_digits_or_so(seconds: float, said: str) -> None:
    """A glance is enough."""
    assert wording.took(seconds) == said


@pytest.mark.parametrize(
    ("rate", "said"), [(0.04, "0.0"), (4.76, "4.8"), (48.4, "48"), (1_200.0, "1,200")]
)
def test_rates_are_told_with_two_digits_or_so(rate: float, said: str) -> None:
    """Nobody learns them more exactly."""
    assert wording.rate(rate) == said


def test_times_of_day_are_in_utc() -> None:
    """Wherever they come from."""
    east = datetime(2030, 1, 31, 13, 0, tzinfo=timezone(timedelta(hours=1)))

    assert wording.iso(east) == NOON


def test_moments_are_told_from_now() -> None:
    """Past ones and coming ones."""
    assert wording.since("2030-01-31T11:57:00+00:00", NOON) == "3 minutes ago"
    assert wording.since(NOON, NOON) == "just now"
    assert wording.since("2030-01-31T12:00:05Z", NOON) == "just now"
    assert wording.until("2030-02-03T12:00:00Z", NOON) == "in 3 days"
    assert wording.until("2030-01-31T11:00:00Z", NOON) == "now"
    assert wording.minute(NOON) == "2030-01-31 12:00 UTC"


def test_counts_agree_with_their_noun() -> None:
    """One call, two calls."""
    said = [wording.count(number, "call") for number in (0, 1, 1024)]

    assert said == ["0 calls", "1 call", "1,024 calls"]
