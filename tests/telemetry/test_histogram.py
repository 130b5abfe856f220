import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from gateway.telemetry.histogram import Histogram

BUCKETS = (0.005, 0.1, 1, 30)
TIMES = st.one_of(st.sampled_from(BUCKETS), st.floats(0.0, 100.0))


def lines(registry: CollectorRegistry) -> list[str]:
    page = generate_latest(registry).decode()
    return [line for line in page.splitlines() if "_created" not in line]


@given(st.lists(TIMES, max_size=30))
def test_it_shows_what_the_usual_one_shows(times: list[float]) -> None:
    """Bounds belong to the bucket below them, and each bucket counts those below it, too."""
    ours, usual = CollectorRegistry(), CollectorRegistry()
    quick = Histogram("a_seconds", "Of something.", BUCKETS, ours)
    slow = prometheus_client.Histogram(
        "a_seconds", "Of something.", buckets=BUCKETS, registry=usual
    )
    for time in times:
        quick.observe(time)
        slow.observe(time)

    assert lines(usual) == lines(ours)


def test_repr() -> None:
    """Its name and how much it has seen."""
    histogram = Histogram("a_seconds", "Of something.", BUCKETS, CollectorRegistry())
    histogram.observe(31.0)

    assert repr(histogram) == "<Histogram a_seconds, 1 observations>"
