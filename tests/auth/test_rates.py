import asyncio

import pytest

from gateway.auth.principal import Principal
from gateway.auth.rates import Rates
from gateway.errors import RateLimitExceeded


def a_principal(key: str = "a", rpm: int | None = 3) -> Principal:
    return Principal(key=key, scopes=frozenset(), rpm=rpm)


async def taken(rates: Rates, principal: Principal, times: int) -> int:
    """How many of so many requests at once were let through."""
    results = await asyncio.gather(
        *(rates.take(principal) for _ in range(times)), return_exceptions=True
    )
    assert all(result is None or isinstance(result, RateLimitExceeded) for result in results)
    return results.count(None)


async def test_a_key_without_a_rate_is_not_counted() -> None:
    """Not even noted."""
    rates = Rates(lambda: ["a"])

    assert await taken(rates, a_principal(rpm=None), 1000) == 1000
    assert repr(rates) == "<Rates 0 limiters>"


async def test_requests_at_once_do_not_slip_through() -> None:
    """Asking for room and taking it is one step: of many at once, exactly the rate gets in."""
    assert await taken(Rates(lambda: ["a"]), a_principal(rpm=5), 50) == 5


async def test_taking_never_waits() -> None:
    """A full limiter refuses in the same moment."""
    rates = Rates(lambda: ["a"])
    await rates.take(a_principal(rpm=1))

    step = rates.take(a_principal(rpm=1))
    with pytest.raises(RateLimitExceeded):
        step.send(None)


async def test_the_refusal_says_how_long_to_wait() -> None:
    """At most until one request's share has leaked; the words name the rate."""
    rates = Rates(lambda: ["a"])
    await taken(rates, a_principal(rpm=30), 30)

    with pytest.raises(RateLimitExceeded, match="30 requests per minute") as caught:
        await rates.take(a_principal(rpm=30))

    assert caught.value.headers["Retry-After"] == "2"


async def test_keys_do_not_share() -> None:
    """Each name has its own."""
    rates = Rates(lambda: ["a", "b"])

    assert await taken(rates, a_principal("a"), 9) == 3
    assert await taken(rates, a_principal("b"), 9) == 3


async def test_a_changed_rate_holds_at_once() -> None:
    """Without a restart: the owner who raises it lets the caller in."""
    rates = Rates(lambda: ["a"])
    await taken(rates, a_principal(rpm=3), 9)

    assert await taken(rates, a_principal(rpm=7), 9) == 7
    assert repr(rates) == "<Rates 1 limiters>"


async def test_limiters_of_keys_that_went_are_dropped() -> None:
    """There are never more of them than keys."""
    known = [f"key{number}" for number in range(50)]
    rates = Rates(lambda: known)
    for name in known:
        await rates.take(a_principal(name))
    assert repr(rates) == "<Rates 50 limiters>"

    known[:] = ["key1", "new"]
    await rates.take(a_principal("new"))

    assert repr(rates) == "<Rates 2 limiters>"
    assert await taken(rates, a_principal("key1"), 9) == 2, "what stayed is still counted"


def test_another_event_loop_starts_anew() -> None:
    """Without the warning that a limiter gives outside of its own loop: warnings fail tests."""
    rates = Rates(lambda: ["a"])

    assert [asyncio.run(taken(rates, a_principal(), 9)) for _ in range(2)] == [3, 3]
