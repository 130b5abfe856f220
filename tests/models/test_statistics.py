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
from tests.models.virtual import virtual_time

MODEL = "llama3.1:8b"


def complete(service: float, *, resident: bool = True, tokens: int | None = None) -> Observation:
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


def timed_out(
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


def stats_after(*seen: Observation) -> ModelStats:
    statistics = Statistics()
    for one in seen:
        statistics.observe(one)
    stats = statistics.get(MODEL)
    assert stats is not None
    return stats


def means(stats: ModelStats) -> dict[str, float]:
    """The means of what is known."""
    estimates = {name: getattr(stats, name) for name in ModelStats.__struct_fields__}
    return {name: one.mean for name, one in estimates.items() if one.count}


def test_an_unknown_model_has_no_statistics() -> None:
    """Nothing is made up."""
    statistics = Statistics()

    assert statistics.get(MODEL) is None
    assert not statistics.has_slot_time(MODEL)


def test_durations_of_the_native_api_are_taken_as_they_are() -> None:
    """Load and both rates."""
    timings = Timings(
        load_duration=8.0,
        prompt_eval_count=400,
        prompt_eval_duration=2.0,
        eval_count=90,
        eval_duration=3.0,
    )
    seen = replace(complete(13.5, resident=False, tokens=90), timings=timings)

    assert means(stats_after(seen)) == {
        "load": 8.0,
        "service": 5.5,
        "prompt_rate": 200.0,
        "generation_rate": 30.0,
        "output_tokens": 90.0,
    }


def test_a_reported_load_is_subtracted_from_the_wait_for_the_first_byte() -> None:
    """The rest of the wait is the prompt."""
    seen = replace(stream(10.0, 14.0, resident=False), timings=Timings(load_duration=8.0))

    assert means(stats_after(seen)) == {
        "load": 8.0,
        "first_byte": 2.0,
        "service": 6.0,
        "output_tokens": 101.0,
    }


def test_a_stream_of_a_loaded_model_tells_both_rates() -> None:
    """Prompt until the first byte, then a hundred tokens in four seconds."""
    assert means(stats_after(stream(2.0, 6.0))) == {
        "first_byte": 2.0,
        "service": 6.0,
        "prompt_rate": 50.0,
        "generation_rate": 25.0,
        "output_tokens": 101.0,
    }


def test_the_load_of_a_stream_is_its_wait_without_the_usual_prompt() -> None:
    """For a prompt of that length."""
    stats = stats_after(stream(2.0, 6.0), stream(14.0, 18.0, resident=False, tokens=(200, 101)))

    assert means(stats) == pytest.approx(
        {
            "load": 10.0,
            "first_byte": 2.0,
            "service": 7.0,
            "prompt_rate": 50.0,
            "generation_rate": 25.0,
            "output_tokens": 101.0,
        }
    )


def test_the_wait_of_a_first_stream_counts_as_load() -> None:
    """Without a measured prompt most of the wait is the load."""
    stats = stats_after(stream(9.0, 11.0, resident=False))

    assert (stats.load.mean, stats.service.mean) == (9.0, 2.0)
    assert stats.first_byte.count == 0


def test_a_complete_response_tells_service_time_and_tokens() -> None:
    """Of a loaded model."""
    assert means(stats_after(complete(4.0, tokens=80))) == {"service": 4.0, "output_tokens": 80.0}


def test_the_load_of_a_complete_response_is_what_exceeds_its_usual_time() -> None:
    """A response half as long takes half as long."""
    stats = stats_after(complete(4.0, tokens=80), complete(12.0, resident=False, tokens=40))

    assert stats.load.mean == 10.0


def test_a_first_complete_response_counts_as_service() -> None:
    """Later responses tell load and service apart."""
    stats = stats_after(complete(12.0, resident=False))

    assert means(stats) == {"service": 12.0}


@pytest.mark.parametrize("wait", [2.0, 2.2, 0.1])
def test_a_wait_too_short_for_a_load_is_no_load(wait: float) -> None:
    """Residency can be wrong."""
    stats = stats_after(stream(2.0, 6.0), stream(wait, wait + 4, resident=False))

    assert stats.load.count == 0
    assert stats.first_byte.count == 2


def test_milliseconds_of_loading_are_no_load() -> None:
    """A loaded model reports 1 ms."""
    warm = replace(stream(2.0, 6.0), timings=Timings(load_duration=0.001))

    assert stats_after(warm).load.count == 0


def test_a_reported_load_overrules_residency() -> None:
    """The model was taken for loaded."""
    cold = replace(stream(9.0, 12.0), timings=Timings(load_duration=8.0))
    stats = stats_after(cold)

    assert (stats.load.mean, stats.first_byte.mean, stats.service.mean) == (8.0, 1.0, 4.0)


def test_an_aborted_stream_tells_its_first_byte_only() -> None:
    """And nothing of its length."""
    broken = replace(stream(2.0, 3.0), complete=False)

    assert means(stats_after(broken)) == {"first_byte": 2.0}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (timed_out(60.0), {"first_byte": 60.0, "service": 60.0}),
        (timed_out(60.0, resident=False), {"load": 60.0}),
        (timed_out(60.0, wait=2.0), {"first_byte": 2.0, "service": 60.0}),
        (timed_out(60.0, wait=20.0, resident=False), {"load": 20.0, "service": 40.0}),
        (timed_out(60.0, streaming=False), {"service": 60.0}),
        (timed_out(60.0, streaming=False, resident=False), {"load": 60.0}),
    ],
    ids=[
        "silent",
        "silent load",
        "stream",
        "stream, load",
        "complete",
        "complete with load",
    ],
)
def test_a_timeout_is_a_lower_bound(seen: Observation, expected: dict[str, float]) -> None:
    """Silence of a model that had to be loaded counts as its load."""
    assert means(stats_after(seen)) == expected


