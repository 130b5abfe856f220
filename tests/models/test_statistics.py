import asyncio
import math
import os
from functools import reduce
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.dialects import Timings
from gateway.estimate import KNOWN_AFTER, Estimate
from gateway.models.statistics import (
    MAX_FILE_BYTES,
    SAVE_INTERVAL,
    ModelStats,
    Observation,
    Statistics,
    StatisticsFile,
)
from gateway.timeouts import LearnedTimes
from tests.models.virtual import virtual_time

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
    figures = statistics.get(MODEL)
    assert figures is not None
    return figures


def means(figures: ModelStats) -> dict[str, float]:
    """The means of what is known."""
    estimates = {name: getattr(figures, name) for name in ModelStats.__struct_fields__}
    return {name: one.mean for name, one in estimates.items() if one.count}


def test_a_model_never_seen() -> None:
    """Nothing is known, and nothing is made up."""
    statistics = Statistics()

    assert statistics.get(MODEL) is None
    assert statistics.times(MODEL) is None
    assert not statistics.has_slot_time(MODEL)


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


def test_timeouts_see_load_first_byte_and_service() -> None:
    """Each is an estimate of its own: the timeouts add them up."""
    statistics = Statistics()
    for one in (stream(2.0, 6.0), stream(12.0, 16.0, resident=False)):
        statistics.observe(one)

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
    figures = statistics.get(MODEL) or ModelStats()

    for name in ModelStats.__struct_fields__:
        one = getattr(figures, name)
        assert math.isfinite(one.mean)
        assert math.isfinite(one.deviation)
        assert min(one.mean, one.deviation, one.count) >= 0


def test_the_models_seen_longest_ago_are_forgotten() -> None:
    """The number is bounded, and a model that is used stays."""
    statistics = Statistics(max_models=2)
    for model in ("a", "b", "a", "c"):
        statistics.observe(replace(whole(1.0), model=model))

    assert list(statistics.snapshot()) == ["a", "c"]
    assert repr(statistics) == "<Statistics 2 models, revision 4>"


def test_restored_figures_count_at_once() -> None:
    """A restart loses nothing that was kept, and keeps to the bound."""
    before = Statistics()
    for model in ("a", "b", "c"):
        before.observe(replace(whole(3.0), model=model))
    after = Statistics(max_models=2)
    after.restore(before.snapshot())

    assert after.get("a") is None
    assert after.get("c") == before.get("c")
    assert after.revision == 0


# Slot times.


def samples(*seconds: float) -> Estimate:
    return reduce(Estimate.with_sample, seconds, Estimate())


def test_slot_times_with_and_without_a_load_are_kept_apart() -> None:
    """Loading the model does not count as the slot time of a loaded model."""
    statistics = Statistics()
    statistics.record_slot_time("m", 2.0, loaded=True)
    statistics.record_slot_time("m", 10.0, loaded=False)

    assert statistics.slot_time("m").mean == 2.0
    assert statistics.slot_time("m", loaded=False).mean == 10.0


def test_an_unknown_slot_time_falls_back_to_the_nearest_known_one() -> None:
    """First the other case of the same model, then all models, then nothing."""
    statistics = Statistics()
    assert statistics.slot_time("m") == Estimate()

    statistics.record_slot_time("n", 4.0, loaded=True)
    assert statistics.slot_time("m").mean == statistics.slot_time("n", loaded=False).mean == 4.0

    statistics.record_slot_time("m", 9.0, loaded=False)
    assert statistics.slot_time("m").mean == 9.0
    assert statistics.mean_slot_time == pytest.approx(6.5)


def test_a_slot_time_is_known_only_from_samples_of_the_same_model() -> None:
    """The samples of another model are no reason to reject a request."""
    statistics = Statistics()
    for _ in range(KNOWN_AFTER):
        assert not statistics.knows_slot_time("m")
        statistics.record_slot_time("m", 4.0, loaded=True)

    assert statistics.knows_slot_time("m")
    assert not statistics.knows_slot_time("n")


