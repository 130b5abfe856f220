import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, UpstreamProtocolError, UpstreamUnreachable
from gateway.models.residency import (
    BUSY_INTERVAL,
    IDLE_INTERVAL,
    KEEP_ALIVE,
    MAX_LISTED,
    CoResidency,
    Residency,
    ResidencyTracker,
    ResidencyWatcher,
    parse_ps,
)
from tests.models.recorded import PS_0_24
from tests.models.virtual import now, ticks, virtual_time

# The view.

NAMES = st.sets(st.sampled_from("abcd")).map(frozenset)
VIEWS = st.builds(
    Residency,
    resident=NAMES,
    coresident=st.sets(NAMES, max_size=3).map(frozenset),
    max_loaded=st.none() | st.integers(1, 4),
)


def seen(*sets: str, resident: str = "") -> Residency:
    return Residency(frozenset(resident), frozenset(map(frozenset, sets)))


def test_a_single_model_always_fits() -> None:
    """Ollama loads any one model, into slower memory if it must."""
    assert Residency().can_coexist(frozenset("a"))
    assert Residency().can_coexist(frozenset())


def test_max_loaded_decides_what_fits() -> None:
    """Independent of the models."""
    assert Residency(max_loaded=2).can_coexist(frozenset("ab"))
    assert not Residency(max_loaded=2).can_coexist(frozenset("abc"))


def test_without_max_loaded_only_models_seen_together_fit() -> None:
    """Subsets of such a set fit too."""
    view = seen("abc", "cd")

    assert view.can_coexist(frozenset("ac"))
    assert not view.can_coexist(frozenset("ad"))
    assert not Residency().can_coexist(frozenset("ab"))


def test_max_loaded_overrules_evidence() -> None:
    """The settings have the last word."""
    view = Residency(coresident=frozenset({frozenset("ab")}), max_loaded=1)

    assert not view.can_coexist(frozenset("ab"))


def test_a_model_fits_without_eviction_if_loaded_or_if_there_is_room() -> None:
    """Room by evidence, or left of max_loaded."""
    assert Residency(frozenset("a"), max_loaded=1).fits_without_eviction("a")
    assert not Residency(frozenset("a"), max_loaded=1).fits_without_eviction("b")
    assert Residency(frozenset("a"), max_loaded=2).fits_without_eviction("b")
    assert seen("ab", resident="a").fits_without_eviction("b")


def test_a_model_can_load_now_if_it_evicts_no_active_model() -> None:
    """Nothing is active, or the model itself, or all are confirmed, or all are known to fit."""
    view = Residency(frozenset("ab"), max_loaded=1, confirmed=frozenset("ab"))

    assert view.can_load_now("c", {})
    assert view.can_load_now("c", {"c": 1})
    assert view.can_load_now("b", {"a": 1})
    assert not view.can_load_now("c", {"a": 1})
    assert Residency(max_loaded=2).can_load_now("c", {"a": 1})


def test_as_many_active_models_stay_as_fit() -> None:
    """The same ones each time."""
    assert Residency(max_loaded=2).can_coexist_with("c", {"b": 1, "a": 1}) == frozenset("a")
    assert Residency(max_loaded=1).can_coexist_with("c", {"a": 1}) == frozenset()
    assert seen("bc").can_coexist_with("c", {"a": 1, "b": 1}) == frozenset("b")


def test_a_model_cannot_load_beside_one_that_may_be_loading() -> None:
    """The last /api/ps was asked before the load began, and still listed what it evicts."""
    memory = ResidencyTracker(max_loaded=None, now=lambda: 10.0)
    memory.acquire("a")
    memory.release("a", completed=True)
    memory.acquire("b")
    memory.update({"a": 300.0}, 10.0)

    assert memory.view().resident == frozenset("ab")
    assert not memory.view().can_load_now("a", {"b": 1})