def test_the_usual_prompt_is_subtracted_from_a_load_that_timed_out() -> None:
    stats = stats_after(stream(2.0, 6.0), timed_out(60.0, resident=False))

    assert stats.load == Estimate(58.0, 29.0, 1)


def test_a_timeout_below_the_mean_changes_nothing() -> None:
    """That a response of 100 s takes more than 60 was known."""
    before = stats_after(complete(100.0))
    after = stats_after(complete(100.0), timed_out(60.0, streaming=False))

    assert before == after


def test_load_first_byte_and_service_are_estimated_separately() -> None:
    """The timeouts add them up."""
    statistics = Statistics()
    for one in (stream(2.0, 6.0), stream(12.0, 16.0, resident=False)):
        statistics.observe(one)
    stats = statistics.get(MODEL)

    assert stats is not None
    assert (stats.load, stats.first_byte, stats.service) == (
        Estimate(10.0, 5.0, 1),
        Estimate(2.0, 1.0, 1),
        Estimate(6.0, 1.5, 2),
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
def test_statistics_stay_finite_for_any_observation(seen: list[Observation]) -> None:
    """And never negative."""
    statistics = Statistics()
    for one in seen:
        statistics.observe(one)
    stats = statistics.get(MODEL) or ModelStats()

    for name in ModelStats.__struct_fields__:
        one = getattr(stats, name)
        assert math.isfinite(one.mean)
        assert math.isfinite(one.deviation)
        assert min(one.mean, one.deviation, one.count) >= 0


def test_the_models_observed_longest_ago_are_forgotten() -> None:
    """The number is bounded."""
    statistics = Statistics(max_models=2)
    for model in ("a", "b", "a", "c"):
        statistics.observe(replace(complete(1.0), model=model))

    assert list(statistics.snapshot()) == ["a", "c"]
    assert repr(statistics) == "<Statistics 2 models, revision 4>"


def test_restore_takes_over_a_snapshot_up_to_the_bound() -> None:
    """A restart loses nothing else."""
    before = Statistics()
    for model in ("a", "b", "c"):
        before.observe(replace(complete(3.0), model=model))
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


class State:
    """A state file at ``path``, its statistics, and what it reported."""

    def __init__(self, path: Path, *, host: str = HOST) -> None:
        self.reports: list[str] = []
        self.statistics = Statistics()
        self.file = StatisticsFile(path, self.statistics, host=host, report=self.reports.append)

    def restarted(self, *, host: str = HOST) -> "State":
        state = State(self.file._path, host=host)
        state.file.load()
        return state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.fixture
def state(path: Path) -> State:
    return State(path)


def written(path: Path) -> dict[str, object]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, object])


def test_the_file_restores_what_was_saved(state: State) -> None:
    """Without a report."""
    observe(state.statistics)
    state.file.save()
    after = state.restarted()

    assert after.statistics.snapshot() == state.statistics.snapshot()
    assert state.reports + after.reports == []


def test_a_missing_file_is_not_reported(state: State) -> None:
    """At the first start there is none."""
    state.file.load()

    assert state.reports == []


def test_the_file_is_private_and_written_atomically(state: State, path: Path) -> None:
    """Nothing else is left in the folder."""
    observe(state.statistics)
    state.file.save()

    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_is_written_only_if_there_is_something_new(state: State, path: Path) -> None:
    """An idle gateway leaves the disk alone."""
    state.file.save()
    assert not path.exists()
    observe(state.statistics)
    state.file.save()
    path.unlink()
    state.file.save()

    assert not path.exists()
    assert repr(state.file) == f"<StatisticsFile {path} clean>"


