import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.residency import MOST_LISTED, UNUSED_FOR, Residents, ResidentsView


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def residents(clock: Clock) -> Residents:
    return Residents(max_loaded=None, now=clock)


def call(residents: Residents, model: str) -> None:
    residents.began(model)
    residents.ended(model, answered=True)


def resident(residents: Residents) -> set[str]:
    return set(residents.view().resident)


def proven(residents: Residents) -> set[str]:
    return set(residents.view().proven)


def test_at_first_nothing_is_known(residents: Residents) -> None:
    """Without calls and without Ollama's word nothing is believed."""
    assert residents.view() == ResidentsView()
    assert repr(residents) == "<Residents nothing, 0 sets together>"


def test_a_model_with_a_lease_is_believed_and_not_proven(residents: Residents) -> None:
    """It is loaded or being loaded; whether a call waits for that, only its answer tells."""
    assert residents.began("a") is False

    assert (resident(residents), proven(residents)) == ({"a"}, set())
    assert repr(residents) == "<Residents a (1 at work)?, 0 sets together>"


def test_an_answer_proves_that_it_is_loaded(residents: Residents) -> None:
    """The next call to it waits for no load."""
    call(residents, "a")

    assert proven(residents) == {"a"}
    assert residents.began("a") is True


def test_a_call_without_an_answer_proves_nothing(residents: Residents) -> None:
    """A load that has begun goes on without its caller: believed, and not relied on."""
    residents.began("a")
    residents.ended("a", answered=False)

    assert (resident(residents), proven(residents)) == ({"a"}, set())


def test_a_failure_does_not_unload(residents: Residents) -> None:
    """One call that failed says nothing against a model that has answered others."""
    call(residents, "a")
    residents.began("a")
    residents.ended("a", answered=False)

    assert proven(residents) == {"a"}


def test_another_model_is_believed_to_drive_out_an_idle_one(residents: Residents) -> None:
    """What is not known to fit together does not, for all that is believed."""
    call(residents, "a")
    residents.began("b")

    assert resident(residents) == {"b"}


def test_a_model_at_work_is_not_driven_out(residents: Residents) -> None:
    """Ollama never unloads what it is answering with."""
    residents.began("a")
    residents.began("b")

    assert resident(residents) == {"a", "b"}


def test_what_was_seen_together_stays_together(residents: Residents, clock: Clock) -> None:
    """After one look at both in memory, calls alternate without anybody being driven out."""
    residents.seen({"a": 60.0, "b": 60.0}, clock())
    call(residents, "a")
    call(residents, "b")

    assert proven(residents) == {"a", "b"}
    assert residents.view().together == {frozenset("ab")}


@pytest.mark.parametrize(("max_loaded", "left"), [(1, {"c"}), (2, {"b", "c"}), (3, set("abc"))])
def test_the_owners_number_decides(max_loaded: int, left: set[str], clock: Clock) -> None:
    """With ``max_loaded`` so many stay, and the one used longest ago goes first."""
    residents = Residents(max_loaded=max_loaded, now=clock)
    for model in "abc":
        clock.time += 1
        call(residents, model)

    assert resident(residents) == left
    assert residents.view().max_loaded == max_loaded


def test_ollama_has_the_last_word(residents: Residents, clock: Clock) -> None:
    """What was believed gone is back when Ollama lists it, and the other way round."""
    call(residents, "a")
    call(residents, "b")
    clock.time += 1
    residents.seen({"a": 60.0}, clock())

    assert resident(residents) == {"a"}


def test_a_model_that_loads_is_believed_though_not_listed(
    residents: Residents, clock: Clock
) -> None:
    """Ollama lists nothing of a load under way; the lease says that it is."""
    residents.began("a")
    clock.time += 1
    residents.seen({}, clock())

    assert resident(residents) == {"a"}


def test_a_listed_model_that_loads_for_us_is_not_proven(residents: Residents, clock: Clock) -> None:
    """Ollama may list what it has not loaded to the end: the first answer proves it."""
    residents.began("a")
    clock.time += 1
    residents.seen({"a": 300.0}, clock())

    assert (resident(residents), proven(residents)) == ({"a"}, set())


