"""What one who comes now is told to expect, and what is certain of it."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.demand import Demand
from gateway.admission.predict import Outlook, Prediction, predict
from gateway.admission.residency import Residency
from gateway.admission.service import ServiceTimes
from gateway.admission.shares import Shares

from .demands import demand, limits

ALL = Residency(max_loaded=9)
ONE = Residency(frozenset("m"), max_loaded=1)


@dataclass(frozen=True)
class Queue:
    demand: Demand
    count: int

    def __len__(self) -> int:
        return self.count


def waiting(count: int, key: str = "a", model: str = "m", **changes: Any) -> Queue:
    return Queue(demand(key, model, **{"model_max_active": 1, **changes}), count)


def steady(**seconds: float) -> ServiceTimes:
    """Every answer of a model took the same."""
    service = ServiceTimes()
    for model, each in seconds.items():
        for _ in range(60):
            service.add(model, each, resident=True)
    return service


def foreseen(
    wish: Demand,
    *lanes: Queue,
    active: dict[str, int] | None = None,
    service: ServiceTimes | None = None,
    view: Residency = ALL,
    accounts: dict[str, float] | None = None,
    **terms: Any,
) -> Prediction:
    shares = Shares()
    for key, account in (accounts or {}).items():
        shares.charge(key, account)
    outlook = Outlook(
        active={"m": 1} if active is None else active,
        service=service or steady(m=10.0, n=10.0),
        residency=view,
        shares=shares,
        limits=limits(**terms),
    )
    return predict(wish, lanes, outlook)


MINE = demand("a", "m", model_max_active=1)


def test_where_a_place_is_free_nothing_is_waited_for() -> None:
    """The answer alone remains."""
    found = foreseen(MINE, active={})

    assert (found.position, found.wait) == (0, 0.0)
    assert found.finish == pytest.approx(10.0)


def test_a_free_place_that_its_model_may_not_have_is_none() -> None:
    """Two places, one taken by the only call that the model may have: half of that is to come."""
    wish = demand("a", "m", model_max_active=1)

    assert foreseen(wish, max_active=2).wait == pytest.approx(5.0)


def test_what_is_at_work_is_taken_as_half_done_and_at_best_as_done() -> None:
    """One place, nobody before him."""
    found = foreseen(MINE)

    assert found.wait == pytest.approx(5.0)
    assert found.quick == pytest.approx(10.0, rel=0.01)


def test_all_that_the_own_key_has_waiting_goes_before() -> None:
    """Three of ten seconds each, and half of the one at work."""
    found = foreseen(MINE, waiting(3))

    assert found.position == 3
    assert found.wait == pytest.approx(35.0)
    assert found.quick_wait == pytest.approx(30.0, rel=0.01)


def test_of_another_key_only_its_fair_part_goes_before() -> None:
    """Twelve wait, one goes: then it is his turn."""
    assert foreseen(MINE, waiting(12, "b")).position == 1


def test_of_a_key_whose_account_is_higher_nothing_goes_before() -> None:
    """It has had more."""
    assert foreseen(MINE, waiting(12, "b"), accounts={"b": 10.0}).position == 0
    assert foreseen(MINE, waiting(12, "b"), accounts={"a": 30.0}).position == 4


def test_a_weight_counts() -> None:
    """Twice the weight, twice the turns."""
    found = foreseen(MINE, waiting(3), waiting(12, "b", weight=2.0))

    assert found.position == 3 + 7


def test_batch_does_not_go_before_interactive_but_the_other_way_round() -> None:
    """Whatever the accounts."""
    assert foreseen(MINE, waiting(12, "b", batch=True)).position == 0
    assert foreseen(demand("a", "m", batch=True), waiting(12, "b")).position == 12


def test_places_share_the_work_as_far_as_memory_lets_them() -> None:
    """Two models at once take half the time, if they fit together."""
    lanes = (waiting(4), waiting(4, model="n"))
    active = {"m": 1, "n": 1}

    assert foreseen(MINE, *lanes, active=active, max_active=2).wait == pytest.approx(45.0)
    assert foreseen(MINE, *lanes, active=active, max_active=2, view=ONE).wait == pytest.approx(90.0)


def test_a_models_cap_and_a_keys_cap_are_waited_for() -> None:
    """Many places are of no use to those who may have one."""
    capped = demand("a", "m", model_max_active=9, key_max_active=1)
    mine = Queue(capped, 4)

    assert foreseen(MINE, waiting(4), max_active=9).quick_wait == pytest.approx(40.0, rel=0.01)
    assert foreseen(capped, mine, max_active=9).quick_wait == pytest.approx(40.0, rel=0.01)


def test_calls_to_a_model_that_does_not_fit_beside_may_all_be_passed_over() -> None:
    """For one patience at a time: nothing of them is certain before that."""
    far = waiting(9, model="n")

    assert foreseen(MINE, far, view=ONE).quick_wait == 0.0
    assert foreseen(MINE, far, waiting(3), view=ONE).quick_wait == pytest.approx(30.0, rel=0.01)
    assert foreseen(MINE, far, waiting(4), view=ONE).quick_wait == pytest.approx(70.0, rel=0.01)
    assert foreseen(
        MINE, far, waiting(4), view=ONE, affinity_patience=0.0
    ).quick_wait == pytest.approx(130.0, rel=0.01)


def test_a_load_is_part_of_the_answer_where_the_model_is_not_loaded() -> None:
    """Unless one before him has it loaded."""
    service = steady(m=10.0, n=2.0)
    for _ in range(60):
        service.add("n", 10.0, resident=False)
    wish = demand("a", "n", model_max_active=1)

    assert foreseen(wish, service=service, view=ONE).quick == pytest.approx(10.0, rel=0.01)
    assert foreseen(wish, waiting(1, model="n"), service=service, view=ONE).quick == pytest.approx(
        4.0, rel=0.02
    )


def test_a_model_that_was_hardly_seen_makes_nothing_certain() -> None:
    """Neither its own answers nor those that others wait for."""
    service = steady(m=10.0)
    service.add("n", 500.0, resident=True)

    assert not foreseen(demand("a", "n"), service=service).known
    assert foreseen(MINE, waiting(9, model="n"), service=service).quick_wait == 0.0
    assert foreseen(MINE, service=service).known


@given(
    st.lists(st.floats(0.1, 100.0), min_size=1, max_size=10),
    st.lists(
        st.builds(waiting, st.integers(1, 9), st.sampled_from("abc"), st.sampled_from("mn")),
        max_size=4,
        unique_by=lambda lane: (lane.demand.key, lane.demand.model),
    ),
    st.sampled_from([ALL, ONE, Residency()]),
    st.integers(1, 4),
)
def test_what_is_certain_is_never_more_than_what_is_expected(
    seconds: list[float], lanes: list[Queue], view: Residency, places: int
) -> None:
    """Nobody is refused for a wait that is longer than what he is told."""
    service = ServiceTimes()
    for each in seconds:
        service.add("m", each, resident=True)
        service.add("n", each / 2, resident=True)
    active = {"m": 1} if places == 1 else {"m": 1, "n": places - 1}
    found = foreseen(MINE, *lanes, active=active, service=service, view=view, max_active=places)

    assert 0.0 <= found.quick_wait <= found.wait + 1e-6
    assert found.quick <= found.finish + 1e-6
    assert found.quick_answer <= found.slow_answer