def test_restored_slot_times_count_at_once() -> None:
    """They are as well known as they were, and new samples continue them."""
    statistics = Statistics()
    statistics.restore(
        {"m": ModelStats(slot_time=samples(*[4.0] * 8), slot_time_cold=samples(*[12.0] * 3))}
    )

    assert (statistics.knows_slot_time("m"), statistics.slot_time("m").mean) == (True, 4.0)
    assert statistics.slot_time("m", loaded=False).mean == 12.0
    assert statistics.mean_slot_time == 8.0

    statistics.record_slot_time("m", 6.0, loaded=True)

    assert statistics.slot_time("m").mean == pytest.approx(4.4)


def test_slot_times_expire_without_new_samples() -> None:
    """After ten minutes; after four mean slot times if that is longer; after an hour at most."""
    clock = [0.0]
    statistics = Statistics(now=lambda: clock[0])
    for model, seconds in (("m", 5.0), ("slow", 300.0), ("endless", 1e6)):
        for _ in range(5):
            statistics.record_slot_time(model, seconds, loaded=True)

    def known_at(now: float) -> list[bool]:
        clock[0] = now
        return [statistics.knows_slot_time(model) for model in ("m", "slow", "endless")]

    assert known_at(600.0) == [True, True, True]
    assert known_at(601.0) == [False, True, True]
    assert known_at(1201.0) == [False, False, True]
    assert known_at(3601.0) == [False, False, False]

    statistics.record_slot_time("m", 5.0, loaded=True)

    assert statistics.knows_slot_time("m")


def test_restored_slot_times_expire_after_two_minutes_without_samples() -> None:
    """If requests were rejected because of them for ever, none would be measured."""
    clock = [0.0]
    statistics = Statistics(now=lambda: clock[0])
    statistics.restore({"m": ModelStats(slot_time=samples(*[400.0] * 100))})
    clock[0] = 120.0
    assert statistics.knows_slot_time("m")

    clock[0] = 121.0
    assert not statistics.knows_slot_time("m")

    statistics.record_slot_time("m", 380.0, loaded=True)
    clock[0] = 700.0
    assert statistics.knows_slot_time("m")


def test_a_much_faster_request_replaces_restored_or_expired_slot_times() -> None:
    """For a model that is measured all the time it is one sample among others."""
    clock = [0.0]
    statistics = Statistics(now=lambda: clock[0])
    statistics.restore(
        {"m": ModelStats(slot_time=samples(*[400.0] * 100), slot_time_cold=samples(*[420.0] * 5))}
    )
    statistics.record_slot_time("m", 190.0, loaded=True)

    assert (statistics.slot_time("m").mean, statistics.slot_time("m", loaded=False).mean) == (
        190.0,
        190.0,
    )
    assert not statistics.knows_slot_time("m")

    for _ in range(20):
        statistics.record_slot_time("m", 190.0, loaded=True)
    statistics.record_slot_time("m", 5.0, loaded=True)

    assert statistics.slot_time("m").mean == pytest.approx(153.0)

    clock[0] = 3601.0
    statistics.record_slot_time("m", 5.0, loaded=True)

    assert statistics.slot_time("m").mean == 5.0


def test_slot_times_of_the_oldest_models_are_forgotten_with_them() -> None:
    """The bound on the number of models holds for everything that is known of them."""
    statistics = Statistics(max_models=2)
    for model in ("a", "b", "c"):
        statistics.record_slot_time(model, 1.0, loaded=True)

    assert [statistics.has_slot_time(model) for model in ("a", "b", "c")] == [False, True, True]


def test_a_model_without_slot_times_restores_without_them() -> None:
    """Other statistics of a model say nothing about its slot times."""
    statistics = Statistics()
    statistics.restore({"n": ModelStats(service=Estimate(1.0, 0.5, 9))})

    assert not statistics.has_slot_time("n")
    assert statistics.slot_time("n") == Estimate()


# The state file.


HOST = "127.0.0.1:11434"