def test_a_model_at_work_that_ollama_does_not_list_must_load_again(
    residents: Residents, clock: Clock
) -> None:
    """Somebody else drove it out: a second call to it waits for a load."""
    call(residents, "a")
    residents.began("a")
    clock.time += 1
    residents.seen({}, clock())

    assert (resident(residents), proven(residents)) == ({"a"}, set())


def test_what_happened_after_ollama_was_asked_counts_more(
    residents: Residents, clock: Clock
) -> None:
    """A late answer neither hides a model that was used since nor brings back one driven out."""
    call(residents, "a")
    asked_at = clock()
    clock.time += 1
    call(residents, "b")
    residents.seen({"a": 60.0}, asked_at)

    assert resident(residents) == {"b"}


def test_an_answer_older_than_the_last_one_is_ignored(residents: Residents, clock: Clock) -> None:
    """Answers that overtake each other do no harm."""
    residents.seen({"a": 60.0}, clock())
    residents.seen({"b": 60.0}, clock() - 1)

    assert resident(residents) == {"a"}


@pytest.mark.parametrize(
    ("announced", "stays"), [(30.0, 30.0), (None, UNUSED_FOR), (900.0, 900.0), (-1.0, 0.0)]
)
def test_a_model_leaves_when_it_was_announced(
    announced: float | None, stays: float, residents: Residents, clock: Clock
) -> None:
    """At the time that Ollama gave; without one, five minutes after the last that is known."""
    residents.seen({"a": announced}, clock())
    clock.time += stays - 0.1
    before = resident(residents)
    clock.time += 0.2

    assert (before, resident(residents)) == ({"a"} if stays else set(), set())


def test_a_model_that_is_kept_for_ever_stays(residents: Residents, clock: Clock) -> None:
    """``keep_alive: -1`` never expires."""
    residents.seen({"a": math.inf}, clock())
    clock.time += 1e9

    assert resident(residents) == {"a"}


def test_a_use_prolongs_what_was_announced(residents: Residents, clock: Clock) -> None:
    """Ollama's clock starts anew with each call: its older announcement is a minimum."""
    residents.seen({"a": 30.0}, clock())
    clock.time += 20
    call(residents, "a")
    clock.time += UNUSED_FOR - 1
    before = resident(residents)
    clock.time += 2

    assert (before, resident(residents)) == ({"a"}, set())


def test_a_model_at_work_does_not_expire(residents: Residents, clock: Clock) -> None:
    """An answer may take longer than any keep-alive."""
    residents.seen({"a": 30.0}, clock())
    residents.began("a")
    clock.time += 10_000

    assert resident(residents) == {"a"}


def test_after_its_last_call_a_model_expires_as_usual(residents: Residents, clock: Clock) -> None:
    """Also one that was seen at work when it would have expired long ago."""
    call(residents, "a")
    residents.began("a")
    clock.time += 2 * UNUSED_FOR
    at_work = resident(residents)
    residents.ended("a", answered=True)
    clock.time += UNUSED_FOR - 1
    before = resident(residents)
    clock.time += 2

    assert (at_work, before, resident(residents)) == ({"a"}, {"a"}, set())


def test_the_view_is_one_object_until_something_changes(residents: Residents, clock: Clock) -> None:
    """It is read at each dispatch, so what says the same is the same."""
    call(residents, "a")
    view = residents.view()
    call(residents, "a")
    clock.time += 1
    residents.seen({"a": 300.0}, clock())

    assert residents.view() is view
    clock.time += 400
    assert residents.view() is not view


def test_vanishing_early_after_a_load_is_evidence(residents: Residents, clock: Clock) -> None:
    """Two that were seen together and now drive each other out fit no more (a longer context)."""
    residents.seen({"a": 300.0, "b": 300.0}, clock())
    residents.seen({"a": 300.0}, clock())
    clock.time += 5
    call(residents, "b")
    clock.time += 1
    residents.seen({"b": 300.0}, clock())

    assert residents.view().together == frozenset()


def test_evidence_while_the_other_still_loads(residents: Residents, clock: Clock) -> None:
    """What had to go for a load is seen before the load is listed; of others it says nothing."""
    residents.seen({"a": 300.0, "c": 300.0}, clock())
    residents.seen({"a": 300.0, "b": 300.0}, clock())
    residents.seen({"a": 300.0}, clock())
    clock.time += 5
    residents.began("b")
    clock.time += 1
    residents.seen({}, clock())

    assert residents.view().together == {frozenset("ac")}


