"""The timeouts of one request: what the client declares, and which timeouts result from it."""

import itertools
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimate import Estimate
from gateway.settings import ModelRule, TimeoutsSettings
from gateway.timeouts import (
    ClientTimeout,
    Deadlines,
    MeasuredTimes,
    deadlines_for,
    declared_client_timeout,
    model_timeout,
    rule_for,
)

SETTINGS = TimeoutsSettings()
FLOOR_10 = TimeoutsSettings(adaptive_floor=10.0)

SLOW = MeasuredTimes(
    load=Estimate(60.0, 5.0, 6),
    first_byte=Estimate(40.0, 5.0, 20),
    service=Estimate(140.0, 12.0, 37),
)
QUICK = MeasuredTimes(
    load=Estimate(4.0, 0.5, 6), first_byte=Estimate(1.0, 0.25, 20), service=Estimate(5.0, 1.0, 37)
)


def deadlines(
    measured: MeasuredTimes | None = None,
    *,
    rule: ModelRule | None = None,
    settings: TimeoutsSettings = SETTINGS,
    parameters: float | None = 8.0,
    size_bytes: int | None = None,
    streaming: bool = False,
    loaded: bool = False,
    **client: Any,
) -> Deadlines:
    """Of an 8B model, which has 120 s by its size."""
    found = deadlines_for(
        settings,
        rule,
        parameters=parameters,
        size_bytes=size_bytes,
        streaming=streaming,
        measured=measured,
        **client,
    )
    return found.when_loaded() if loaded else found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300", 300.0),
        ("600.0", 600.0),
        ("1", 1.0),
        ("86400", 86_400.0),
        ("299.99999999999994", 299.99999999999994),
    ],
)
def test_client_timeout_is_a_plain_decimal_number(text: str, seconds: float) -> None:
    """The SDK's number is read as seconds, restarted by each read."""
    assert declared_client_timeout({"x-stainless-read-timeout": text}) == ClientTimeout(
        seconds, per_read=True
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.999",
        "86400.1",
        "99999",
        "-5",
        "+5",
        "inf",
        "nan",
        "NaN",
        "1e5",
        "1e2",
        "0x10",
        "1_000",
        "5,0",
        "5.",
        ".5",
        " 5",
        "5\n",
        "five",
        "\u0665",
        "9" * 100_000,
        "5." + "0" * 100_000,
    ],
)
def test_any_other_text_is_no_client_timeout(text: str) -> None:
    """Anything but a plain decimal number from 1 to 86,400 counts as absent."""
    assert declared_client_timeout({"x-stainless-read-timeout": text}) is None


def test_without_the_headers_there_is_no_client_timeout() -> None:
    """Other headers of the SDK do not count."""
    assert declared_client_timeout({"x-stainless-retry-count": "0"}) is None


@given(st.text())
def test_client_timeout_is_always_in_range(text: str) -> None:
    """Whatever the header contains, the result can be waited for."""
    client_timeout = declared_client_timeout({"x-stainless-read-timeout": text})

    assert client_timeout is None or 1.0 <= client_timeout.seconds <= 86_400.0


@pytest.mark.parametrize(
    ("headers", "client_timeout"),
    [
        ({"x-request-timeout": "45"}, ClientTimeout(45.0, per_read=False)),
        (
            {"x-stainless-read-timeout": "600", "x-request-timeout": "45"},
            ClientTimeout(600.0, per_read=True),
        ),
        (
            {"x-stainless-read-timeout": "never", "x-request-timeout": "45"},
            ClientTimeout(45.0, per_read=False),
        ),
        (
            {"x-stainless-read-timeout": "600", "x-request-timeout": "never"},
            ClientTimeout(600.0, per_read=True),
        ),
        ({"x-request-timeout": "inf"}, None),
    ],
)
def test_x_request_timeout_counts_where_the_sdk_header_does_not(
    headers: dict[str, str], client_timeout: ClientTimeout | None
) -> None:
    """It is for the full response, so no byte restarts it."""
    assert declared_client_timeout(headers) == client_timeout


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        (0.000152, 60.0),
        (0.49403, 60.0),
        (1.5, 60.0),
        (1.51, 90.0),
        (4.0, 90.0),
        (7.6, 120.0),
        (9.0, 120.0),
        (14.8, 180.0),
        (32.8, 300.0),
        (56.0, 600.0),
        (70.6, 600.0),
        (72.0, 600.0),
        (405.0, 1800.0),
    ],
)
def test_larger_models_have_more_time(parameters: float, seconds: float) -> None:
    """In the steps that the clients' own tables have."""
    assert seconds == model_timeout(parameters, None).seconds