def observe(statistics: Statistics, model: str = "tiny:latest") -> None:
    statistics.observe(
        Observation(model=model, resident_before=True, streaming=False, service=2.5, complete=True)
    )


class Kept:
    """A state file at ``path``, what it learned, and what it reported."""

    def __init__(self, path: Path, *, host: str = HOST) -> None:
        self.told: list[str] = []
        self.statistics = Statistics()
        self.file = StatisticsFile(path, self.statistics, host=host, report=self.told.append)

    def restarted(self, *, host: str = HOST) -> "Kept":
        kept = Kept(self.file._path, host=host)
        kept.file.load()
        return kept


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "learned.json"


@pytest.fixture
def kept(path: Path) -> Kept:
    return Kept(path)


def written(path: Path) -> dict[str, object]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, object])


def test_what_was_learned_outlives_a_restart(kept: Kept) -> None:
    """The figures are the same afterwards, and nothing is reported."""
    observe(kept.statistics)
    kept.file.save()
    after = kept.restarted()

    assert after.statistics.snapshot() == kept.statistics.snapshot()
    assert kept.told + after.told == []


def test_no_file_is_no_news(kept: Kept) -> None:
    """The first start reports nothing."""
    kept.file.load()

    assert kept.told == []


def test_the_file_is_the_owners_alone_and_leaves_nothing_beside(kept: Kept, path: Path) -> None:
    """It is written whole under another name first, which is gone afterwards."""
    observe(kept.statistics)
    kept.file.save()

    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_new_is_not_written(kept: Kept, path: Path) -> None:
    """A gateway that nobody calls leaves the disk alone."""
    kept.file.save()
    assert not path.exists()
    observe(kept.statistics)
    kept.file.save()
    path.unlink()
    kept.file.save()

    assert not path.exists()
    assert repr(kept.file) == f"<StatisticsFile {path} clean>"


def test_it_holds_models_and_numbers(kept: Kept, path: Path) -> None:
    """Kind, version and host, and for each model its estimates: nothing of any call."""
    observe(kept.statistics)
    kept.file.save()
    state = written(path)

    assert list(state) == ["kind", "version", "host", "models"]
    assert state["models"] == {
        "tiny:latest": {
            "load": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "first_byte": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "service": {"mean": 2.5, "deviation": 1.25, "count": 1},
            "slot_time": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "slot_time_cold": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "prompt_rate": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "generation_rate": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "answer_tokens": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "bytes_per_token": {"mean": 0.0, "deviation": 0.0, "count": 0},
        }
    }


def test_the_most_that_is_kept_can_be_read_again(kept: Kept, path: Path) -> None:
    """256 models with the longest names fit into what is read."""
    longest = "\u20ac" * 597
    for n in range(300):
        observe(kept.statistics, f"{n:03}{longest}")
    kept.file.save()

    assert path.stat().st_size <= MAX_FILE_BYTES
    assert len(kept.restarted().statistics.snapshot()) == 256


def test_an_endless_name_is_not_kept(kept: Kept) -> None:
    """Whatever calls itself a model, the file stays bounded."""
    observe(kept.statistics, "x" * 601)
    observe(kept.statistics)
    kept.file.save()

    assert list(kept.restarted().statistics.snapshot()) == ["tiny:latest"]


def test_figures_of_another_ollama_are_not_ours(kept: Kept, path: Path) -> None:
    """Another machine is another speed; the file is taken over by the new one."""
    observe(kept.statistics)
    kept.file.save()
    after = kept.restarted(host="gpu:11434")
    assert after.statistics.snapshot() == {}
    assert after.told == [f"{path} is about another Ollama and was ignored."]
    observe(after.statistics)
    after.file.save()

    assert written(path)["host"] == "gpu:11434"


