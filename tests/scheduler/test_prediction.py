"""What one who comes now is told to expect, what is certain of it, and whom his coming harms."""

from collections.abc import Iterable
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.residency import Residency
from gateway.models.statistics import Statistics
from gateway.scheduler.pace import Usual
from gateway.scheduler.prediction import Prediction, at_once, harmed, predict
from gateway.scheduler.queue import Waiter
from gateway.scheduler.simulation import MOST_TURNS, play

from .scenarios import ALL, ONE, scene_of, steady, waiting


def foreseen(
    newcomer: Waiter, *lanes: list[Waiter], service: Statistics | None = None, **terms: Any
) -> Prediction:
    """Of one who comes to a single place that another call has just taken, unless changed."""
    service = service or steady(m=10.0, n=10.0)
    scene = scene_of(*lanes, [newcomer], service=service, **terms)
    return predict(newcomer, scene, service, play(scene, Usual(service), newcomer=newcomer))


def mine(**changes: Any) -> Waiter:
    (one,) = waiting(1, "a", at=50.0, **changes)
    return one


def test_what_is_at_work_is_waited_for() -> None:
    """Ten seconds, of which none have passed; and one who has his place waits for nobody."""
    found = foreseen(mine())

    assert (found.position, found.wait, found.finish) == (0, 10.0, 20.0)
    assert at_once("m", steady(m=10.0), resident=True).finish == 10.0


def test_what_has_passed_of_it_is_not() -> None:
    """Four of its ten seconds have; and one that takes longer than usual is about to end."""
    assert foreseen(mine(), busy_for=4.0).wait == 6.0
    assert foreseen(mine(), busy_for=40.0).wait == 0.0


def test_all_that_the_own_key_has_waiting_goes_before() -> None:
    """Three of ten seconds each, and the one at work."""
    found = foreseen(mine(), waiting(3))

    assert (found.position, found.wait) == (3, 40.0)


def test_of_another_key_only_its_fair_part_goes_before() -> None:
    """Twelve wait, one goes: then it is his turn."""
    assert foreseen(mine(), waiting(12, "b")).position == 1


def test_of_a_key_whose_account_is_higher_nothing_goes_before() -> None:
    """It has had more."""
    assert foreseen(mine(), waiting(12, "b"), accounts={"b": 15.0}).position == 0
    assert foreseen(mine(), waiting(12, "b"), accounts={"a": 25.0}).position == 3


def test_batch_does_not_go_before_interactive_but_the_other_way_round() -> None:
    """Whatever the accounts; after two minutes it counts as interactive."""
    assert foreseen(mine(), waiting(12, "b", batch=True), accounts={"a": 50.0}).position == 0
    assert foreseen(mine(batch=True), waiting(9, "b")).position == 9


def test_places_share_the_work_as_far_as_memory_lets_them() -> None:
    """Two models at once take half the time, if they fit together."""
    lanes = (waiting(4), waiting(4, model="n"))

    assert foreseen(mine(), *lanes, max_active=2).wait == 50.0
    assert foreseen(mine(), *lanes, view=ONE, max_affinity_delay=0.0).wait == 90.0


def test_a_models_cap_and_a_keys_cap_are_waited_for() -> None:
    """Many places are of no use to those who may have one."""
    capped: dict[str, Any] = {"model_max_active": 9, "key_max_active": 1}

    assert foreseen(mine(), waiting(4), max_active=9).wait == 50.0
    assert foreseen(mine(**capped), waiting(4, **capped), max_active=9).wait == 40.0


def test_loads_are_waited_for() -> None:
    """One for each time that the model in memory changes; not for one that runs elsewhere."""
    service = steady(m=10.0, n=10.0, load=8.0)
    other = waiting(1, "b", "n")

    assert foreseen(mine(), service=service, view=ONE).finish == 20.0
    assert foreseen(mine(), other, service=service, view=ONE, max_affinity_delay=0.0).finish == 46.0
    assert foreseen(mine(local=False), service=service, view=ONE).wait == 10.0


def test_those_before_one_who_cannot_go_in_time_are_no_hope() -> None:
    """They would be refused; but so would he, who has as long to wait and comes later."""
    crowd, wish = waiting(9, queue_timeout=60.0, at=40.0), {"queue_timeout": 60.0}
    impatient = waiting(9, queue_timeout=20.0, at=40.0)

    assert foreseen(mine(**wish), crowd).quick_wait == pytest.approx(100.0)
    assert foreseen(mine(**wish), impatient).quick_wait == pytest.approx(20.0)


def test_a_model_in_memory_keeps_others_waiting_for_as_long_as_they_are_patient() -> None:
    """One of another key goes by age, then three within 30 seconds of passing him over."""
    service = steady(m=10.0, n=10.0, load=8.0)
    (other,) = waiting(1, "b", "n", at=50.0)
    found = foreseen(other, waiting(9), service=service, view=ONE)

    assert (found.position, found.wait) == (4, 50.0)


def test_a_newcomers_hurry_moves_no_swap_that_is_not_due() -> None:
    """With a load a moment ago he waits as a patient one would; ages ago, others make way."""
    service = steady(m=10.0, n=10.0, load=8.0)

    def finish(swapped_at: float) -> float:
        (other,) = waiting(1, "b", "n", at=50.0, client_timeout=60.0, needs=28.0)
        lanes = (waiting(9),)
        return foreseen(other, *lanes, service=service, view=ONE, swapped_at=swapped_at).finish

    assert finish(45.0) == 68.0
    assert finish(-inf) == 58.0