@given(VIEWS, NAMES, st.sampled_from("abcd"))
def test_a_model_can_load_once_the_other_active_models_finished(
    view: Residency, active: frozenset[str], model: str
) -> None:
    """The models that can stay fit together with it."""
    stay = view.can_coexist_with(model, active)

    assert stay <= active
    assert view.can_coexist(stay | {model})
    assert view.can_load_now(model, stay)


def test_a_load_evicts_idle_models_that_do_not_fit() -> None:
    """Active models stay, and so do idle ones that fit."""
    view = Residency(frozenset("ab"), max_loaded=2)

    assert view.after_load("c", {"b": 1}).resident == frozenset("bc")
    assert view.after_load("c", {}).resident == frozenset("ac")
    assert seen("bc", "ad").after_load("c", {}).resident == frozenset("c")


# Evidence of what fits together.

SETS = st.frozensets(st.sampled_from("abcdef"), min_size=1, max_size=4)


def models(names: str) -> frozenset[str]:
    return frozenset(names)


def fit(evidence: CoResidency, names: frozenset[str]) -> bool:
    return Residency(coresident=evidence.sets).can_coexist(names)


def test_subsets_of_a_confirmed_set_fit() -> None:
    """Three at once prove each pair of them, and nothing of a fourth."""
    together = CoResidency()
    together.confirm(models("abc"))

    assert fit(together, models("ac"))
    assert not fit(together, models("ad"))


def test_only_maximal_sets_are_kept() -> None:
    """A subset adds nothing."""
    together = CoResidency()
    for names in ("ab", "abc", "bc"):
        together.confirm(models(names))

    assert together.sets == {models("abc")}


def test_newer_evidence_wins() -> None:
    """Two models that evict each other do not fit until they are seen together again."""
    together = CoResidency()
    together.confirm(models("abc"))
    together.refute(models("ac"))

    assert together.sets == {models("ab"), models("bc")}
    together.confirm(models("ac"))
    assert fit(together, models("ac"))


def test_the_oldest_evidence_is_forgotten() -> None:
    """The number of sets is bounded; one that is seen again counts as new."""
    together = CoResidency(max_sets=2)
    for names in ("ab", "cd", "a", "ab", "ef"):
        together.confirm(models(names))

    assert together.sets == {models("ab"), models("ef")}


@given(st.lists(st.tuples(st.booleans(), SETS), max_size=30))
def test_the_last_evidence_on_a_set_holds(evidence: list[tuple[bool, frozenset[str]]]) -> None:
    """A set confirmed last fits, a set refuted last does not."""
    together = CoResidency(max_sets=8)
    for fits, names in evidence:
        if fits:
            together.confirm(names)
        else:
            together.refute(names)

        assert len(together.sets) <= 8
        assert fit(together, names) == (fits or len(names) <= 1)
        assert not any(one < other for one in together.sets for other in together.sets)


# The tracker.


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker(clock: Clock) -> ResidencyTracker:
    return ResidencyTracker(max_loaded=None, now=clock)


def request(tracker: ResidencyTracker, model: str) -> None:
    tracker.acquire(model)
    tracker.release(model, completed=True)


def resident(tracker: ResidencyTracker) -> set[str]:
    return set(tracker.view().resident)


def confirmed(tracker: ResidencyTracker) -> set[str]:
    return set(tracker.view().confirmed)


def test_nothing_is_resident_at_first(tracker: ResidencyTracker) -> None:
    """Before any request and any /api/ps."""
    assert tracker.view() == Residency()
    assert repr(tracker) == "<ResidencyTracker nothing, 0 sets coresident>"


def test_a_model_in_use_is_resident_and_not_confirmed(
    tracker: ResidencyTracker,
) -> None:
    """It is loaded or being loaded."""
    assert tracker.acquire("a") is False

    assert (resident(tracker), confirmed(tracker)) == ({"a"}, set())
    assert repr(tracker) == "<ResidencyTracker a (1 active)?, 0 sets coresident>"


