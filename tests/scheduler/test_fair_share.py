"""Accounts of GPU time by key."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.fair_share import FairShare


def serve(shares: FairShare, weights: dict[str, float], count: int) -> dict[str, int]:
    """Serve requests of a second each to the key with the lowest account."""
    served = dict.fromkeys(weights, 0)
    for _ in range(count):
        key = min(weights, key=shares.account)
        shares.begin(key, cost=1.0 / weights[key])
        served[key] += 1
    return served


def test_new_keys_have_equal_accounts() -> None:
    """Age decides between them."""
    assert FairShare().account("a") == FairShare().account("b") == 0.0


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1))
def test_requests_are_shared_by_weight(weights: dict[str, int]) -> None:
    """To within one request of each key."""
    count = 60
    served = serve(FairShare(), {key: float(weight) for key, weight in weights.items()}, count)

    for key, weight in weights.items():
        fair = Fraction(count * weight, sum(weights.values()))

        assert abs(served[key] - fair) <= len(weights)


def test_time_is_shared_and_not_the_number_of_requests() -> None:
    """Four responses of a second count as much as one of four."""
    shares = FairShare()
    lengths, had = {"long": 4.0, "short": 1.0}, {"long": 0.0, "short": 0.0}
    for _ in range(100):
        key = min(lengths, key=shares.account)
        shares.begin(key, cost=lengths[key])
        had[key] += lengths[key]

    assert had["long"] == pytest.approx(had["short"], abs=4.0)


def test_an_idle_key_gains_no_credit() -> None:
    """After a hundred requests of the other it is served at once, and then they alternate."""
    shares = FairShare()
    serve(shares, {"busy": 1.0}, 100)
    shares.arrive("idle")

    assert shares.account("idle") < shares.account("busy")
    assert serve(shares, {"busy": 1.0, "idle": 1.0}, 10)["idle"] in {5, 6}


def test_a_key_with_one_long_request_gains_no_credit() -> None:
    """That it was charged too little so far does not count for the next requests."""
    shares = FairShare()
    shares.begin("streams", cost=1.0)
    serve(shares, {"busy": 1.0}, 100)
    shares.arrive("streams")

    assert serve(shares, {"busy": 1.0, "streams": 1.0}, 10)["streams"] in {5, 6}


def test_a_request_that_takes_longer_costs_more() -> None:
    """And one that ends early is refunded."""
    shares = FairShare()
    shares.begin("a", cost=2.0)
    shares.charge("a", 5.0)

    assert shares.account("a") == 7.0

    shares.charge("a", -6.0)

    assert shares.account("a") == 1.0


def test_a_batch_request_is_not_owed_its_wait() -> None:
    """It begins where the others are."""
    shares = FairShare()
    shares.arrive("batch")
    serve(shares, {"busy": 1.0}, 100)
    shares.begin("batch", cost=1.0, keeps_credit=False)

    assert shares.account("batch") == shares.account("busy")


def test_debts_beyond_a_limit_are_forgiven() -> None:
    """A key does not pay for time that no other key wanted."""
    shares = FairShare()
    shares.begin("a", cost=1000.0)
    shares.forgive(2.0)

    assert shares.account("a") == 2.0


def test_a_key_is_forgotten_unless_it_is_in_debt() -> None:
    """Leaving for a moment pays no debt."""
    shares = FairShare()
    shares.begin("a", cost=1.0)
    shares.forget("a")

    assert shares.account("a") == 1.0

    shares.begin("b", cost=1.0)
    shares.charge("b", -1.0)
    shares.forget("b")

    assert set(shares._accounts) == {"a"}
