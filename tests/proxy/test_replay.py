"""Failures that could not be told: who gets them, once, and for how long they are kept."""

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.replay import MAX_BYTES, MAX_HEADERS, FailureReplay, ReplayableFailure
from gateway.proxy.request import Fingerprint

ONE, OTHER = Fingerprint("k", "/p", b"one"), Fingerprint("k", "/p", b"other")
NOTHING = Fingerprint("", "", b"")


@dataclass(slots=True)
class House:
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


def test_a_retry_is_told_once() -> None:
    """And the next one is served."""
    house = House()
    failure = house.fails()

    assert house.comes() is failure
    assert house.comes(retry=2) is None


def test_each_failed_call_is_told() -> None:
    """Two identical calls that both failed late are two failures, in the order in which they
    failed.
    """
    house = House()
    first, second = house.fails(), house.fails()

    assert [house.comes(), house.comes(), house.comes()] == [first, second, None]


def test_a_first_attempt_is_a_call_of_its_own() -> None:
    """However much it looks like one that failed; its failure still waits for its retry."""
    house = House()
    failure = house.fails()

    assert house.comes(retry=0) is None
    assert house.comes(retry=1) is failure


def test_another_call_is_told_nothing() -> None:
    """Another body, another route, another key: all of them are in the fingerprint."""
    house = House()
    house.fails(ONE)

    assert house.comes(OTHER) is None


def test_a_retry_is_told_of_an_attempt_before_it() -> None:
    """What a client's second attempt met nobody is told who is at his first retry."""
    house = House()
    failure = house.fails(retry=1)

    assert house.comes(retry=1) is None
    assert house.comes(retry=2) is failure


def test_a_client_that_does_not_say_has_10_seconds() -> None:
    """curl has no such header: whoever asks the same again so soon asks for the same answer."""
    house = House()
    house.fails(retry=None)
    failure = house.fails(retry=None)
    house.time += 10.0

    assert house.comes(retry=None) is not None

    house.time += 0.1

    assert house.comes(retry=None) is None
    # An older SDK says how often it has tried only from the first retry on.
    assert house.comes(retry=1) is failure


def test_who_does_not_say_is_no_retry_of_one_that_does() -> None:
    """The SDK will come for it itself."""
    house = House()
    failure = house.fails(retry=0)

    assert house.comes(retry=None) is None
    assert house.comes(retry=1) is failure


def test_it_is_forgotten_after_a_minute() -> None:
    """Whoever comes then has another reason to come."""
    house = House()
    failure = house.fails()
    house.fails(OTHER)
    house.time += 60.0

    assert house.comes() is failure

    house.time += 0.1

    assert house.comes(OTHER) is None
    assert repr(house.late) == "<FailureReplay 0/1024>"


def test_of_too_many_the_oldest_are_forgotten() -> None:
    """Memory is bounded, whoever fails how often."""
    house = House(max_failures=3)
    for _ in range(2):
        house.fails(OTHER)
    kept = [house.fails() for _ in range(3)]

    assert repr(house.late) == "<FailureReplay 3/3>"
    assert house.comes(OTHER) is None
    assert [house.comes() for _ in range(3)] == kept


def test_what_is_too_large_is_not_kept() -> None:
    """In bytes of all that would be sent."""
    house = House()
    fits = house.fails(size=MAX_BYTES - len("Content-Typex"))
    house.fails(OTHER, size=MAX_BYTES)

    assert fits.size == MAX_BYTES
    assert house.comes() is fits
    assert house.comes(OTHER) is None


def test_nor_what_has_too_many_headers() -> None:
    """Those with nothing in them would show as a few bytes, and cost a hundred times as much."""
    house = House()
    failure = house.fails(size=10)
    fits, more = (
        replace(failure, headers=(("a", ""),) * count) for count in (MAX_HEADERS, MAX_HEADERS + 1)
    )

    assert (fits.is_small, more.is_small) == (True, False)
    house.late.remember(OTHER, more, retry=None)
    assert house.comes(OTHER) is None


steps = st.one_of(
    st.tuples(st.just("fails"), st.sampled_from([ONE, OTHER]), st.sampled_from([None, 0, 1, 2])),
    st.tuples(st.just("comes"), st.sampled_from([ONE, OTHER]), st.sampled_from([None, 0, 1, 2])),
    st.tuples(st.just("waits"), st.just(NOTHING), st.sampled_from([1, 9, 11, 61])),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_each_failure_is_told_at_most_once(
    story: list[tuple[str, Fingerprint, int | None]],
) -> None:
    """To a call like it, in time, that is no first attempt; and no more are kept than may be."""
    house = House(max_failures=4)
    failed: dict[str, tuple[Fingerprint, int | None, float]] = {}
    told: Counter[str] = Counter()
    for what, call, number in story:
        match what:
            case "fails":
                failure = house.fails(call, retry=number)
                failed[failure.message] = (call, number, house.time)
            case "waits":
                house.time += number or 0
            case _:
                got = house.comes(call, retry=number)
                if got is None:
                    continue
                told[got.message] += 1
                its_call, attempt, at = failed[got.message]

                assert its_call == call
                assert number != 0
                if number is None:
                    assert (attempt, house.time - at <= 10) == (None, True)
                else:
                    assert number > (attempt or 0)
                assert house.time - at <= 60
        assert len(house.late._entries) <= 4

    assert set(told.values()) <= {1}