def test_a_response_confirms_that_a_model_is_loaded(tracker: ResidencyTracker) -> None:
    """The next request for it waits for no load."""
    request(tracker, "a")

    assert confirmed(tracker) == {"a"}
    assert tracker.acquire("a") is True


def test_a_request_without_a_response_confirms_nothing(tracker: ResidencyTracker) -> None:
    """A load that has begun goes on: resident, and not confirmed."""
    tracker.acquire("a")
    tracker.release("a", completed=False)

    assert (resident(tracker), confirmed(tracker)) == ({"a"}, set())


def test_a_failed_request_keeps_a_confirmed_model(tracker: ResidencyTracker) -> None:
    """One failure says nothing against a model that has responded to others."""
    request(tracker, "a")
    tracker.acquire("a")
    tracker.release("a", completed=False)

    assert confirmed(tracker) == {"a"}


def test_another_model_evicts_an_idle_one(
    tracker: ResidencyTracker,
) -> None:
    """Unless both are known to fit."""
    request(tracker, "a")
    tracker.acquire("b")

    assert resident(tracker) == {"b"}


def test_an_active_model_is_not_evicted(tracker: ResidencyTracker) -> None:
    """Ollama never unloads a model that it is using."""
    tracker.acquire("a")
    tracker.acquire("b")

    assert resident(tracker) == {"a", "b"}


