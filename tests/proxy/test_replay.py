"""Failures that could not be reported: which retry gets them, once, and when they expire."""

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.replay import MAX_BYTES, MAX_HEADERS, FailureReplay, ReplayableFailure
from gateway.proxy.request import Fingerprint

ONE, OTHER = Fingerprint("k", "/p", b"one"), Fingerprint("k", "/p", b"other")
NOTHING = Fingerprint("", "", b"")


@dataclass(slots=True)
class Failures:
    """What is kept, and a clock that stands until it is moved."""

    max_failures: int = 1024
    time: float = 100.0
    late: FailureReplay = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.late = FailureReplay(now=lambda: self.time, max_failures=self.max_failures)

    def fails(
        self, call: Fingerprint = ONE, *, retry: int | None = 0, size: int = 0
    ) -> ReplayableFailure:
        """A call failed and could not be told; the failure is like no other."""
        self.count += 1
        words = str(self.count)
        body = words.encode().ljust(size)
        failure = ReplayableFailure(504, (("Content-Type", "x"),), body, "upstream_timeout", words)
        self.late.remember(call, failure, retry=retry)
        return failure

    def comes(self, call: Fingerprint = ONE, *, retry: int | None = 1) -> ReplayableFailure | None:
        return self.late.take(call, retry=retry)


def test_retry_gets_the_failure_once() -> None:
    """The next one is served."""
    failures = Failures()
    failure = failures.fails()

    assert failures.comes() is failure
    assert failures.comes(retry=2) is None


def test_each_failure_is_replayed_in_order() -> None:
    """Two identical requests that failed are two failures."""
    failures = Failures()
    first, second = failures.fails(), failures.fails()

    assert [failures.comes(), failures.comes(), failures.comes()] == [first, second, None]


def test_first_attempt_gets_no_failure() -> None:
    """The failure still waits for its retry."""
    failures = Failures()
    failure = failures.fails()

    assert failures.comes(retry=0) is None
    assert failures.comes(retry=1) is failure


def test_other_requests_get_no_failure() -> None:
    """Another body, path or key."""
    failures = Failures()
    failures.fails(ONE)

    assert failures.comes(OTHER) is None


def test_retry_gets_only_failures_of_earlier_attempts() -> None:
    """A first retry does not get what a second attempt met."""
    failures = Failures()
    failure = failures.fails(retry=1)

    assert failures.comes(retry=1) is None
    assert failures.comes(retry=2) is failure


def test_undeclared_retry_counts_within_10_seconds() -> None:
    """curl, for example, has no such header."""
    failures = Failures()
    failures.fails(retry=None)
    failure = failures.fails(retry=None)
    failures.time += 10.0

    assert failures.comes(retry=None) is not None

    failures.time += 0.1

    assert failures.comes(retry=None) is None
    # An older SDK says how often it has tried only from the first retry on.
    assert failures.comes(retry=1) is failure


def test_undeclared_request_is_no_retry_of_a_declared_one() -> None:
    """The SDK will retry itself."""
    failures = Failures()
    failure = failures.fails(retry=0)

    assert failures.comes(retry=None) is None
    assert failures.comes(retry=1) is failure


def test_failure_expires_after_a_minute() -> None:
    """A later request has another reason."""
    failures = Failures()
    failure = failures.fails()
    failures.fails(OTHER)
    failures.time += 60.0

    assert failures.comes() is failure

    failures.time += 0.1

    assert failures.comes(OTHER) is None
    assert repr(failures.late) == "<FailureReplay 0/1024>"


def test_oldest_failures_are_dropped_beyond_the_limit() -> None:
    """Memory is bounded."""
    failures = Failures(max_failures=3)
    for _ in range(2):
        failures.fails(OTHER)
    kept = [failures.fails() for _ in range(3)]

    assert repr(failures.late) == "<FailureReplay 3/3>"
    assert failures.comes(OTHER) is None
    assert [failures.comes() for _ in range(3)] == kept


def test_large_failure_is_not_kept() -> None:
    """The size is that of the complete response."""
    failures = Failures()
    fits = failures.fails(size=MAX_BYTES - len("Content-Typex"))
    failures.fails(OTHER, size=MAX_BYTES)

    assert fits.size == MAX_BYTES
    assert failures.comes() is fits
    assert failures.comes(OTHER) is None


def test_failure_with_too_many_headers_is_not_kept() -> None:
    """Empty headers cost a hundred times their bytes."""
    failures = Failures()
    failure = failures.fails(size=10)
    fits, more = (
        replace(failure, headers=(("a", ""),) * count) for count in (MAX_HEADERS, MAX_HEADERS + 1)
    )

    assert (fits.is_small, more.is_small) == (True, False)
    failures.late.remember(OTHER, more, retry=None)
    assert failures.comes(OTHER) is None


steps = st.one_of(
    st.tuples(st.just("fails"), st.sampled_from([ONE, OTHER]), st.sampled_from([None, 0, 1, 2])),
    st.tuples(st.just("comes"), st.sampled_from([ONE, OTHER]), st.sampled_from([None, 0, 1, 2])),
    st.tuples(st.just("waits"), st.just(NOTHING), st.sampled_from([1, 9, 11, 61])),
)


@given(st.lists(steps, max_size=60))
def test_each_failure_is_replayed_at_most_once_and_in_time(
    story: list[tuple[str, Fingerprint, int | None]],
) -> None:
    """To an equal request that is no first attempt; and the number kept is bounded."""
    failures = Failures(max_failures=4)
    failed: dict[str, tuple[Fingerprint, int | None, float]] = {}
    told: Counter[str] = Counter()
    for what, call, number in story:
        match what:
            case "fails":
                failure = failures.fails(call, retry=number)
                failed[failure.message] = (call, number, failures.time)
            case "waits":
                failures.time += number or 0
            case _:
                got = failures.comes(call, retry=number)
                if got is None:
                    continue
                told[got.message] += 1
                its_call, attempt, at = failed[got.message]

                assert its_call == call
                assert number != 0
                if number is None:
                    assert (attempt, failures.time - at <= 10) == (None, True)
                else:
                    assert number > (attempt or 0)
                assert failures.time - at <= 60
        assert len(failures.late._entries) <= 4

    assert set(told.values()) <= {1}