def test_certain_is_only_what_is_so_one_time_in_ten() -> None:
    """Answers that differ are not counted at their mean; those of an unknown model never."""
    varied, unknown = Statistics(), steady(m=10.0)
    for seconds in (6.0, 14.0) * 30:
        varied.record_slot_time("m", seconds, loaded=True)
    unknown.record_slot_time("n", 500.0, loaded=True)
    wish = {"queue_timeout": 30.0}
    certain = foreseen(mine(**wish), waiting(9), service=varied)

    assert 0.0 < certain.quick_wait < certain.wait
    assert foreseen(mine(**wish), waiting(9, "a", "n"), service=unknown).quick_wait <= 10.0
    assert not foreseen(waiting(1, "a", "n")[0], service=unknown).known


def test_answers_beside_each_other_are_not_waited_for_one_after_the_other() -> None:
    """Behind sixty-four at eight places: what differs is eight in a row, not all of them."""
    wish: dict[str, Any] = {"model_max_active": 8}
    varied = Statistics()
    for seconds in (8.0, 12.0) * 30:
        varied.record_slot_time("m", seconds, loaded=True)
    many = foreseen(mine(**wish), waiting(64, **wish), service=varied, max_active=8)
    few = foreseen(mine(), waiting(8), service=varied)

    assert 75.0 <= many.wait <= few.wait <= 95.0
    assert many.wait - many.quick_wait == pytest.approx(few.wait - few.quick_wait, rel=0.15)


def harms(
    newcomer: Waiter, *lanes: list[Waiter], part: float = 1.0, **terms: Any
) -> Iterable[Waiter]:
    service = steady(m=10.0, n=10.0)
    with_him = scene_of(*lanes, [newcomer], service=service, **terms)
    without = scene_of(*lanes, service=service, **terms)
    pace = Usual(service)
    found = harmed(
        newcomer, play(with_him, pace, newcomer=newcomer), play(without, pace), part=part
    )
    return [one for lane in lanes for one in lane if one in found]


def test_one_who_goes_last_harms_nobody() -> None:
    """However late those before him are."""
    assert harms(mine(), waiting(9, queue_timeout=60.0)) == []


def test_one_who_goes_before_others_harms_whoever_is_late_because_of_him() -> None:
    """Not those who are in time all the same, nor those who are late without him."""
    late = waiting(9, "b", queue_timeout=105.0)
    found = harms(mine(), late, accounts={"b": 5.0})

    assert found == late[4:5]


def test_what_is_kept_for_others_may_not_be_used_up() -> None:
    """Of ten who wait, all beyond the part that may be planned with are harmed by any delay."""
    crowd = waiting(9, "b", queue_timeout=200.0)

    assert harms(mine(), crowd, accounts={"b": 5.0}) == []
    assert harms(mine(), crowd, accounts={"b": 5.0}, part=0.6) == crowd[6:]


@given(
    st.lists(st.floats(0.1, 100.0), min_size=1, max_size=10),
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from("abc"), st.sampled_from("mn")),
        max_size=4,
        unique_by=lambda lane: lane[1:],
    ),
    st.sampled_from([ALL, ONE, Residency()]),
    st.integers(1, 4),
    st.sampled_from([5.0, 60.0, inf]),
)
def test_what_is_certain_is_never_more_than_what_is_expected(
    seconds: list[float],
    lanes: list[tuple[int, str, str]],
    view: Residency,
    places: int,
    client_timeout: float,
) -> None:
    """Nobody is refused for a wait that is longer than what he is told."""
    service = Statistics()
    for each in seconds:
        service.record_slot_time("m", each, loaded=True)
        service.record_slot_time("n", each / 2, loaded=True)
    crowd = [waiting(*lane) for lane in lanes if lane[1:] != ("a", "m")]
    newcomer = mine(client_timeout=client_timeout)
    found = foreseen(newcomer, *crowd, service=service, view=view, max_active=places)

    assert 0.0 <= found.quick_wait <= found.wait
    assert 0.0 <= found.quick <= found.finish
    assert found.wait <= found.finish


def test_playing_changes_nothing() -> None:
    """Neither those who wait nor what is known of keys and places."""
    service = steady(m=10.0, n=10.0)
    lanes = [waiting(3, "b"), waiting(3, "c", "n")]
    newcomer = mine()
    scene = scene_of(*lanes, [newcomer], service=service, view=ONE)
    before = repr((scene.occupancy, scene.shares))
    play(scene, Usual(service), newcomer=newcomer)

    assert repr((scene.occupancy, scene.shares)) == before
    assert all(one.passed_over_at is None for lane in lanes for one in lane)


def test_of_a_very_long_queue_only_the_beginning_is_played() -> None:
    """What is told of those behind it is that they wait at least as long."""
    service = steady(m=0.1)
    found = foreseen(mine(), waiting(2000), service=service)

    assert found.position == MOST_TURNS
    assert 0.1 * MOST_TURNS <= found.wait <= 0.1 * MOST_TURNS + 0.2
