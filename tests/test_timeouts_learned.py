import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimate import Estimate
from gateway.timeouts import (
    LearnedTimes,
    ModelOverride,
    RequestTimeouts,
    TimeoutSettings,
    model_timeout,
    timeouts_for,
)

SETTINGS = TimeoutSettings(
    queue_timeout=300.0,
    connect_timeout=5.0,
    first_byte_timeout=None,
    idle_timeout=None,
    total_timeout=None,
    stream_total_timeout=1800.0,
    ceiling=1800.0,
    write_timeout=30.0,
)
FLOOR_10 = dataclasses.replace(SETTINGS, learned_floor=10.0)

SLOW = LearnedTimes(
    load=Estimate(60.0, 5.0, 6), first_byte=Estimate(40.0, 5.0, 20), total=Estimate(140.0, 12.0, 37)
)
QUICK = LearnedTimes(
    load=Estimate(4.0, 0.5, 6), first_byte=Estimate(1.0, 0.25, 20), total=Estimate(5.0, 1.0, 37)
)


def timeouts(
    statistics: LearnedTimes | None = None,
    *overrides: ModelOverride,
    resident: bool = False,
    streaming: bool = False,
    client_timeout: float | None = None,
    settings: TimeoutSettings = SETTINGS,
    parameters: float | None = 8.0,
    size_bytes: int | None = None,
) -> RequestTimeouts:
    """Of an 8B model, which has 120 s by its size."""
    return timeouts_for(
        model="llama3.1:8b",
        parameters=parameters,
        size_bytes=size_bytes,
        streaming=streaming,
        client_timeout=client_timeout,
        settings=settings,
        overrides=overrides,
        statistics=statistics,
        resident=resident,
    )


def test_a_slow_machine_has_more_time() -> None:
    """Load and answer, and four deviations of both: 200 s + 4 x 17 s, and 100 s + 4 x 10 s."""
    assert timeouts(SLOW).total_timeout == 268.0
    assert timeouts(SLOW, streaming=True).first_byte_timeout == 140.0


def test_a_quick_machine_keeps_the_time_by_size() -> None:
    """What was learned does not lower a clock unless the owner says so."""
    assert timeouts(QUICK) == timeouts()
    assert timeouts(QUICK, streaming=True) == timeouts(streaming=True)


def test_the_owners_floor_lets_clocks_fall() -> None:
    """9 s + 4 x 1.5 s and 5 s + 4 x 0.75 s: the second is below the floor."""
    assert timeouts(QUICK, settings=FLOOR_10).total_timeout == 15.0
    assert timeouts(QUICK, settings=FLOOR_10, streaming=True).first_byte_timeout == 10.0


def test_the_owners_floor_waits_for_loads() -> None:
    """A model whose load was hardly seen keeps its time: the next load may take it."""
    unloaded = msgspec.structs.replace(QUICK, load=Estimate(4.0, 0.5, 4))

    assert timeouts(unloaded, settings=FLOOR_10).total_timeout == 120.0


@pytest.mark.parametrize(("count", "seconds"), [(4, 120.0), (5, 188.0)])
def test_it_takes_five_answers(count: int, seconds: float) -> None:
    """Fewer say too little, of a slow machine as of a quick one."""
    times = LearnedTimes(total=Estimate(140.0, 12.0, count))

    assert timeouts(times).total_timeout == seconds


def test_loads_that_were_all_cut_are_enough() -> None:
    """A model that never got as far as an answer gets more time all the same."""
    assert timeouts(LearnedTimes(load=Estimate(120.0, 60.0, 5))).total_timeout == 360.0


def test_the_ceiling_bounds_what_was_learned() -> None:
    """However slow the machine is; and it does not lower what a model has by its size."""
    low = dataclasses.replace(SETTINGS, ceiling=150.0)

    assert timeouts(SLOW, settings=low).total_timeout == 150.0
    assert timeouts(SLOW, settings=low, parameters=70.0).total_timeout == 600.0


