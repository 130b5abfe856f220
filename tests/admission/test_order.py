"""Who is next, as a pure function."""

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.demand import Demand, Limits, Occupancy
from gateway.admission.order import Decision, first_come, goes_before

from .demands import demand, limits


@dataclass(frozen=True)
class Waiting:
    demand: Demand
    arrived_at: float = 0.0


DEMANDS = st.builds(
    demand,
    key=st.sampled_from(["a", "b"]),
    model=st.sampled_from(["m", "n"]),
    model_max_active=st.integers(1, 3),
    key_max_active=st.none() | st.integers(1, 3),
)
LIMITS = st.integers(1, 4).map(lambda most: limits(max_active=most))


def taken_by(*holders: Demand) -> Occupancy:
    taken = Occupancy()
    for holder in holders:
        taken.add(holder)
    return taken


def test_nobody_is_next_where_nobody_waits() -> None:
    """And there is no time to ask again: a place alone changes nothing."""
    assert first_come((), Occupancy(), limits(), 0.0) == Decision(None, None)


def test_the_first_to_come_is_the_first_to_go() -> None:
    """Among those who can go, the order of arrival."""
    first, second = Waiting(demand("a")), Waiting(demand("b"))

    assert first_come([first, second], Occupancy(), limits(), 0.0).waiter is first


def test_nobody_goes_while_all_places_are_taken() -> None:
    """The cap of all."""
    waiting = [Waiting(demand("b"))]

    assert first_come(waiting, taken_by(demand("a")), limits(), 0.0).waiter is None


def test_one_at_a_cap_of_his_own_is_passed_over() -> None:
    """A place that he could not use is not kept for him."""
    capped = Waiting(demand("a", "m", key_max_active=1))
    same_model = Waiting(demand("b", "m", model_max_active=1))
    free = Waiting(demand("b", "n", model_max_active=1))
    taken = taken_by(demand("a", "m"))

    assert first_come([capped, same_model, free], taken, limits(max_active=2), 0.0).waiter is free


@given(st.lists(DEMANDS, max_size=6), st.lists(DEMANDS, max_size=4), LIMITS)
def test_whoever_is_next_fits_and_no_earlier_one_does(
    waiting: list[Demand], holders: list[Demand], caps: Limits
) -> None:
    """The answer is the first that has room, and None means that none has."""
    candidates = [Waiting(one) for one in waiting]
    taken = taken_by(*holders)
    chosen = first_come(candidates, taken, caps, 0.0).waiter
    fitting = [one for one in candidates if taken.has_room(one.demand, caps)]

    assert chosen is (fitting[0] if fitting else None)


@given(DEMANDS, DEMANDS, LIMITS)
def test_one_who_goes_before_another_fits_wherever_that_one_does(
    ahead: Demand, behind: Demand, caps: Limits
) -> None:
    """What ``goes_before`` promises, held against every house of up to three holders."""
    if not goes_before(ahead, behind, caps) or _caps_differ(ahead, behind):
        return
    kinds = [demand(key, model) for key in "ab" for model in "mn"]
    for count in range(4):
        for holders in itertools.combinations_with_replacement(kinds, count):
            taken = taken_by(*holders)

            assert taken.has_room(ahead, caps) or not taken.has_room(behind, caps)


def test_nobody_goes_before_one_who_does_not_wait_for_the_same() -> None:
    """Another model, or a key that may be at its cap, can be passed over."""
    caps = limits(max_active=2)
    one = demand("a", "m", model_max_active=1, key_max_active=1)

    assert goes_before(one, demand("a", "m", model_max_active=1, key_max_active=1), caps)
    assert not goes_before(one, demand("a", "n", model_max_active=1, key_max_active=1), caps)
    assert not goes_before(one, demand("b", "m", model_max_active=1), caps)
    assert goes_before(one, demand("b", "n"), limits(max_active=1))


def _caps_differ(one: Demand, other: Demand) -> bool:
    """Calls for one model, or of one key, never do: the cap is the model's, or the key's."""
    model = one.model == other.model and one.model_max_active != other.model_max_active
    return model or (one.key == other.key and one.key_max_active != other.key_max_active)
