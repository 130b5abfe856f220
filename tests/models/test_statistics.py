import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.dialects import Timings
from gateway.models.statistics import ModelStats, Observation, Statistics
from gateway.timeouts import Estimate, LearnedTimes

MODEL = "llama3.1:8b"


def whole(service: float, *, resident: bool = True, tokens: int | None = None) -> Observation:
    return Observation(
        model=MODEL,
        resident_before=resident,
        streaming=False,
        service=service,
        tokens_out=tokens,
        complete=True,
    )


def stream(
    wait: float, service: float, *, resident: bool = True, tokens: tuple[int, int] = (100, 101)
) -> Observation:
    return Observation(
        model=MODEL,
        resident_before=resident,
        streaming=True,
        waited_for_first_byte=wait,
        service=service,
        tokens_in=tokens[0],
        tokens_out=tokens[1],
        complete=True,
    )


def cut(
    service: float, *, wait: float | None = None, resident: bool = True, streaming: bool = True
) -> Observation:
    return Observation(
        model=MODEL,
        resident_before=resident,
        streaming=streaming,
        waited_for_first_byte=wait,
        service=service,
        timed_out=True,
    )


def figures_after(*seen: Observation) -> ModelStats:
    statistics = Statistics()
    for one in seen:
        statistics.observe(one)
    figures = statistics.figures(MODEL)
    assert figures is not None
    return figures


def means(figures: ModelStats) -> dict[str, float]:
    """The means of what is known."""
    estimates = {name: getattr(figures, name) for name in ModelStats.__struct_fields__}
    return {name: one.mean for name, one in estimates.items() if one.count}


def test_a_model_never_seen() -> None:
    """Nothing is known, and nothing is made up."""
    statistics = Statistics()

    assert statistics.figures(MODEL) is None
    assert statistics.times(MODEL) is None
    assert statistics.expected_service(MODEL, resident=True) is None


def test_ollamas_own_durations() -> None:
    """A native call tells load and both rates itself; they are taken as they are."""
    timings = Timings(
        load_duration=8.0,
        prompt_eval_count=400,
        prompt_eval_duration=2.0,
        eval_count=90,
        eval_duration=3.0,
    )
    seen = replace(whole(13.5, resident=False, tokens=90), timings=timings)

    assert means(figures_after(seen)) == {
        "load": 8.0,
        "service": 5.5,
        "prompt_rate": 200.0,
        "generation_rate": 30.0,
        "answer_tokens": 90.0,
    }


def test_ollamas_own_load_in_a_stream() -> None:
    """What the load took is known exactly, so the rest of the wait is the prompt's."""
    seen = replace(stream(10.0, 14.0, resident=False), timings=Timings(load_duration=8.0))

    assert means(figures_after(seen)) == {
        "load": 8.0,
        "first_byte": 2.0,
        "service": 6.0,
        "answer_tokens": 101.0,
    }


def test_a_stream_of_a_loaded_model() -> None:
    """Prompt until the first byte, then a hundred tokens in four seconds."""
    assert means(figures_after(stream(2.0, 6.0))) == {
        "first_byte": 2.0,
        "service": 6.0,
        "prompt_rate": 50.0,
        "generation_rate": 25.0,
        "answer_tokens": 101.0,
    }


def test_a_stream_of_a_model_that_had_to_be_loaded() -> None:
    """The wait less what a prompt of that length takes is the load."""
    figures = figures_after(stream(2.0, 6.0), stream(14.0, 18.0, resident=False, tokens=(200, 101)))

    assert means(figures) == pytest.approx(
        {
            "load": 10.0,
            "first_byte": 2.0,
            "service": 7.0,
            "prompt_rate": 50.0,
            "generation_rate": 25.0,
            "answer_tokens": 101.0,
        }
    )


def test_a_first_stream_that_had_to_be_loaded() -> None:
    """Where no prompt was measured yet, the wait is the load's: most of it is."""
    figures = figures_after(stream(9.0, 11.0, resident=False))

    assert (figures.load.mean, figures.service.mean) == (9.0, 2.0)
    assert figures.first_byte.count == 0


def test_an_answer_in_one_piece_of_a_loaded_model() -> None:
    """All that it tells is how long it took and how long it is."""
    assert means(figures_after(whole(4.0, tokens=80))) == {"service": 4.0, "answer_tokens": 80.0}


def test_an_answer_in_one_piece_of_a_model_that_had_to_be_loaded() -> None:
    """An answer half as long takes half as long; the rest was the load."""
    figures = figures_after(whole(4.0, tokens=80), whole(12.0, resident=False, tokens=40))

    assert figures.load.mean == 10.0


def test_a_first_answer_in_one_piece_cannot_be_divided() -> None:
    """It counts as service until others tell what service is; together they are right."""
    figures = figures_after(whole(12.0, resident=False))

    assert means(figures) == {"service": 12.0}


@pytest.mark.parametrize("wait", [2.0, 2.2, 0.1])
def test_what_was_loaded_after_all(wait: float) -> None:
    """Residency is belief: a wait without room for a load teaches nothing of loads."""
    figures = figures_after(stream(2.0, 6.0), stream(wait, wait + 4, resident=False))

    assert figures.load.count == 0
    assert figures.first_byte.count == 2