def test_a_loaded_model_has_half_the_time_for_its_first_byte() -> None:
    """No load to wait for, so a runner that hangs is found early."""
    assert timeouts(QUICK, streaming=True, resident=True).first_byte_timeout == 60.0


def test_a_loaded_slow_model_has_what_it_takes() -> None:
    """40 s + 4 x 7 s is more than half of 120 s, and less than with the load."""
    slow = msgspec.structs.replace(SLOW, first_byte=Estimate(40.0, 7.0, 20))

    assert timeouts(slow, streaming=True, resident=True).first_byte_timeout == 68.0


def test_a_loaded_model_of_which_nothing_is_known() -> None:
    """Half of the time by size is a guess that nothing supports yet: nothing changes."""
    unknown = msgspec.structs.replace(QUICK, first_byte=Estimate(1.0, 0.25, 4))

    assert timeouts(streaming=True, resident=True) == timeouts(streaming=True)
    assert timeouts(unknown, streaming=True, resident=True) == timeouts(unknown, streaming=True)


def test_the_owners_floor_holds_for_loaded_models() -> None:
    """It takes the place of half the time by size."""
    stream = timeouts(QUICK, streaming=True, resident=True, settings=FLOOR_10)

    assert stream.first_byte_timeout == 10.0


def test_only_the_first_byte_of_a_stream_is_hurried() -> None:
    """Silence within a stream may be a tool call, and a whole answer's first byte is its last."""
    stream = timeouts(QUICK, streaming=True, resident=True)

    assert (stream.idle_timeout, stream.total_timeout) == (120.0, 1800.0)
    assert timeouts(QUICK, resident=True) == timeouts(QUICK)


def test_silence_within_a_stream_keeps_the_time_by_size() -> None:
    """The owner's floor is for what was learned, and nothing was learned of silences."""
    assert timeouts(QUICK, streaming=True, settings=FLOOR_10).idle_timeout == 120.0
    assert timeouts(SLOW, streaming=True).idle_timeout == 140.0


def test_patience_holds_for_loaded_models() -> None:
    """A caller who says that he waits 300 s is not cut at 60."""
    stream = timeouts(QUICK, streaming=True, resident=True, client_timeout=300.0)

    assert stream.first_byte_timeout == 300.0
    assert timeouts(QUICK, settings=FLOOR_10, client_timeout=30.0).total_timeout == 30.0


def test_what_the_owner_sets_holds() -> None:
    """No learned time and no residency changes it, for one model or for all."""
    row = ModelOverride(match="llama*", total_timeout=33.0, first_byte_timeout=11.0)
    own = dataclasses.replace(SETTINGS, first_byte_timeout=20.0, total_timeout=45.0)

    stream = timeouts(SLOW, row, streaming=True, resident=True)
    assert (stream.first_byte_timeout, stream.total_timeout) == (11.0, 33.0)
    assert timeouts(SLOW, row).total_timeout == 33.0
    assert timeouts(SLOW, settings=own).total_timeout == 45.0
    assert timeouts(SLOW, settings=own, streaming=True, resident=True).first_byte_timeout == 20.0


ESTIMATES = st.builds(Estimate, st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.integers(0, 10))
TIMES = st.builds(LearnedTimes, ESTIMATES, ESTIMATES, ESTIMATES)
CEILINGS = st.floats(1.0, 4000.0)
PATIENCE = st.one_of(st.none(), st.floats(1.0, 86_400.0))


@given(TIMES, CEILINGS, PATIENCE, st.floats(0.1, 500.0), st.booleans())
def test_learned_clocks_stay_within_bounds(
    times: LearnedTimes,
    ceiling: float,
    client_timeout: float | None,
    billions: float,
    streaming: bool,
) -> None:
    """Never below the time by size or the patience, nor above the ceiling but for the size."""
    settings = dataclasses.replace(SETTINGS, ceiling=ceiling)
    by_size = model_timeout(billions, None)
    found = timeouts(
        times,
        settings=settings,
        client_timeout=client_timeout,
        parameters=billions,
        streaming=streaming,
    )

    promised = min(client_timeout or 0.0, ceiling)
    assert max(by_size, promised) <= found.first_byte_timeout <= max(by_size, ceiling)
    assert found.idle_timeout == found.first_byte_timeout
    assert streaming or found.total_timeout == found.first_byte_timeout


