import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.residency import MOST_LISTED, UNUSED_FOR, ResidencyTracker, ResidencyView


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def residency_tracker(clock: Clock) -> ResidencyTracker:
    return ResidencyTracker(max_loaded=None, now=clock)


def call(residency_tracker: ResidencyTracker, model: str) -> None:
    residency_tracker.began(model)
    residency_tracker.ended(model, answered=True)


def resident(residency_tracker: ResidencyTracker) -> set[str]:
    return set(residency_tracker.view().resident)


def proven(residency_tracker: ResidencyTracker) -> set[str]:
    return set(residency_tracker.view().proven)


def test_at_first_nothing_is_known(residency_tracker: ResidencyTracker) -> None:
    """Without calls and without Ollama's word nothing is believed."""
    assert residency_tracker.view() == ResidencyView()
    assert repr(residency_tracker) == "<Residents nothing, 0 sets together>"


def test_a_model_with_a_lease_is_believed_and_not_proven(
    residency_tracker: ResidencyTracker,
) -> None:
    """It is loaded or being loaded; whether a call waits for that, only its answer tells."""
    assert residency_tracker.began("a") is False

    assert (resident(residency_tracker), proven(residency_tracker)) == ({"a"}, set())
    assert repr(residency_tracker) == "<Residents a (1 at work)?, 0 sets together>"


def test_an_answer_proves_that_it_is_loaded(residency_tracker: ResidencyTracker) -> None:
    """The next call to it waits for no load."""
    call(residency_tracker, "a")

    assert proven(residency_tracker) == {"a"}
    assert residency_tracker.began("a") is True


def test_a_call_without_an_answer_proves_nothing(residency_tracker: ResidencyTracker) -> None:
    """A load that has begun goes on without its caller: believed, and not relied on."""
    residency_tracker.began("a")
    residency_tracker.ended("a", answered=False)

    assert (resident(residency_tracker), proven(residency_tracker)) == ({"a"}, set())


def test_a_failure_does_not_unload(residency_tracker: ResidencyTracker) -> None:
    """One call that failed says nothing against a model that has answered others."""
    call(residency_tracker, "a")
    residency_tracker.began("a")
    residency_tracker.ended("a", answered=False)

    assert proven(residency_tracker) == {"a"}


def test_another_model_is_believed_to_drive_out_an_idle_one(
    residency_tracker: ResidencyTracker,
) -> None:
    """What is not known to fit together does not, for all that is believed."""
    call(residency_tracker, "a")
    residency_tracker.began("b")

    assert resident(residency_tracker) == {"b"}


def test_a_model_at_work_is_not_driven_out(residency_tracker: ResidencyTracker) -> None:
    """Ollama never unloads what it is answering with."""
    residency_tracker.began("a")
    residency_tracker.began("b")

    assert resident(residency_tracker) == {"a", "b"}