@pytest.mark.parametrize(
    ("size_bytes", "seconds"),
    [(815_319_791, 60.0), (4_900_000_000, 120.0), (42_520_413_916, 600.0), (None, 300.0)],
)
def test_size_on_disk_counts_where_the_parameters_are_unknown(
    size_bytes: int | None, seconds: float
) -> None:
    """At 0.6 bytes per parameter; with neither, 300 s."""
    assert seconds == model_timeout(None, size_bytes).seconds


def test_parameters_count_before_the_size_on_disk() -> None:
    """The size on disk is used only without them."""
    assert model_timeout(1.2, 42_000_000_000).seconds == 60.0


@pytest.mark.parametrize(("parameters", "size_bytes"), [(0.0, 0), (-1.0, -1), (math.nan, None)])
def test_impossible_sizes_count_as_unknown(parameters: float, size_bytes: int | None) -> None:
    """Numbers that no model has."""
    assert model_timeout(parameters, size_bytes).seconds == 300.0


def test_model_timeout_never_falls_with_size() -> None:
    """No larger model has less time than a smaller one."""
    timeouts = [model_timeout(n / 10, None).seconds for n in range(1, 1000)]

    assert all(smaller <= larger for smaller, larger in itertools.pairwise(timeouts))


def test_defaults_of_a_complete_response() -> None:
    """Its first byte comes with its last, so all depends on the model's time."""
    found = deadlines()

    assert (found.queue, found.connect, found.write) == (300.0, 5.0, 30.0)
    assert (found.first_byte, found.idle, found.total) == (120.0, 120.0, 120.0)


def test_defaults_of_a_stream() -> None:
    """It has the model's time between bytes and half an hour in total."""
    found = deadlines(streaming=True)

    assert (found.queue, found.connect, found.write) == (300.0, 5.0, 30.0)
    assert (found.first_byte, found.idle, found.total) == (120.0, 120.0, 1800.0)


def test_client_timeout_raises_timeouts() -> None:
    """A client that waits 300 s for an 8B model is not aborted after 120 s."""
    assert deadlines(client_timeout=300.0).total == 300.0
    assert deadlines(client_timeout=300.0, streaming=True).first_byte == 300.0


def test_client_timeout_does_not_lower_timeouts() -> None:
    """A client with a shorter timeout does not shorten the model's time."""
    assert deadlines(client_timeout=10.0).total == 120.0


def test_ceiling_bounds_the_client_timeout() -> None:
    """No client can occupy a slot for a day by declaring so."""
    assert deadlines(client_timeout=86_400.0).total == 1800.0


def test_ceiling_does_not_lower_the_time_by_size() -> None:
    """It bounds what a client adds, not what a large model needs."""
    timeout = deadlines(
        parameters=405.0, client_timeout=900.0, settings=TimeoutsSettings(ceiling=600.0)
    )

    assert timeout.total == 1800.0


@pytest.mark.parametrize(
    ("client_timeout", "seconds"), [(None, 300.0), (60.0, 60.0), (300.0, 300.0), (900.0, 300.0)]
)
def test_queue_timeout_is_at_most_the_client_timeout(
    client_timeout: float | None, seconds: float
) -> None:
    """A request waits as long as allowed, and never past its client's timeout."""
    assert seconds == deadlines(client_timeout=client_timeout).queue


def test_total_timeout_in_settings_is_final() -> None:
    """Neither the client nor the model's size raises it; streams have their own."""
    own = TimeoutsSettings(total_timeout=45.0)

    assert deadlines(parameters=70.0, client_timeout=600.0, settings=own).total == 45.0
    assert deadlines(settings=own).first_byte == 45.0
    assert deadlines(settings=own, streaming=True).total == 1800.0


def test_stream_timeouts_in_settings_are_final() -> None:
    """Without an idle timeout, the one for the first byte is used."""
    own = TimeoutsSettings(first_byte_timeout=20.0)
    both = TimeoutsSettings(first_byte_timeout=20.0, idle_timeout=7.0)

    stream = deadlines(client_timeout=600.0, settings=own, streaming=True)
    assert (stream.first_byte, stream.idle) == (20.0, 20.0)
    assert deadlines(settings=both, streaming=True).idle == 7.0