def test_the_file_holds_only_models_and_numbers(state: State, path: Path) -> None:
    """Kind, version and host, and for each model its estimates: nothing of any request."""
    observe(state.statistics)
    state.file.save()
    content = written(path)

    assert list(content) == ["kind", "version", "host", "models"]
    assert content["models"] == {
        "tiny:latest": {
            "load": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "first_byte": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "service": {"mean": 2.5, "deviation": 1.25, "count": 1},
            "slot_time": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "slot_time_cold": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "prompt_rate": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "generation_rate": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "output_tokens": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "bytes_per_token": {"mean": 0.0, "deviation": 0.0, "count": 0},
        }
    }


def test_the_largest_file_can_be_read_again(state: State, path: Path) -> None:
    """256 models with the longest names."""
    longest = "\u20ac" * 597
    for n in range(300):
        observe(state.statistics, f"{n:03}{longest}")
    state.file.save()

    assert path.stat().st_size <= MAX_FILE_BYTES
    assert len(state.restarted().statistics.snapshot()) == 256


def test_a_name_that_is_too_long_is_not_saved(state: State) -> None:
    """The file stays bounded."""
    observe(state.statistics, "x" * 601)
    observe(state.statistics)
    state.file.save()

    assert list(state.restarted().statistics.snapshot()) == ["tiny:latest"]


def test_a_file_about_another_ollama_is_ignored_and_replaced(state: State, path: Path) -> None:
    """Another machine has another speed."""
    observe(state.statistics)
    state.file.save()
    after = state.restarted(host="gpu:11434")
    assert after.statistics.snapshot() == {}
    assert after.reports == [f"{path} is about another Ollama and was ignored."]
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
def test_a_corrupt_or_older_file_is_ignored_and_replaced(
    content: bytes, state: State, path: Path
) -> None:
    """It is reported once, on one line."""
    path.write_bytes(content)
    state.file.load()
    assert state.statistics.snapshot() == {}
    assert len(state.reports) == 1
    assert "\n" not in state.reports[0]
    observe(state.statistics)
    state.file.save()

    assert state.restarted().statistics.get("tiny:latest") is not None


@pytest.mark.parametrize("content", [b'[[key]]\nname = "a"\n', b"{}", b'{"kind":"other"}', b"\0"])
def test_a_foreign_file_is_never_overwritten(content: bytes, state: State, path: Path) -> None:
    """The path may be a mistake."""
    path.write_bytes(content)
    state.file.load()
    observe(state.statistics)
    state.file.save()

    assert path.read_bytes() == content
    assert len(state.reports) == 1
    assert repr(state.file) == f"<StatisticsFile {path} foreign>"


def test_a_pipe_is_not_opened(state: State, path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(path)
    state.file.load()
    observe(state.statistics)
    state.file.save()

    assert state.reports == [f"{path} is no file. Nothing is kept over a restart."]


def test_a_folder_in_place_of_the_file_is_reported(state: State, path: Path) -> None:
    """The gateway starts all the same."""
    path.mkdir()
    state.file.load()

    assert len(state.reports) == 1


def test_a_failed_write_is_reported_once_and_tried_again(tmp_path: Path) -> None:
    """Until it succeeded and fails again."""
    state = State(tmp_path / "state" / "state.json")
    for _ in range(3):
        observe(state.statistics)
        state.file.save()
    trouble = "cannot be written: No such file or directory. Statistics end with this run."
    assert state.reports == [f"{tmp_path}/state/state.json {trouble}"]
    (tmp_path / "state").mkdir()
    state.file.save()
    assert state.restarted().statistics.get("tiny:latest") is not None
    state.file._path.unlink()
    (tmp_path / "state").rmdir()
    observe(state.statistics)
    state.file.save()

    assert len(state.reports) == 2


def test_an_unreadable_file_is_left_alone(
    state: State, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not be ours."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"secret")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        state.file.load()
    observe(state.statistics)
    state.file.save()

    assert path.read_bytes() == b"secret"
    assert state.reports == [
        f"{path} cannot be read: Permission denied. Nothing is kept over a restart."
    ]


@virtual_time
async def test_the_file_is_written_at_most_once_a_minute(tmp_path: Path) -> None:
    """However many requests are observed."""
    path = tmp_path / "state.json"
    state = State(path)
    versions = set()
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(state.file.run())
        for _ in range(30):
            observe(state.statistics)
            await asyncio.sleep(SAVE_INTERVAL / 10)
            if path.exists():
                versions.add(path.read_bytes())
        loop.cancel()

    assert 2 <= len(versions) <= 3