GOOD = b'{"kind":"ollama-gateway statistics","version":2,"host":"127.0.0.1:11434","models":'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD,
        GOOD + b"[]}",
        GOOD + b'{"a":{"load":{"mean":"fast"}}}}',
        GOOD + b'{"a":{"load":{"mean":-1}}}}',
        GOOD + b'{"a":{"load":{"deviation":1e300}}}}',
        GOOD + b'{"a":{"load":{"count":-1}}}}',
        GOOD + b'{"a":{"load":{"count":9007199254740992}}}}',
        GOOD + b'{"a":{"load":{"count":' + b"9" * 4_300 + b"}}}}",
        GOOD + b'{"' + b"x" * 601 + b'":{}}}',
        GOOD + b"{" + b",".join(b'"%d":{}' % n for n in range(257)) + b"}}",
        GOOD + b'{"a":{}}}\xff',
        GOOD.replace(b"2,", b"1,", 1) + b"{}}",
        GOOD + b"{}}" + b" " * MAX_FILE_BYTES,
    ],
)
def test_a_file_that_is_broken_is_ignored_and_replaced(
    content: bytes, kept: Kept, path: Path
) -> None:
    """It is told on one line, once; losing it is harmless."""
    path.write_bytes(content)
    kept.file.load()
    assert kept.statistics.snapshot() == {}
    assert len(kept.told) == 1
    assert "\n" not in kept.told[0]
    observe(kept.statistics)
    kept.file.save()

    assert kept.restarted().statistics.get("tiny:latest") is not None


@pytest.mark.parametrize("content", [b'[[key]]\nname = "a"\n', b"{}", b'{"kind":"other"}', b"\0"])
def test_a_file_that_is_not_ours_is_never_written_over(
    content: bytes, kept: Kept, path: Path
) -> None:
    """The path may be a mistake, and what is there be dear to somebody."""
    path.write_bytes(content)
    kept.file.load()
    observe(kept.statistics)
    kept.file.save()

    assert path.read_bytes() == content
    assert len(kept.told) == 1
    assert repr(kept.file) == f"<StatisticsFile {path} foreign>"


def test_a_pipe_is_not_waited_for(kept: Kept, path: Path) -> None:
    """Only a file is read."""
    os.mkfifo(path)
    kept.file.load()
    observe(kept.statistics)
    kept.file.save()

    assert kept.told == [f"{path} is no file. Nothing is kept over a restart."]


def test_a_folder_in_its_place(kept: Kept, path: Path) -> None:
    """The gateway starts and learns all the same."""
    path.mkdir()
    kept.file.load()

    assert len(kept.told) == 1


def test_a_folder_that_is_missing_is_told_once(tmp_path: Path) -> None:
    """Writing fails every minute, the report comes once; it is tried again, and told again."""
    kept = Kept(tmp_path / "state" / "learned.json")
    for _ in range(3):
        observe(kept.statistics)
        kept.file.save()
    trouble = "cannot be written: No such file or directory. Statistics end with this run."
    assert kept.told == [f"{tmp_path}/state/learned.json {trouble}"]
    (tmp_path / "state").mkdir()
    kept.file.save()
    assert kept.restarted().statistics.get("tiny:latest") is not None
    kept.file._path.unlink()
    (tmp_path / "state").rmdir()
    observe(kept.statistics)
    kept.file.save()

    assert len(kept.told) == 2


def test_a_file_that_cannot_be_read_is_left_alone(
    kept: Kept, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whose it is."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"secret")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        kept.file.load()
    observe(kept.statistics)
    kept.file.save()

    assert path.read_bytes() == b"secret"
    assert kept.told == [
        f"{path} cannot be read: Permission denied. Nothing is kept over a restart."
    ]


@virtual_time
async def test_run_saves_at_most_once_a_minute(tmp_path: Path) -> None:
    """Between two writings there is a minute, however much is learned."""
    path = tmp_path / "learned.json"
    kept = Kept(path)
    versions = set()
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(kept.file.run())
        for _ in range(30):
            observe(kept.statistics)
            await asyncio.sleep(SAVE_INTERVAL / 10)
            if path.exists():
                versions.add(path.read_bytes())
        loop.cancel()

    assert 2 <= len(versions) <= 3
