import pytest

from gateway.auth.failures import Failures
from tests.auth.fakes import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"


def outcomes(failures: Failures, client: str, count: int) -> list[bool]:
    """For each failure whether it was within the limit."""
    return [failures.record(client) is None for _ in range(count)]


def test_the_limit_is_how_many_may_fail_at_once() -> None:
    """The next one is one too many."""
    assert outcomes(Failures(3, clock=Clock()), HERE, 5) == [True, True, True, False, False]


def test_each_client_has_his_own() -> None:
    """One who fails takes nothing from another."""
    failures = Failures(2, clock=Clock())
    outcomes(failures, HERE, 9)

    assert outcomes(failures, THERE, 3) == [True, True, False]


def test_who_waits_as_long_as_he_was_told_may_fail_again() -> None:
    """Once, and not before."""
    clock = Clock()
    failures = Failures(30, clock=clock)
    outcomes(failures, HERE, 30)

    wait = failures.record(HERE)
    assert wait == pytest.approx(2.0)
    clock.seconds += 1.9
    assert failures.record(HERE) == pytest.approx(0.1)
    clock.seconds += 0.1001
    assert outcomes(failures, HERE, 2) == [True, False]


def test_after_a_minute_all_is_forgotten() -> None:
    """As many as the limit may fail at once again."""
    clock = Clock()
    failures = Failures(5, clock=clock)
    outcomes(failures, HERE, 100)

    clock.seconds += 60

    assert outcomes(failures, HERE, 6) == [True] * 5 + [False]


def test_going_on_does_not_lengthen_the_wait() -> None:
    """A tool that retries every second is not shut out for ever."""
    clock = Clock()
    failures = Failures(60, clock=clock)
    outcomes(failures, HERE, 60)
    within = 0
    for _ in range(60):
        clock.seconds += 1
        within += outcomes(failures, HERE, 3).count(True)

    assert within == pytest.approx(60, abs=1)


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    """Whoever failed of late stays counted, however many others come."""
    failures = Failures(1, clients=3, clock=Clock())
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.4"):
        failures.record(client)

    assert repr(failures) == "<Failures 3 clients, 1 per minute>"
    assert failures.record("10.0.0.1") is not None, "it failed after 10.0.0.2"
    assert failures.record("10.0.0.2") is None, "it was forgotten"


def test_an_ipv6_client_is_his_network() -> None:
    """Whoever has one address of a /64 has all of them."""
    failures = Failures(2, clock=Clock())

    assert outcomes(failures, "2001:db8:0:1::1", 1) == [True]
    assert outcomes(failures, "2001:db8:0:1:ffff::2", 2) == [True, False]
    assert outcomes(failures, "2001:db8:0:2::1", 1) == [True]
    assert repr(failures) == "<Failures 2 clients, 2 per minute>"


def test_a_client_without_an_address_is_counted_too() -> None:
    """All of them as one."""
    assert outcomes(Failures(1, clock=Clock()), "unknown", 2) == [True, False]


@pytest.mark.parametrize(("limit", "clients"), [(0, 1), (1, 0)])
def test_limits_that_mean_nothing(limit: int, clients: int) -> None:
    """They are a mistake of whoever built it."""
    with pytest.raises(ValueError, match="at least 1"):
        Failures(limit, clients=clients)