def test_model_rule_beats_settings_size_and_client() -> None:
    """Streaming or not."""
    rule = ModelRule(match="llama*", total_timeout=33.0, first_byte_timeout=11.0)
    own = TimeoutsSettings(total_timeout=45.0, first_byte_timeout=20.0)

    whole = deadlines(rule=rule, client_timeout=600.0, settings=own)
    stream = deadlines(rule=rule, client_timeout=600.0, settings=own, streaming=True)

    assert (whole.first_byte, whole.total) == (33.0, 33.0)
    assert (
        stream.first_byte,
        stream.idle,
        stream.total,
    ) == (11.0, 11.0, 33.0)


@pytest.mark.parametrize("client_timeout", [None, 5.0, 600.0])
def test_extended_deadline_lasts_up_to_the_ceiling(client_timeout: float | None) -> None:
    """Heartbeats restart the client's timeout, so slow is not too late."""
    found = deadlines(client_timeout=client_timeout, extended=True)

    assert (found.queue, found.total) == (300.0, 1800.0)
    assert (found.first_byte, found.idle) == (1800.0, max(client_timeout or 0, 120.0))
    assert found.reasons.total.startswith("timeouts.ceiling")


def test_extended_stream_must_still_begin_in_time() -> None:
    """Its first byte tells a hung runner from a slow one."""
    found = deadlines(client_timeout=5.0, streaming=True, extended=True)

    assert (found.queue, found.first_byte) == (300.0, 120.0)


def test_settings_are_final_for_extended_deadlines() -> None:
    """In a model rule and in the table."""
    rule = deadlines(rule=ModelRule(match="*", total_timeout=40.0), extended=True)
    table = deadlines(settings=TimeoutsSettings(total_timeout=50.0), extended=True)

    assert (rule.total, table.total) == (40.0, 50.0)


def test_slow_machine_has_more_time() -> None:
    """Load and response, and four deviations of both: 200 s + 4 x 17 s, and 100 s + 4 x 10 s."""
    assert deadlines(SLOW).total == 268.0
    assert deadlines(SLOW, streaming=True).first_byte == 140.0


def test_quick_machine_keeps_the_time_by_size() -> None:
    """Statistics do not lower a timeout unless the settings say so."""
    assert deadlines(QUICK) == deadlines()
    assert deadlines(QUICK, streaming=True).first_byte == 120.0


def test_adaptive_floor_lets_timeouts_fall() -> None:
    """9 s + 4 x 1.5 s and 5 s + 4 x 0.75 s: the second is below the floor."""
    assert deadlines(QUICK, settings=FLOOR_10).total == 15.0
    assert deadlines(QUICK, settings=FLOOR_10, streaming=True).first_byte == 10.0


def test_adaptive_floor_needs_measured_loads() -> None:
    """The next request may have to load the model."""
    unloaded = msgspec.structs.replace(QUICK, load=Estimate(4.0, 0.5, 4))

    assert deadlines(unloaded, settings=FLOOR_10).total == 120.0


@pytest.mark.parametrize(("count", "seconds"), [(4, 120.0), (5, 188.0)])
def test_five_observations_are_needed(count: int, seconds: float) -> None:
    """Fewer say too little."""
    times = MeasuredTimes(service=Estimate(140.0, 12.0, count))

    assert deadlines(times).total == seconds


def test_loads_that_all_timed_out_raise_the_timeout() -> None:
    """A model that never completed a response gets more time all the same."""
    assert deadlines(MeasuredTimes(load=Estimate(120.0, 60.0, 5))).total == 360.0


def test_ceiling_bounds_statistics() -> None:
    """It does not lower what a model has by its size."""
    low = TimeoutsSettings(ceiling=150.0)

    assert deadlines(SLOW, settings=low).total == 150.0
    assert deadlines(SLOW, settings=low, parameters=70.0).total == 600.0


def test_loaded_model_has_half_the_time_for_its_first_byte() -> None:
    """There is no load to wait for, so a runner that hangs is found early."""
    assert deadlines(QUICK, streaming=True, loaded=True).first_byte == 60.0


