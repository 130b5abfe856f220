"""Whose turn it is, by what each key has had."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.fair_share import Shares


def serve(shares: Shares, waiting: dict[str, float], turns: int) -> dict[str, int]:
    """So many turns of a second each, always to the lowest account; ``waiting`` gives weights."""
    served = dict.fromkeys(waiting, 0)
    for _ in range(turns):
        key = min(waiting, key=shares.of)
        shares.begin(key, turn=1.0 / waiting[key])
        served[key] += 1
    return served


def test_keys_that_have_had_nothing_are_equal() -> None:
    """Age decides between them, not this."""
    assert Shares().of("a") == Shares().of("b") == 0.0


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1))
def test_turns_go_by_weight(weights: dict[str, int]) -> None:
    """To within one turn of each, over any length of time."""
    turns = 60
    served = serve(Shares(), {key: float(weight) for key, weight in weights.items()}, turns)

    for key, weight in weights.items():
        fair = Fraction(turns * weight, sum(weights.values()))

        assert abs(served[key] - fair) <= len(weights)


def test_it_is_service_time_that_is_shared_and_not_turns() -> None:
    """Four answers of a second are worth one of four."""
    shares = Shares()
    lengths, had = {"long": 4.0, "short": 1.0}, {"long": 0.0, "short": 0.0}
    for _ in range(100):
        key = min(lengths, key=shares.of)
        shares.begin(key, turn=lengths[key])
        had[key] += lengths[key]

    assert had["long"] == pytest.approx(had["short"], abs=4.0)


def test_an_idle_key_has_saved_up_nothing() -> None:
    """After a hundred turns of the other it gets one at once, and then they alternate."""
    shares = Shares()
    serve(shares, {"busy": 1.0}, 100)
    shares.arrive("idle")

    assert shares.of("idle") < shares.of("busy")
    assert serve(shares, {"busy": 1.0, "idle": 1.0}, 10)["idle"] in {5, 6}


def test_a_key_at_work_that_sends_more_has_saved_up_nothing_either() -> None:
    """Its one long call, charged too little so far, is no credit for what follows."""
    shares = Shares()
    shares.begin("streams", turn=1.0)
    serve(shares, {"busy": 1.0}, 100)
    shares.arrive("streams")

    assert serve(shares, {"busy": 1.0, "streams": 1.0}, 10)["streams"] in {5, 6}


def test_a_turn_that_takes_longer_costs_more() -> None:
    """And one that was broken off is paid back."""
    shares = Shares()
    shares.begin("a", turn=2.0)
    shares.charge("a", 5.0)

    assert shares.of("a") == 7.0

    shares.charge("a", -6.0)

    assert shares.of("a") == 1.0


def test_one_who_does_not_save_begins_where_the_others_are() -> None:
    """However long it waited in a lower class, it is owed one turn and not all of them."""
    shares = Shares()
    shares.arrive("batch")
    serve(shares, {"busy": 1.0}, 100)
    shares.begin("batch", turn=1.0, saves=False)

    assert shares.of("batch") == shares.of("busy")


def test_when_nobody_waits_debts_beyond_one_turn_are_forgiven() -> None:
    """Who used what nobody wanted does not pay for it later."""
    shares = Shares()
    shares.begin("a", turn=1000.0)
    shares.level(2.0)

    assert shares.of("a") == 2.0


def test_a_key_is_forgotten_unless_it_owes_something() -> None:
    """Names do not pile up, and going away for a moment pays no debt."""
    shares = Shares()
    shares.begin("a", turn=1.0)
    shares.forget("a")

    assert shares.of("a") == 1.0

    shares.begin("b", turn=1.0)
    shares.charge("b", -1.0)
    shares.forget("b")

    assert set(shares._accounts) == {"a"}