@given(TIMES, CEILINGS, PATIENCE, st.one_of(st.none(), st.floats(1.0, 600.0)))
def test_a_loaded_model_never_has_more_time(
    times: LearnedTimes, ceiling: float, client_timeout: float | None, floor: float | None
) -> None:
    """Without a load there is less to wait for; half of the time by size, or the floor, stays."""
    settings = dataclasses.replace(SETTINGS, ceiling=ceiling, learned_floor=floor)
    cold = timeouts(times, settings=settings, client_timeout=client_timeout, streaming=True)
    warm = timeouts(
        times, settings=settings, client_timeout=client_timeout, streaming=True, resident=True
    )

    lowest = min(60.0 if floor is None else floor, cold.first_byte_timeout)
    promised = min(client_timeout or 0.0, ceiling)
    assert max(lowest, promised) <= warm.first_byte_timeout <= cold.first_byte_timeout
    assert (warm.idle_timeout, warm.total_timeout) == (cold.idle_timeout, cold.total_timeout)


@pytest.mark.parametrize(
    ("parameters", "size_bytes", "why"),
    [
        (8.2, None, "8.2B parameters"),
        (0.49403, None, "494.03M parameters"),
        (None, 4_900_000_000, "4.9 GB on disk"),
        (None, None, "its size is unknown"),
    ],
)
def test_why_by_size(parameters: float | None, size_bytes: int | None, why: str) -> None:
    """What the step was chosen by."""
    assert timeouts(parameters=parameters, size_bytes=size_bytes).why.total == why


def test_why_learned() -> None:
    """The estimate that decided, and how much it rests on."""
    low = dataclasses.replace(SETTINGS, ceiling=150.0)

    assert timeouts(SLOW).why.total == "learned: 200 s + 4 x 17 s over 37 answers"
    assert timeouts(SLOW, settings=low).why.total == (
        "learned: 200 s + 4 x 17 s over 37 answers, up to timeouts.ceiling"
    )
    assert timeouts(QUICK).why.total == "8B parameters"
    assert (
        timeouts(QUICK, settings=FLOOR_10, streaming=True).why.first_byte
        == "timeouts.learned_floor"
    )


def test_why_loaded() -> None:
    """That no load is waited for is said."""
    slow = msgspec.structs.replace(SLOW, first_byte=Estimate(40.0, 7.0, 20))

    quick_stream = timeouts(QUICK, streaming=True, resident=True).why
    assert quick_stream.first_byte == "loaded: half of 120 s for 8B parameters"
    assert quick_stream.idle == "8B parameters"
    assert timeouts(slow, streaming=True, resident=True).why.first_byte == (
        "loaded, learned: 40 s + 4 x 7 s over 20 answers"
    )


def test_why_patience() -> None:
    """Whose wish it was, and what limited it."""
    assert timeouts(client_timeout=300.0).why.total == "patience of the caller"
    assert (
        timeouts(client_timeout=9000.0).why.total
        == "patience of the caller, up to timeouts.ceiling"
    )
    assert timeouts(client_timeout=100.0).why.total == "8B parameters"


def test_why_the_owner() -> None:
    """The very line of the file that decided."""
    row = ModelOverride(match="llama*", first_byte_timeout=11.0)
    own = dataclasses.replace(SETTINGS, idle_timeout=7.0, total_timeout=45.0)

    stream = timeouts(None, row, streaming=True, settings=own).why
    assert stream.first_byte == '[[models]] match = "llama*"'
    assert (stream.idle, stream.total) == ("timeouts.idle_timeout", "timeouts.stream_total_timeout")
    assert timeouts(settings=own).why.total == "timeouts.total_timeout"


def test_two_calls_with_the_same_clocks_are_equal() -> None:
    """The reasons explain the clocks and are no part of them."""
    assert timeouts(parameters=8.0) == timeouts(parameters=7.0)
