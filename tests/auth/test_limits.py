import pytest

from gateway.auth.keys import Principal
from gateway.auth.limits import FailureLimiter, KeyRateLimiter, TokenBuckets
from gateway.errors import RateLimitExceeded
from tests.auth.fakes import Clock

CLIENT, OTHER_CLIENT = "192.0.2.1", "192.0.2.2"


def principal(key: str = "a", rpm: int | None = 3) -> Principal:
    return Principal(key=key, scopes=frozenset(), rpm=rpm)


def taken(limiter: KeyRateLimiter, principal: Principal, times: int) -> int:
    """How many of so many requests at once are within the limit."""
    count = 0
    for _ in range(times):
        try:
            limiter.take(principal)
        except RateLimitExceeded:
            continue
        count += 1
    return count


def within_limit(failures: FailureLimiter, client: str, count: int) -> list[bool]:
    """For each of so many failures whether it is within the limit."""
    return [failures.record(client) == 0.0 for _ in range(count)]


# Token buckets


def test_a_bucket_unused_for_a_minute_is_dropped() -> None:
    clock = Clock()
    buckets = TokenBuckets(now=clock)
    for name in ("a", "b", "c"):
        buckets.take(name, 1)
        clock.seconds += 25

    buckets.take("d", 1)

    assert len(buckets) == 3
    assert buckets.take("a", 1) == 0.0, "as full as if it had been kept"
    assert buckets.take("c", 1) > 0.0


def test_the_wait_is_as_long_as_a_token_takes() -> None:
    clock = Clock()
    buckets = TokenBuckets(now=clock)
    for _ in range(60):
        assert buckets.take("a", 60) == 0.0

    assert buckets.take("a", 60) == pytest.approx(1.0)
    clock.seconds += 0.4
    assert buckets.take("a", 60) == pytest.approx(0.6)
    clock.seconds += 0.6001
    assert buckets.take("a", 60) == 0.0


# Requests per key


def test_a_key_without_a_limit_is_not_counted() -> None:
    limiter = KeyRateLimiter()

    assert taken(limiter, principal(rpm=None), 1000) == 1000
    assert repr(limiter) == "<KeyRateLimiter 0 keys>"


def test_a_burst_gets_as_many_requests_as_the_rate() -> None:
    assert taken(KeyRateLimiter(), principal(rpm=5), 50) == 5


def test_tokens_come_back_evenly() -> None:
    clock = Clock()
    limiter = KeyRateLimiter(now=clock)
    taken(limiter, principal(rpm=6), 6)

    clock.seconds += 20.001

    assert taken(limiter, principal(rpm=6), 6) == 2


def test_the_refusal_names_the_limit_and_how_long_to_wait() -> None:
    limiter = KeyRateLimiter(now=Clock())
    taken(limiter, principal(rpm=30), 30)

    with pytest.raises(RateLimitExceeded, match="30 requests per minute") as caught:
        limiter.take(principal(rpm=30))

    assert caught.value.headers["Retry-After"] == "2"
    assert "raise `rpm` for this key in keys.toml" in caught.value.message


def test_keys_have_separate_limits() -> None:
    limiter = KeyRateLimiter()

    assert taken(limiter, principal("a"), 9) == 3
    assert taken(limiter, principal("b"), 9) == 3


def test_a_changed_limit_applies_at_once() -> None:
    limiter = KeyRateLimiter()
    taken(limiter, principal(rpm=3), 9)

    assert taken(limiter, principal(rpm=7), 9) == 7
    assert repr(limiter) == "<KeyRateLimiter 1 keys>"


# Failed authentications per client


def test_as_many_failures_as_the_limit_are_allowed_at_once() -> None:
    failures = FailureLimiter(3, now=Clock())

    assert within_limit(failures, CLIENT, 5) == [True, True, True, False, False]


def test_clients_have_separate_limits() -> None:
    failures = FailureLimiter(2, now=Clock())
    within_limit(failures, CLIENT, 9)

    assert within_limit(failures, OTHER_CLIENT, 3) == [True, True, False]


def test_a_client_that_waits_as_told_may_fail_once_more() -> None:
    clock = Clock()
    failures = FailureLimiter(30, now=clock)
    within_limit(failures, CLIENT, 30)

    wait = failures.record(CLIENT)
    assert wait == pytest.approx(2.0)
    clock.seconds += 1.9
    assert failures.record(CLIENT) == pytest.approx(0.1)
    clock.seconds += 0.1001
    assert within_limit(failures, CLIENT, 2) == [True, False]


def test_failures_are_forgotten_after_a_minute() -> None:
    clock = Clock()
    failures = FailureLimiter(5, now=clock)
    within_limit(failures, CLIENT, 100)

    clock.seconds += 60

    assert within_limit(failures, CLIENT, 6) == [True] * 5 + [False]


def test_further_failures_do_not_lengthen_the_wait() -> None:
    """A tool that retries every second is not locked out for ever."""
    clock = Clock()
    failures = FailureLimiter(60, now=clock)
    within_limit(failures, CLIENT, 60)
    allowed = 0
    for _ in range(60):
        clock.seconds += 1
        allowed += within_limit(failures, CLIENT, 3).count(True)

    assert allowed == pytest.approx(60, abs=1)


def test_memory_is_bounded_and_the_least_recent_failures_are_forgotten() -> None:
    failures = FailureLimiter(1, clients=3, now=Clock())
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.4"):
        failures.record(client)

    assert repr(failures) == "<FailureLimiter 3 clients, 1 per minute>"
    assert failures.record("10.0.0.1") > 0.0, "it failed after 10.0.0.2"
    assert failures.record("10.0.0.2") == 0.0, "it was forgotten"


def test_an_ipv6_client_is_counted_by_its_network() -> None:
    """A client with one address of a /64 has all of them."""
    failures = FailureLimiter(2, now=Clock())

    assert within_limit(failures, "2001:db8:0:1::1", 1) == [True]
    assert within_limit(failures, "2001:db8:0:1:ffff::2", 2) == [True, False]
    assert within_limit(failures, "2001:db8:0:2::1", 1) == [True]
    assert repr(failures) == "<FailureLimiter 2 clients, 2 per minute>"


def test_clients_without_an_address_are_counted_as_one() -> None:
    assert within_limit(FailureLimiter(1, now=Clock()), "unknown", 2) == [True, False]


@pytest.mark.parametrize(("per_minute", "clients"), [(0, 1), (1, 0)])
def test_limits_below_one_are_refused(per_minute: int, clients: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FailureLimiter(per_minute, clients=clients)