def test_loaded_slow_model_has_its_measured_time() -> None:
    """40 s + 4 x 7 s is more than half of 120 s, and less than with the load."""
    slow = msgspec.structs.replace(SLOW, first_byte=Estimate(40.0, 7.0, 20))

    assert deadlines(slow, streaming=True, loaded=True).first_byte == 68.0


def test_loaded_model_without_statistics_keeps_its_time() -> None:
    """Half of the time by size would be a guess without support."""
    unknown = msgspec.structs.replace(QUICK, first_byte=Estimate(1.0, 0.25, 4))

    assert deadlines(streaming=True, loaded=True) == deadlines(streaming=True)
    assert deadlines(unknown, streaming=True, loaded=True) == deadlines(unknown, streaming=True)


def test_adaptive_floor_counts_for_loaded_models() -> None:
    """It replaces half of the time by size."""
    stream = deadlines(QUICK, streaming=True, loaded=True, settings=FLOOR_10)

    assert stream.first_byte == 10.0


def test_only_the_first_byte_of_a_stream_is_due_earlier() -> None:
    """Silence may be a tool call; the first byte of a complete response is its last."""
    stream = deadlines(QUICK, streaming=True, loaded=True)

    assert (stream.idle, stream.total) == (120.0, 1800.0)
    assert deadlines(QUICK, loaded=True) == deadlines(QUICK)


def test_idle_timeout_keeps_the_time_by_size() -> None:
    """The floor is for statistics, and there are none of silences."""
    assert deadlines(QUICK, streaming=True, settings=FLOOR_10).idle == 120.0
    assert deadlines(SLOW, streaming=True).idle == 140.0


def test_client_timeout_counts_for_loaded_models() -> None:
    """A client that waits 300 s is not aborted after 60 s."""
    stream = deadlines(QUICK, streaming=True, loaded=True, client_timeout=300.0)

    assert stream.first_byte == 300.0
    assert deadlines(QUICK, settings=FLOOR_10, client_timeout=30.0).total == 30.0


def test_statistics_do_not_change_what_is_set() -> None:
    """Neither for one model nor for all."""
    rule = ModelRule(match="llama*", total_timeout=33.0, first_byte_timeout=11.0)
    own = TimeoutsSettings(first_byte_timeout=20.0, total_timeout=45.0)

    stream = deadlines(SLOW, rule=rule, streaming=True, loaded=True)
    assert (stream.first_byte, stream.total) == (11.0, 33.0)
    assert deadlines(SLOW, rule=rule).total == 33.0
    assert deadlines(SLOW, settings=own).total == 45.0
    assert deadlines(SLOW, settings=own, streaming=True, loaded=True).first_byte == 20.0


ESTIMATES = st.builds(Estimate, st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.integers(0, 10))
TIMES = st.builds(MeasuredTimes, load=ESTIMATES, first_byte=ESTIMATES, service=ESTIMATES)
CEILINGS = st.floats(1.0, 4000.0)
CLIENT_TIMEOUTS = st.one_of(st.none(), st.floats(1.0, 86_400.0))


@given(TIMES, CEILINGS, CLIENT_TIMEOUTS, st.floats(0.1, 500.0), st.booleans())
def test_measured_timeouts_stay_within_bounds(
    times: MeasuredTimes,
    ceiling: float,
    client_timeout: float | None,
    billions: float,
    streaming: bool,
) -> None:
    """At least the time by size and the client's; above the ceiling only by size."""
    settings = TimeoutsSettings(ceiling=ceiling)
    by_size = model_timeout(billions, None).seconds
    found = deadlines(
        times,
        settings=settings,
        client_timeout=client_timeout,
        parameters=billions,
        streaming=streaming,
    )

    promised = min(client_timeout or 0.0, ceiling)
    assert max(by_size, promised) <= found.first_byte <= max(by_size, ceiling)
    assert found.idle == found.first_byte
    assert streaming or found.total == found.first_byte


@given(TIMES, CEILINGS, CLIENT_TIMEOUTS, st.one_of(st.none(), st.floats(1.0, 600.0)))
def test_loaded_model_never_has_more_time(
    times: MeasuredTimes, ceiling: float, client_timeout: float | None, floor: float | None
) -> None:
    """Without a load; half of the time by size, or the floor, is the minimum."""
    settings = TimeoutsSettings(ceiling=ceiling, adaptive_floor=floor)
    cold = deadlines(times, settings=settings, client_timeout=client_timeout, streaming=True)
    warm = deadlines(
        times, settings=settings, client_timeout=client_timeout, streaming=True, loaded=True
    )

    lowest = min(60.0 if floor is None else floor, cold.first_byte)
    promised = min(client_timeout or 0.0, ceiling)
    assert max(lowest, promised) <= warm.first_byte <= cold.first_byte
    assert (warm.idle, warm.total) == (cold.idle, cold.total)