def test_what_was_seen_together_stays_together(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """After one look at both in memory, calls alternate without anybody being driven out."""
    residency_tracker.seen({"a": 60.0, "b": 60.0}, clock())
    call(residency_tracker, "a")
    call(residency_tracker, "b")

    assert proven(residency_tracker) == {"a", "b"}
    assert residency_tracker.view().together == {frozenset("ab")}


@pytest.mark.parametrize(("max_loaded", "left"), [(1, {"c"}), (2, {"b", "c"}), (3, set("abc"))])
def test_the_owners_number_decides(max_loaded: int, left: set[str], clock: Clock) -> None:
    """With ``max_loaded`` so many stay, and the one used longest ago goes first."""
    residency_tracker = ResidencyTracker(max_loaded=max_loaded, now=clock)
    for model in "abc":
        clock.time += 1
        call(residency_tracker, model)

    assert resident(residency_tracker) == left
    assert residency_tracker.view().max_loaded == max_loaded


def test_ollama_has_the_last_word(residency_tracker: ResidencyTracker, clock: Clock) -> None:
    """What was believed gone is back when Ollama lists it, and the other way round."""
    call(residency_tracker, "a")
    call(residency_tracker, "b")
    clock.time += 1
    residency_tracker.seen({"a": 60.0}, clock())

    assert resident(residency_tracker) == {"a"}


def test_a_model_that_loads_is_believed_though_not_listed(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Ollama lists nothing of a load under way; the lease says that it is."""
    residency_tracker.began("a")
    clock.time += 1
    residency_tracker.seen({}, clock())

    assert resident(residency_tracker) == {"a"}


def test_a_listed_model_that_loads_for_us_is_not_proven(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Ollama may list what it has not loaded to the end: the first answer proves it."""
    residency_tracker.began("a")
    clock.time += 1
    residency_tracker.seen({"a": 300.0}, clock())

    assert (resident(residency_tracker), proven(residency_tracker)) == ({"a"}, set())


def test_a_model_at_work_that_ollama_does_not_list_must_load_again(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Somebody else drove it out: a second call to it waits for a load."""
    call(residency_tracker, "a")
    residency_tracker.began("a")
    clock.time += 1
    residency_tracker.seen({}, clock())

    assert (resident(residency_tracker), proven(residency_tracker)) == ({"a"}, set())


def test_what_happened_after_ollama_was_asked_counts_more(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """A late answer neither hides a model that was used since nor brings back one driven out."""
    call(residency_tracker, "a")
    asked_at = clock()
    clock.time += 1
    call(residency_tracker, "b")
    residency_tracker.seen({"a": 60.0}, asked_at)

    assert resident(residency_tracker) == {"b"}


def test_an_answer_older_than_the_last_one_is_ignored(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Answers that overtake each other do no harm."""
    residency_tracker.seen({"a": 60.0}, clock())
    residency_tracker.seen({"b": 60.0}, clock() - 1)

    assert resident(residency_tracker) == {"a"}


@pytest.mark.parametrize(
    ("announced", "stays"), [(30.0, 30.0), (None, UNUSED_FOR), (900.0, 900.0), (-1.0, 0.0)]
)
def test_a_model_leaves_when_it_was_announced(
    announced: float | None, stays: float, residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """At the time that Ollama gave; without one, five minutes after the last that is known."""
    residency_tracker.seen({"a": announced}, clock())
    clock.time += stays - 0.1
    before = resident(residency_tracker)
    clock.time += 0.2

    assert (before, resident(residency_tracker)) == ({"a"} if stays else set(), set())


def test_a_model_that_is_kept_for_ever_stays(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """``keep_alive: -1`` never expires."""
    residency_tracker.seen({"a": math.inf}, clock())
    clock.time += 1e9

    assert resident(residency_tracker) == {"a"}


def test_a_use_prolongs_what_was_announced(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Ollama's clock starts anew with each call: its older announcement is a minimum."""
    residency_tracker.seen({"a": 30.0}, clock())
    clock.time += 20
    call(residency_tracker, "a")
    clock.time += UNUSED_FOR - 1
    before = resident(residency_tracker)
    clock.time += 2

    assert (before, resident(residency_tracker)) == ({"a"}, set())


def test_a_model_at_work_does_not_expire(residency_tracker: ResidencyTracker, clock: Clock) -> None:
    """An answer may take longer than any keep-alive."""
    residency_tracker.seen({"a": 30.0}, clock())
    residency_tracker.began("a")
    clock.time += 10_000

    assert resident(residency_tracker) == {"a"}


def test_after_its_last_call_a_model_expires_as_usual(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Also one that was seen at work when it would have expired long ago."""
    call(residency_tracker, "a")
    residency_tracker.began("a")
    clock.time += 2 * UNUSED_FOR
    at_work = resident(residency_tracker)
    residency_tracker.ended("a", answered=True)
    clock.time += UNUSED_FOR - 1
    before = resident(residency_tracker)
    clock.time += 2

    assert (at_work, before, resident(residency_tracker)) == ({"a"}, {"a"}, set())


def test_the_view_is_one_object_until_something_changes(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """It is read at each dispatch, so what says the same is the same."""
    call(residency_tracker, "a")
    view = residency_tracker.view()
    call(residency_tracker, "a")
    clock.time += 1
    residency_tracker.seen({"a": 300.0}, clock())

    assert residency_tracker.view() is view
    clock.time += 400
    assert residency_tracker.view() is not view


def test_vanishing_early_after_a_load_is_evidence(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Two that were seen together and now drive each other out fit no more (a longer context)."""
    residency_tracker.seen({"a": 300.0, "b": 300.0}, clock())
    residency_tracker.seen({"a": 300.0}, clock())
    clock.time += 5
    call(residency_tracker, "b")
    clock.time += 1
    residency_tracker.seen({"b": 300.0}, clock())

    assert residency_tracker.view().together == frozenset()


def test_evidence_while_the_other_still_loads(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """What had to go for a load is seen before the load is listed; of others it says nothing."""
    residency_tracker.seen({"a": 300.0, "c": 300.0}, clock())
    residency_tracker.seen({"a": 300.0, "b": 300.0}, clock())
    residency_tracker.seen({"a": 300.0}, clock())
    clock.time += 5
    residency_tracker.began("b")
    clock.time += 1
    residency_tracker.seen({}, clock())

    assert residency_tracker.view().together == {frozenset("ac")}


@pytest.mark.parametrize(
    ("announced", "came"),
    [(6.0, {"b": 300.0}), (None, {"b": 300.0}), (300.0, {}), (300.0, {"c": 300.0})],
    ids=["at its time", "not announced", "nothing came", "another one came"],
)
def test_vanishing_that_is_no_evidence(
    announced: float | None,
    came: dict[str, float],
    residency_tracker: ResidencyTracker,
    clock: Clock,
) -> None:
    """A model that went at its time, or for nobody, or for a third, says nothing of these two."""
    residency_tracker.seen({"a": 300.0, "b": 300.0}, clock())
    residency_tracker.seen({"a": announced}, clock())
    clock.time += 5
    residency_tracker.seen(came, clock())

    assert residency_tracker.view().together == {frozenset("ab")}


def test_three_that_do_not_fit_leave_their_pairs(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """Only what stayed and what had to go are refuted together."""
    residency_tracker.seen({"a": 300.0, "c": 300.0}, clock())
    residency_tracker.seen({"a": 300.0, "b": 300.0}, clock())
    clock.time += 5
    residency_tracker.seen({"b": 300.0, "c": 300.0}, clock())

    assert residency_tracker.view().together == {frozenset("ab"), frozenset("ac"), frozenset("bc")}


def test_a_load_leaves_a_doubt_that_a_look_ends(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """After a call that may have loaded its model it is time to ask what went for it."""
    call(residency_tracker, "a")
    doubtful_since = residency_tracker.doubtful_since
    clock.time += 3
    call(residency_tracker, "a")
    residency_tracker.seen({"a": 300.0}, clock())

    assert doubtful_since == 1000.0
    assert residency_tracker.doubtful_since is None


def test_a_look_from_before_leaves_the_later_doubt(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """An answer says nothing of loads that ended after Ollama was asked."""
    call(residency_tracker, "a")
    clock.time += 3
    call(residency_tracker, "b")
    residency_tracker.seen({"a": 300.0}, 1001.0)

    assert residency_tracker.doubtful_since == 1003.0


def test_ollama_away_means_nothing_is_loaded(
    residency_tracker: ResidencyTracker, clock: Clock
) -> None:
    """It may have been started anew; and its empty memory is no evidence of what fits."""
    residency_tracker.seen({"b": 300.0, "c": 300.0}, clock())
    residency_tracker.seen({"a": 300.0, "b": 300.0}, clock())
    residency_tracker.began("a")
    residency_tracker.forget()
    clock.time += 1
    residency_tracker.seen({"c": 300.0}, clock())

    assert (resident(residency_tracker), proven(residency_tracker)) == ({"a", "c"}, {"c"})
    assert residency_tracker.view().together == {frozenset("ab"), frozenset("bc")}


def test_a_flood_of_names_is_bounded(residency_tracker: ResidencyTracker, clock: Clock) -> None:
    """Whatever answers at Ollama's address cannot fill our memory."""
    residency_tracker.seen({f"m{n}": None for n in range(10_000)}, clock())

    assert len(resident(residency_tracker)) == MOST_LISTED


def test_an_end_that_has_no_beginning(residency_tracker: ResidencyTracker) -> None:
    """Nothing is believed for it."""
    residency_tracker.ended("a", answered=True)

    assert resident(residency_tracker) == set()


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
        st.sampled_from(["look", "late look", "begin a", "end a", "forget"]),
        st.floats(0.0, 400.0),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 4), st.sampled_from([None, 1, 2, 3]))
def test_whatever_happens(steps: list[str | float], room: int, max_loaded: int | None) -> None:
    """Leased models are believed, what is proven is believed, and a look sets everything right."""
    clock = Clock()
    residency_tracker = ResidencyTracker(max_loaded=max_loaded, now=clock)
    memory = Memory(room)
    leases = 0
    for step in steps:
        match step:
            case float():
                clock.time += step
            case "look" | "late look":
                clock.time += 1
                residency_tracker.seen(
                    dict.fromkeys(memory.loaded, 60.0), clock() - (step != "look") * 5
                )
                if step == "look":
                    expected = {*memory.loaded, *("a" if leases else "")}
                    assert resident(residency_tracker) == expected
            case "begin a":
                residency_tracker.began("a")
                memory.use("a")
                leases += 1
            case "end a":
                residency_tracker.ended("a", answered=True)
                leases = max(0, leases - 1)
            case "forget":
                residency_tracker.forget()
            case str():
                call(residency_tracker, step)
                memory.use(step)
                assert step in resident(residency_tracker)
        view = residency_tracker.view()

        assert view is residency_tracker.view()
        assert view.proven <= view.resident
        assert not leases or "a" in view.resident
        assert all(len(names) <= room for names in view.together)
