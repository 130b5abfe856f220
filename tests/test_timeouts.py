import itertools
import math

import pytest

from gateway.timeouts import (
    ModelOverride,
    RequestTimeouts,
    TimeoutSettings,
    max_active_for,
    model_timeout,
    timeouts_for,
)


def settings(
    *,
    first_byte_timeout: float | None = None,
    idle_timeout: float | None = None,
    total_timeout: float | None = None,
    ceiling: float = 1800.0,
) -> TimeoutSettings:
    return TimeoutSettings(
        queue_timeout=300.0,
        connect_timeout=5.0,
        first_byte_timeout=first_byte_timeout,
        idle_timeout=idle_timeout,
        total_timeout=total_timeout,
        stream_total_timeout=1800.0,
        ceiling=ceiling,
        write_timeout=30.0,
    )


DEFAULTS = settings()


def timeouts(
    *overrides: ModelOverride,
    model: str = "llama3.1:8b",
    parameters: float | None = 8.0,
    streaming: bool = False,
    client_timeout: float | None = None,
    held: bool = False,
    settings: TimeoutSettings = DEFAULTS,
) -> RequestTimeouts:
    return timeouts_for(
        model=model,
        parameters=parameters,
        size_bytes=None,
        streaming=streaming,
        client_timeout=client_timeout,
        settings=settings,
        overrides=overrides,
        held=held,
    )


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
def test_model_timeout_steps(parameters: float, seconds: float) -> None:
    """A larger model has more time, in the steps that the callers' own tables have."""
    assert seconds == model_timeout(parameters, None)


@pytest.mark.parametrize(
    ("size_bytes", "seconds"),
    [(815_319_791, 60.0), (4_900_000_000, 120.0), (42_520_413_916, 600.0), (None, 300.0)],
)
def test_model_timeout_from_the_size_on_disk(size_bytes: int | None, seconds: float) -> None:
    """Without a parameter count the size on disk decides, at 0.6 bytes each; else 300 s."""
    assert seconds == model_timeout(None, size_bytes)


def test_model_timeout_prefers_the_count() -> None:
    """The size on disk counts only where the parameters are unknown."""
    assert model_timeout(1.2, 42_000_000_000) == 60.0


@pytest.mark.parametrize(("parameters", "size_bytes"), [(0.0, 0), (-1.0, -1), (math.nan, None)])
def test_model_timeout_of_nonsense(parameters: float, size_bytes: int | None) -> None:
    """Numbers that no model has count as unknown."""
    assert model_timeout(parameters, size_bytes) == 300.0


def test_model_timeout_never_falls_with_size() -> None:
    """No larger model has less time than a smaller one."""
    timeouts = [model_timeout(n / 10, None) for n in range(1, 1000)]

    assert all(smaller <= larger for smaller, larger in itertools.pairwise(timeouts))


def test_defaults_of_an_answer_in_one_piece() -> None:
    """Its first byte comes with its last, so all its clocks are the model's."""
    expected = RequestTimeouts(
        queue_timeout=300.0,
        connect_timeout=5.0,
        first_byte_timeout=120.0,
        idle_timeout=120.0,
        total_timeout=120.0,
        write_timeout=30.0,
    )

    assert expected == timeouts()


def test_defaults_of_a_stream() -> None:
    """A stream has the model's time between bytes and half an hour for all of it."""
    expected = RequestTimeouts(
        queue_timeout=300.0,
        connect_timeout=5.0,
        first_byte_timeout=120.0,
        idle_timeout=120.0,
        total_timeout=1800.0,
        write_timeout=30.0,
    )

    assert expected == timeouts(streaming=True)


def test_patience_raises_the_clocks() -> None:
    """A caller who waits 300 s for an 8B model is not cut at 120."""
    assert timeouts(client_timeout=300.0).total_timeout == 300.0
    assert timeouts(client_timeout=300.0, streaming=True).first_byte_timeout == 300.0


def test_patience_does_not_lower_the_clocks() -> None:
    """A caller with less patience than the model needs does not shorten its time."""
    assert timeouts(client_timeout=10.0).total_timeout == 120.0


def test_patience_is_bounded_by_the_ceiling() -> None:
    """Nobody can hold a place for a day by declaring so."""
    assert timeouts(client_timeout=86_400.0).total_timeout == 1800.0


def test_the_ceiling_does_not_lower_a_large_model() -> None:
    """The ceiling bounds what patience raises, not what the model needs."""
    timeout = timeouts(parameters=405.0, client_timeout=900.0, settings=settings(ceiling=600.0))

    assert timeout.total_timeout == 1800.0