@pytest.mark.parametrize(
    ("parameters", "size_bytes", "why"),
    [
        (8.2, None, "8.2B parameters"),
        (0.49403, None, "494.03M parameters"),
        (None, 4_900_000_000, "4.9 GB on disk"),
        (None, None, "its size is unknown"),
    ],
)
def test_reason_by_size(parameters: float | None, size_bytes: int | None, why: str) -> None:
    """It names the number that chose the step."""
    assert deadlines(parameters=parameters, size_bytes=size_bytes).reasons.total == why


def test_reason_by_statistics() -> None:
    """It names the estimate and the number of observations."""
    low = TimeoutsSettings(ceiling=150.0)

    assert deadlines(SLOW).reasons.total == "learned: 200 s + 4 x 17 s over 37 responses"
    assert deadlines(SLOW, settings=low).reasons.total == (
        "learned: 200 s + 4 x 17 s over 37 responses, up to timeouts.ceiling"
    )
    assert deadlines(QUICK).reasons.total == "8B parameters"
    assert (
        deadlines(QUICK, settings=FLOOR_10, streaming=True).reasons.first_byte
        == "timeouts.adaptive_floor"
    )


def test_reason_for_a_loaded_model() -> None:
    """It says that no load is waited for."""
    slow = msgspec.structs.replace(SLOW, first_byte=Estimate(40.0, 7.0, 20))

    quick_stream = deadlines(QUICK, streaming=True, loaded=True).reasons
    assert quick_stream.first_byte == "loaded: half of 120 s for 8B parameters"
    assert quick_stream.idle == "8B parameters"
    assert deadlines(slow, streaming=True, loaded=True).reasons.first_byte == (
        "loaded, learned: 40 s + 4 x 7 s over 20 responses"
    )


def test_reason_by_client_timeout() -> None:
    """It says what limited it."""
    assert deadlines(client_timeout=300.0).reasons.total == "the client's timeout"
    assert (
        deadlines(client_timeout=9000.0).reasons.total
        == "the client's timeout, up to timeouts.ceiling"
    )
    assert deadlines(client_timeout=100.0).reasons.total == "8B parameters"


def test_reason_by_settings() -> None:
    """It names the line of the file."""
    rule = ModelRule(match="llama*", first_byte_timeout=11.0)
    own = TimeoutsSettings(idle_timeout=7.0, total_timeout=45.0)

    stream = deadlines(rule=rule, streaming=True, settings=own).reasons
    assert stream.first_byte == '[[models]] match = "llama*"'
    assert (stream.idle, stream.total) == ("timeouts.idle_timeout", "timeouts.stream_total_timeout")
    assert deadlines(settings=own).reasons.total == "timeouts.total_timeout"


# Rules for models.


@pytest.mark.parametrize(
    ("match", "model", "matches"),
    [
        ("llama3.2", "llama3.2:latest", True),
        ("llama3.2:latest", "llama3.2", True),
        ("llama3.2", "llama3.2:1b", False),
        ("LLAMA3.2", "llama3.2:latest", True),
        ("llama3.2", "LLaMA3.2:Latest", True),
        ("llama3.2*", "llama3.2:1b", True),
        ("*:1b", "llama3.2:1b", True),
        ("hf.co/*", "hf.co/some/model:Q4_K_M", True),
        ("host:5000/a/b", "host:5000/a/b:latest", True),
    ],
)
def test_model_rule_matches_by_glob(match: str, model: str, matches: bool) -> None:
    """In any case; a name without a tag is its latest."""
    rule = ModelRule(match=match)

    assert rule_for(model, [rule]) is (rule if matches else None)


def test_first_matching_model_rule_counts() -> None:
    """In the order in which they are written, and as it is."""
    rules = [ModelRule(match=match) for match in ("qwen*", "llama3.1:*", "*")]

    assert rule_for("llama3.1:8b", rules) is rules[1]
    assert rule_for("tiny:latest", rules) is rules[2]
    assert rule_for("tiny:latest", rules[:2]) is None