def test_models_seen_together_do_not_evict_each_other(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """After one /api/ps with both, requests alternate without evictions."""
    tracker.update({"a": 60.0, "b": 60.0}, clock())
    request(tracker, "a")
    request(tracker, "b")

    assert confirmed(tracker) == {"a", "b"}
    assert tracker.view().coresident == {frozenset("ab")}


@pytest.mark.parametrize(("max_loaded", "left"), [(1, {"c"}), (2, {"b", "c"}), (3, set("abc"))])
def test_max_loaded_limits_the_resident_models(
    max_loaded: int, left: set[str], clock: Clock
) -> None:
    """The model unused for longest is evicted first."""
    tracker = ResidencyTracker(max_loaded=max_loaded, now=clock)
    for model in "abc":
        clock.time += 1
        request(tracker, model)

    assert resident(tracker) == left
    assert tracker.view().max_loaded == max_loaded


def test_an_update_corrects_assumed_evictions(tracker: ResidencyTracker, clock: Clock) -> None:
    """In both directions."""
    request(tracker, "a")
    request(tracker, "b")
    clock.time += 1
    tracker.update({"a": 60.0}, clock())

    assert resident(tracker) == {"a"}


def test_a_loading_model_is_resident_although_it_is_not_listed(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Ollama does not list a load under way."""
    tracker.acquire("a")
    clock.time += 1
    tracker.update({}, clock())

    assert resident(tracker) == {"a"}


def test_a_listed_model_that_still_loads_is_not_confirmed(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Ollama may list it before the load is complete: the first response confirms it."""
    tracker.acquire("a")
    clock.time += 1
    tracker.update({"a": 300.0}, clock())

    assert (resident(tracker), confirmed(tracker)) == ({"a"}, set())


def test_an_active_model_that_is_not_listed_is_no_longer_confirmed(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Another client evicted it: a second request for it waits for a load."""
    request(tracker, "a")
    tracker.acquire("a")
    clock.time += 1
    tracker.update({}, clock())

    assert (resident(tracker), confirmed(tracker)) == ({"a"}, set())


def test_events_after_ollama_was_asked_count_more_than_its_response(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """A late response neither hides a model used since nor brings back an evicted one."""
    request(tracker, "a")
    fetched_at = clock()
    clock.time += 1
    request(tracker, "b")
    tracker.update({"a": 60.0}, fetched_at)

    assert resident(tracker) == {"b"}


def test_an_update_older_than_the_last_one_is_ignored(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Responses that overtake each other do no harm."""
    tracker.update({"a": 60.0}, clock())
    tracker.update({"b": 60.0}, clock() - 1)

    assert resident(tracker) == {"a"}


@pytest.mark.parametrize(
    ("announced", "stays"), [(30.0, 30.0), (None, KEEP_ALIVE), (900.0, 900.0), (-1.0, 0.0)]
)
def test_a_model_expires_when_ollama_announced_it(
    announced: float | None, stays: float, tracker: ResidencyTracker, clock: Clock
) -> None:
    """Without an announcement five minutes after its last use."""
    tracker.update({"a": announced}, clock())
    clock.time += stays - 0.1
    before = resident(tracker)
    clock.time += 0.2

    assert (before, resident(tracker)) == ({"a"} if stays else set(), set())


def test_a_model_that_is_kept_for_ever_does_not_expire(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """``keep_alive: -1``."""
    tracker.update({"a": math.inf}, clock())
    clock.time += 1e9

    assert resident(tracker) == {"a"}


def test_a_request_extends_an_announced_expiry(tracker: ResidencyTracker, clock: Clock) -> None:
    """Ollama restarts the time with each request: the older announcement is a minimum."""
    tracker.update({"a": 30.0}, clock())
    clock.time += 20
    request(tracker, "a")
    clock.time += KEEP_ALIVE - 1
    before = resident(tracker)
    clock.time += 2

    assert (before, resident(tracker)) == ({"a"}, set())


def test_an_active_model_does_not_expire(tracker: ResidencyTracker, clock: Clock) -> None:
    """A response may take longer than any keep-alive."""
    tracker.update({"a": 30.0}, clock())
    tracker.acquire("a")
    clock.time += 10_000

    assert resident(tracker) == {"a"}


def test_a_model_expires_five_minutes_after_its_last_request(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Also one that was active when it would have expired long ago."""
    request(tracker, "a")
    tracker.acquire("a")
    clock.time += 2 * KEEP_ALIVE
    at_work = resident(tracker)
    tracker.release("a", completed=True)
    clock.time += KEEP_ALIVE - 1
    before = resident(tracker)
    clock.time += 2

    assert (at_work, before, resident(tracker)) == ({"a"}, {"a"}, set())


def test_the_view_is_the_same_object_until_something_changes(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """The scheduler reads it for each decision."""
    request(tracker, "a")
    view = tracker.view()
    request(tracker, "a")
    clock.time += 1
    tracker.update({"a": 300.0}, clock())

    assert tracker.view() is view
    clock.time += 400
    assert tracker.view() is not view


def test_an_early_disappearance_after_a_load_refutes_a_set(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Two models that were seen together and now evict each other, as after a longer context."""
    tracker.update({"a": 300.0, "b": 300.0}, clock())
    tracker.update({"a": 300.0}, clock())
    clock.time += 5
    request(tracker, "b")
    clock.time += 1
    tracker.update({"b": 300.0}, clock())

    assert tracker.view().coresident == frozenset()


def test_a_set_is_refuted_while_the_other_model_still_loads(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """The eviction is seen before the load is listed; it says nothing of other models."""
    tracker.update({"a": 300.0, "c": 300.0}, clock())
    tracker.update({"a": 300.0, "b": 300.0}, clock())
    tracker.update({"a": 300.0}, clock())
    clock.time += 5
    tracker.acquire("b")
    clock.time += 1
    tracker.update({}, clock())

    assert tracker.view().coresident == {frozenset("ac")}


@pytest.mark.parametrize(
    ("announced", "came"),
    [(6.0, {"b": 300.0}), (None, {"b": 300.0}), (300.0, {}), (300.0, {"c": 300.0})],
    ids=["at its time", "not announced", "nothing came", "another one came"],
)
def test_other_disappearances_refute_nothing(
    announced: float | None,
    came: dict[str, float],
    tracker: ResidencyTracker,
    clock: Clock,
) -> None:
    """A model that expired, or was unloaded for no other or for a third one."""
    tracker.update({"a": 300.0, "b": 300.0}, clock())
    tracker.update({"a": announced}, clock())
    clock.time += 5
    tracker.update(came, clock())

    assert tracker.view().coresident == {frozenset("ab")}


def test_a_refuted_set_of_three_leaves_its_pairs(tracker: ResidencyTracker, clock: Clock) -> None:
    """Only the models that stayed and the evicted one are refuted together."""
    tracker.update({"a": 300.0, "c": 300.0}, clock())
    tracker.update({"a": 300.0, "b": 300.0}, clock())
    clock.time += 5
    tracker.update({"b": 300.0, "c": 300.0}, clock())

    assert tracker.view().coresident == {frozenset("ab"), frozenset("ac"), frozenset("bc")}


def test_a_load_is_unverified_until_the_next_update(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """Only /api/ps tells what was evicted for it."""
    request(tracker, "a")
    unverified_load_at = tracker.unverified_load_at
    clock.time += 3
    request(tracker, "a")
    tracker.update({"a": 300.0}, clock())

    assert unverified_load_at == 1000.0
    assert tracker.unverified_load_at is None


def test_an_update_from_before_a_load_does_not_verify_it(
    tracker: ResidencyTracker, clock: Clock
) -> None:
    """It says nothing of loads that ended after Ollama was asked."""
    request(tracker, "a")
    clock.time += 3
    request(tracker, "b")
    tracker.update({"a": 300.0}, 1001.0)

    assert tracker.unverified_load_at == 1003.0


def test_forget_keeps_only_models_in_use(tracker: ResidencyTracker, clock: Clock) -> None:
    """Ollama may have restarted; its empty memory is no evidence of what fits."""
    tracker.update({"b": 300.0, "c": 300.0}, clock())
    tracker.update({"a": 300.0, "b": 300.0}, clock())
    tracker.acquire("a")
    tracker.forget()
    clock.time += 1
    tracker.update({"c": 300.0}, clock())

    assert (resident(tracker), confirmed(tracker)) == ({"a", "c"}, {"c"})
    assert tracker.view().coresident == {frozenset("ab"), frozenset("bc")}


def test_the_number_of_listed_models_is_bounded(tracker: ResidencyTracker, clock: Clock) -> None:
    """What listens on Ollama's port cannot fill our memory."""
    tracker.update({f"m{n}": None for n in range(10_000)}, clock())

    assert len(resident(tracker)) == MAX_LISTED


def test_a_release_without_an_acquire_is_ignored(tracker: ResidencyTracker) -> None:
    """Nothing becomes resident by it."""
    tracker.release("a", completed=True)

    assert resident(tracker) == set()


@dataclass
class Memory:
    """An Ollama with room for ``room`` models, which unloads the one used longest ago."""

    room: int
    loaded: list[str] = field(default_factory=list)

    def use(self, model: str) -> None:
        if model in self.loaded:
            self.loaded.remove(model)
        self.loaded = [*self.loaded, model][-self.room :]


STEPS = st.lists(
    st.one_of(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["update", "late update", "begin a", "end a", "forget"]),
        st.floats(0.0, 400.0),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 4), st.sampled_from([None, 1, 2, 3]))
def test_invariants_hold_for_any_sequence_of_events(
    steps: list[str | float], room: int, max_loaded: int | None
) -> None:
    """Models in use and confirmed models are resident, and an update corrects everything."""
    clock = Clock()
    tracker = ResidencyTracker(max_loaded=max_loaded, now=clock)
    memory = Memory(room)
    requests = 0
    for step in steps:
        match step:
            case float():
                clock.time += step
            case "update" | "late update":
                clock.time += 1
                tracker.update(dict.fromkeys(memory.loaded, 60.0), clock() - (step != "update") * 5)
                if step == "update":
                    expected = {*memory.loaded, *("a" if requests else "")}
                    assert resident(tracker) == expected
            case "begin a":
                tracker.acquire("a")
                memory.use("a")
                requests += 1
            case "end a":
                tracker.release("a", completed=True)
                requests = max(0, requests - 1)
            case "forget":
                tracker.forget()
            case str():
                request(tracker, step)
                memory.use(step)
                assert step in resident(tracker)
        view = tracker.view()

        assert view is tracker.view()
        assert view.confirmed <= view.resident
        assert not requests or "a" in view.resident
        assert all(len(names) <= room for names in view.coresident)


# The watcher of /api/ps.

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def ps_of(**expires: object) -> bytes:
    entries = [{"name": name, "model": name, "expires_at": at} for name, at in expires.items()]
    return msgspec.json.encode({"models": entries})


def test_a_recorded_ps_is_read() -> None:
    """Nanoseconds are cut to microseconds."""
    assert parse_ps(PS_0_24, NOON) == {"tiny:latest": 13 * 60 + 14.933234}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-22T12:05:00Z", 300.0),
        ("2026-11-22T14:05:00.123456789+02:00", 300.123456),
        ("2026-11-22T04:05:00-08:00", 300.0),
        ("2026-11-22T11:59:59.5Z", -0.5),
        ("2318-03-04T11:59:59.775808Z", math.inf),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", math.inf),
        ("292277-01-01T00:00:00Z", None),
        ("2026-11-22T12:05:00", None),
        ("2026-11-22T12:05:00+99:00", None),
        ("soon", None),
        ("", None),
        ("2026-11-22T12:05:00." + "0" * 5000 + "Z", None),
        (1795349452, None),
        (None, None),
        ([], None),
    ],
)
def test_expiry_times_are_read(text: object, seconds: float | None) -> None:
    """Any offset; never is infinity; other texts, and Go's zero time, are unknown."""
    assert parse_ps(ps_of(a=text), NOON) == {"a": seconds}


def test_entries_without_a_name_are_skipped() -> None:
    """One broken entry does not cost the others."""
    body = b'{"models":[7,null,{"expires_at":"x"},{"name":"a"}],"more":1}'

    assert parse_ps(body, NOON) == {"a": None}
    assert parse_ps(b'{"models":null}', NOON) == {}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"error":"x"}', b'{"models":7}', b"\xff"]
)
def test_a_body_that_is_not_ollamas_is_an_error(body: bytes) -> None:
    """It does not mean that nothing is loaded."""
    with pytest.raises(UpstreamProtocolError):
        parse_ps(body, NOON)


@given(st.text())
def test_any_text_is_seconds_or_unknown(text: str) -> None:
    """Never NaN."""
    seconds = parse_ps(ps_of(a=text), NOON)["a"]

    assert seconds is None or seconds == seconds  # noqa: PLR0124  - NaN is not


class Ollama:
    """Lists ``loaded`` as staying five minutes; ``asked_at`` records when it was asked."""

    def __init__(self, *loaded: str) -> None:
        self.loaded = loaded
        self.error: GatewayError | None = None
        self.body: bytes | None = None
        self.fetched_at: list[float] = []
        self.busy = False

    async def ps(self) -> bytes:
        self.fetched_at.append(now() - 1000.0)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.body or ps_of(**dict.fromkeys(self.loaded, "2026-11-22T12:05:00Z"))


@asynccontextmanager
async def watched(ollama: Ollama) -> AsyncIterator[ResidencyTracker]:
    tracker = ResidencyTracker(max_loaded=None, now=now)
    watcher = ResidencyWatcher(
        ollama.ps, tracker, busy=lambda: ollama.busy, now=now, now_utc=lambda: NOON
    )
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(watcher.run())
        await ticks(5)
        yield tracker
        loop.cancel()


@virtual_time
async def test_the_watcher_asks_at_once() -> None:
    """Models loaded before the gateway started are known before the first request."""
    async with watched(Ollama("a")) as tracker:
        assert tracker.view().confirmed == {"a"}


@virtual_time
async def test_the_watcher_asks_once_a_minute_while_idle() -> None:
    ollama = Ollama("a")
    async with watched(ollama):
        await asyncio.sleep(3 * IDLE_INTERVAL + 1)

    assert ollama.fetched_at == [0.0, 60.0, 120.0, 180.0]


@virtual_time
async def test_the_watcher_asks_every_five_seconds_while_busy() -> None:
    """From the moment when requests come."""
    ollama = Ollama("a")
    async with watched(ollama):
        await asyncio.sleep(20)
        ollama.busy = True
        await asyncio.sleep(2 * BUSY_INTERVAL + 1)

    assert ollama.fetched_at == pytest.approx([0.0, 20.5, 25.5, 30.5], abs=0.5)


@virtual_time
async def test_the_watcher_asks_once_a_moment_after_a_load() -> None:
    """Whether two models fit together is known soon after the second was loaded."""
    ollama = Ollama("a")
    async with watched(ollama) as tracker:
        await asyncio.sleep(10)
        tracker.acquire("b")
        await asyncio.sleep(8)
        tracker.release("b", completed=True)
        ollama.loaded = ("a", "b")
        await asyncio.sleep(2)
        assert tracker.view().resident == {"a", "b"}
        assert tracker.view().coresident == {frozenset("ab")}
        await asyncio.sleep(30)

    assert ollama.fetched_at == pytest.approx([0.0, 19.0], abs=0.6)


@virtual_time
async def test_requests_for_a_loaded_model_are_no_reason_to_ask() -> None:
    """Many requests for one model cost no more than none."""
    ollama = Ollama("a")
    async with watched(ollama) as tracker:
        for _ in range(50):
            tracker.acquire("a")
            await asyncio.sleep(0.5)
            tracker.release("a", completed=True)

    assert ollama.fetched_at == [0.0]


@pytest.mark.parametrize("body", [None, b"<html>"])
@virtual_time
async def test_a_failed_update_changes_nothing(body: bytes | None) -> None:
    """Ollama is not asked more often because of it."""
    ollama = Ollama("a")
    async with watched(ollama) as tracker:
        ollama.error = None if body else UpstreamUnreachable("connection refused")
        ollama.body = body
        tracker.acquire("b")
        tracker.release("b", completed=True)
        await asyncio.sleep(IDLE_INTERVAL + 5)
        assert tracker.view().confirmed == {"b"}

    assert ollama.fetched_at == pytest.approx([0.0, 1.0, 61.0], abs=0.6)


@virtual_time
async def test_an_update_counts_as_old_as_its_cache_allows() -> None:
    """A model used within that second is not taken for unloaded."""
    ollama = Ollama()
    async with watched(ollama) as tracker:
        ollama.busy = True
        await asyncio.sleep(4.4)
        tracker.acquire("a")
        tracker.release("a", completed=True)
        await asyncio.sleep(0.8)
        assert len(ollama.fetched_at) == 2
        assert tracker.view().confirmed == {"a"}
        await asyncio.sleep(2)
        assert tracker.view().resident == frozenset()


@pytest.mark.parametrize("steps", range(6))
@virtual_time
async def test_the_watcher_can_be_cancelled_anywhere(steps: int) -> None:
    """A shutdown ends it at whatever await it is."""
    tracker = ResidencyTracker(max_loaded=None, now=now)
    watcher = ResidencyWatcher(Ollama("a").ps, tracker, busy=lambda: True, now=now)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(watcher.run())
        await ticks(steps)
        loop.cancel()

    assert loop.cancelled()
    assert repr(watcher).startswith("<ResidencyWatcher busy, <ResidencyTracker ")