@pytest.mark.parametrize(
    ("client_timeout", "seconds"), [(None, 300.0), (60.0, 60.0), (300.0, 300.0), (900.0, 300.0)]
)
def test_nobody_queues_past_his_patience(client_timeout: float | None, seconds: float) -> None:
    """A call waits as long as is allowed, and never past the time its caller gives up."""
    assert seconds == timeouts(client_timeout=client_timeout).queue_timeout


def test_the_owners_total_holds_for_all_models() -> None:
    """What the owner sets is neither raised by patience nor by size; streams have their own."""
    own = settings(total_timeout=45.0)

    assert timeouts(parameters=70.0, client_timeout=600.0, settings=own).total_timeout == 45.0
    assert timeouts(settings=own).first_byte_timeout == 45.0
    assert timeouts(settings=own, streaming=True).total_timeout == 1800.0


def test_the_owners_stream_clocks_hold_for_all_models() -> None:
    """First byte and idle hold as set; without idle the first byte's clock is used."""
    own = settings(first_byte_timeout=20.0)
    both = settings(first_byte_timeout=20.0, idle_timeout=7.0)

    stream = timeouts(client_timeout=600.0, settings=own, streaming=True)
    assert (stream.first_byte_timeout, stream.idle_timeout) == (20.0, 20.0)
    assert timeouts(settings=both, streaming=True).idle_timeout == 7.0


def test_an_override_beats_settings_size_and_patience() -> None:
    """What the owner sets for one model holds as it is, streaming or not."""
    override = ModelOverride(match="llama*", total_timeout=33.0, first_byte_timeout=11.0)
    own = settings(total_timeout=45.0, first_byte_timeout=20.0)

    whole = timeouts(override, client_timeout=600.0, settings=own)
    stream = timeouts(override, client_timeout=600.0, settings=own, streaming=True)

    assert (whole.first_byte_timeout, whole.total_timeout) == (33.0, 33.0)
    assert (
        stream.first_byte_timeout,
        stream.idle_timeout,
        stream.total_timeout,
    ) == (11.0, 11.0, 33.0)


def test_the_first_override_that_fits_wins() -> None:
    """Rows are tried in the order in which they are written, and one wins whole."""
    rows = (
        ModelOverride(match="qwen*", total_timeout=1.0),
        ModelOverride(match="llama3.1:*", max_active=2),
        ModelOverride(match="*", total_timeout=3.0, max_active=3),
    )

    assert timeouts(*rows).total_timeout == 120.0
    assert max_active_for("llama3.1:8b", rows, 1) == 2


@pytest.mark.parametrize(
    ("match", "model", "fits"),
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
        ("[", "anything:latest", False),
    ],
)
def test_how_a_row_fits(match: str, model: str, fits: bool) -> None:
    """Globs, without regard to case; a name without a tag is its latest."""
    assert (7 if fits else 1) == max_active_for(
        model, [ModelOverride(match=match, max_active=7)], 1
    )


@pytest.mark.parametrize("rows", [[], [ModelOverride(match="*")], [ModelOverride(match="other")]])
def test_max_active_defaults(rows: list[ModelOverride]) -> None:
    """A model for which nothing is set has the default."""
    assert max_active_for("tiny:latest", rows, 4) == 4


@pytest.mark.parametrize("client_timeout", [None, 5.0, 600.0])
def test_one_who_is_held_has_time(client_timeout: float | None) -> None:
    """His read timeout is renewed by heartbeats: slow is not too late before the ceiling."""
    held = timeouts(client_timeout=client_timeout, held=True)

    assert (held.queue_timeout, held.total_timeout) == (300.0, 1800.0)
    assert (held.first_byte_timeout, held.idle_timeout) == (1800.0, max(client_timeout or 0, 120.0))
    assert held.why.total.startswith("timeouts.ceiling")


def test_a_stream_that_is_held_still_has_to_begin() -> None:
    """Its first byte tells a hung runner from a slow one."""
    held = timeouts(client_timeout=5.0, streaming=True, held=True)

    assert (held.queue_timeout, held.first_byte_timeout) == (300.0, 120.0)


def test_what_the_owner_sets_holds_for_one_who_is_held() -> None:
    """For a model, and for all."""
    row = timeouts(ModelOverride(match="*", total_timeout=40.0), held=True)
    table = timeouts(settings=settings(total_timeout=50.0), held=True)

    assert (row.total_timeout, table.total_timeout) == (40.0, 50.0)