def test_ollamas_milliseconds_of_loading() -> None:
    """A loaded model reports a load of 1 ms, which is none."""
    warm = replace(stream(2.0, 6.0), timings=Timings(load_duration=0.001))

    assert figures_after(warm).load.count == 0


def test_a_load_that_nobody_expected() -> None:
    """Ollama's word counts more than our belief that the model was loaded."""
    cold = replace(stream(9.0, 12.0), timings=Timings(load_duration=8.0))
    figures = figures_after(cold)

    assert (figures.load.mean, figures.first_byte.mean, figures.service.mean) == (8.0, 1.0, 4.0)


def test_a_call_that_failed() -> None:
    """An answer that broke off tells when its first byte came, and nothing of its length."""
    broken = replace(stream(2.0, 3.0), complete=False)

    assert means(figures_after(broken)) == {"first_byte": 2.0}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (cut(60.0), {"first_byte": 60.0, "service": 60.0}),
        (cut(60.0, resident=False), {"load": 60.0}),
        (cut(60.0, wait=2.0), {"first_byte": 2.0, "service": 60.0}),
        (cut(60.0, wait=20.0, resident=False), {"load": 20.0, "service": 40.0}),
        (cut(60.0, streaming=False), {"service": 60.0}),
        (cut(60.0, streaming=False, resident=False), {"load": 60.0}),
    ],
    ids=["silent", "silent load", "stream", "stream after a load", "whole", "whole with load"],
)
def test_a_call_that_a_clock_cut(seen: Observation, expected: dict[str, float]) -> None:
    """It took at least so long; silence of a model that had to be loaded is the load's."""
    assert means(figures_after(seen)) == expected


def test_a_cut_load_after_known_prompts() -> None:
    """What the prompt would have taken is not the load's."""
    figures = figures_after(stream(2.0, 6.0), cut(60.0, resident=False))

    assert figures.load == Estimate(58.0, 29.0, 1)


def test_a_cut_below_the_mean_is_no_news() -> None:
    """That an answer of 100 s takes more than 60 was known."""
    before = figures_after(whole(100.0))
    after = figures_after(whole(100.0), cut(60.0, streaming=False))

    assert before == after


def test_expected_service_adds_the_load() -> None:
    """A model that is not loaded takes that much longer, and is that much less certain."""
    statistics = Statistics()
    for one in (stream(2.0, 6.0), stream(12.0, 16.0, resident=False)):
        statistics.observe(one)

    assert statistics.expected_service(MODEL, resident=True) == Estimate(6.0, 1.5, 2)
    assert statistics.expected_service(MODEL, resident=False) == Estimate(16.0, 6.5, 2)
    assert statistics.times(MODEL) == LearnedTimes(
        load=Estimate(10.0, 5.0, 1), first_byte=Estimate(2.0, 1.0, 1), total=Estimate(6.0, 1.5, 2)
    )


SECONDS = st.one_of(st.floats(), st.floats(0.0, 1e4))
TOKENS = st.one_of(st.none(), st.integers(), st.just(10**400), st.integers(0, 10_000))
OBSERVATIONS = st.builds(
    Observation,
    model=st.just(MODEL),
    resident_before=st.booleans(),
    streaming=st.booleans(),
    service=SECONDS,
    waited_for_first_byte=st.one_of(st.none(), SECONDS),
    tokens_in=TOKENS,
    tokens_out=TOKENS,
    timings=st.one_of(
        st.none(),
        st.builds(
            Timings,
            total_duration=SECONDS,
            load_duration=st.one_of(st.none(), SECONDS),
            prompt_eval_count=TOKENS,
            prompt_eval_duration=SECONDS,
            eval_count=TOKENS,
            eval_duration=SECONDS,
        ),
    ),
    complete=st.booleans(),
    timed_out=st.booleans(),
)


@given(st.lists(OBSERVATIONS, max_size=20))
def test_no_observation_spoils_the_figures(seen: list[Observation]) -> None:
    """Whatever Ollama reports, what is known is finite and not negative."""
    statistics = Statistics()
    for one in seen:
        statistics.observe(one)
    figures = statistics.figures(MODEL) or ModelStats()

    for name in ModelStats.__struct_fields__:
        one = getattr(figures, name)
        assert math.isfinite(one.mean)
        assert math.isfinite(one.deviation)
        assert min(one.mean, one.deviation, one.count) >= 0


def test_the_models_seen_longest_ago_are_forgotten() -> None:
    """The number is bounded, and a model that is used stays."""
    statistics = Statistics(most=2)
    for model in ("a", "b", "a", "c"):
        statistics.observe(replace(whole(1.0), model=model))

    assert list(statistics.snapshot()) == ["a", "c"]
    assert repr(statistics) == "<Learned 2 models, 4 observations>"


def test_restored_figures_count_at_once() -> None:
    """A restart loses nothing that was kept, and keeps to the bound."""
    before = Statistics()
    for model in ("a", "b", "c"):
        before.observe(replace(whole(3.0), model=model))
    after = Statistics(most=2)
    after.restore(before.snapshot())

    assert after.figures("a") is None
    assert after.figures("c") == before.figures("c")
    assert after.observations == 0