@pytest.mark.parametrize(
    ("announced", "came"),
    [(6.0, {"b": 300.0}), (None, {"b": 300.0}), (300.0, {}), (300.0, {"c": 300.0})],
    ids=["at its time", "not announced", "nothing came", "another one came"],
)
def test_vanishing_that_is_no_evidence(
    announced: float | None, came: dict[str, float], residents: Residents, clock: Clock
) -> None:
    """A model that went at its time, or for nobody, or for a third, says nothing of these two."""
    residents.seen({"a": 300.0, "b": 300.0}, clock())
    residents.seen({"a": announced}, clock())
    clock.time += 5
    residents.seen(came, clock())

    assert residents.view().together == {frozenset("ab")}


def test_three_that_do_not_fit_leave_their_pairs(residents: Residents, clock: Clock) -> None:
    """Only what stayed and what had to go are refuted together."""
    residents.seen({"a": 300.0, "c": 300.0}, clock())
    residents.seen({"a": 300.0, "b": 300.0}, clock())
    clock.time += 5
    residents.seen({"b": 300.0, "c": 300.0}, clock())

    assert residents.view().together == {frozenset("ab"), frozenset("ac"), frozenset("bc")}


def test_a_load_leaves_a_doubt_that_a_look_ends(residents: Residents, clock: Clock) -> None:
    """After a call that may have loaded its model it is time to ask what went for it."""
    call(residents, "a")
    doubtful_since = residents.doubtful_since
    clock.time += 3
    call(residents, "a")
    residents.seen({"a": 300.0}, clock())

    assert doubtful_since == 1000.0
    assert residents.doubtful_since is None


def test_a_look_from_before_leaves_the_later_doubt(residents: Residents, clock: Clock) -> None:
    """An answer says nothing of loads that ended after Ollama was asked."""
    call(residents, "a")
    clock.time += 3
    call(residents, "b")
    residents.seen({"a": 300.0}, 1001.0)

    assert residents.doubtful_since == 1003.0


def test_ollama_away_means_nothing_is_loaded(residents: Residents, clock: Clock) -> None:
    """It may have been started anew; and its empty memory is no evidence of what fits."""
    residents.seen({"b": 300.0, "c": 300.0}, clock())
    residents.seen({"a": 300.0, "b": 300.0}, clock())
    residents.began("a")
    residents.forget()
    clock.time += 1
    residents.seen({"c": 300.0}, clock())

    assert (resident(residents), proven(residents)) == ({"a", "c"}, {"c"})
    assert residents.view().together == {frozenset("ab"), frozenset("bc")}


def test_a_flood_of_names_is_bounded(residents: Residents, clock: Clock) -> None:
    """Whatever answers at Ollama's address cannot fill our memory."""
    residents.seen({f"m{n}": None for n in range(10_000)}, clock())

    assert len(resident(residents)) == MOST_LISTED


def test_an_end_that_has_no_beginning(residents: Residents) -> None:
    """Nothing is believed for it."""
    residents.ended("a", answered=True)

    assert resident(residents) == set()


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
    residents = Residents(max_loaded=max_loaded, now=clock)
    memory = Memory(room)
    leases = 0
    for step in steps:
        match step:
            case float():
                clock.time += step
            case "look" | "late look":
                clock.time += 1
                residents.seen(dict.fromkeys(memory.loaded, 60.0), clock() - (step != "look") * 5)
                if step == "look":
                    expected = {*memory.loaded, *("a" if leases else "")}
                    assert resident(residents) == expected
            case "begin a":
                residents.began("a")
                memory.use("a")
                leases += 1
            case "end a":
                residents.ended("a", answered=True)
                leases = max(0, leases - 1)
            case "forget":
                residents.forget()
            case str():
                call(residents, step)
                memory.use(step)
                assert step in resident(residents)
        view = residents.view()

        assert view is residents.view()
        assert view.proven <= view.resident
        assert not leases or "a" in view.resident
        assert all(len(names) <= room for names in view.together)
