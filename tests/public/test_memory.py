"""The budget of bytes that all callers share."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Overloaded
from gateway.public.memory import MemoryBudget


def test_reservation_returns_to_the_budget_with_its_block() -> None:
    """However many steps it was made in."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as share:
        share.reserve(40)
        share.reserve(20)

        assert (memory_budget.used, share.size) == (60, 60)
        assert repr(memory_budget) == "<MemoryBudget 60/100 bytes>"

    assert (memory_budget.used, share.size) == (0, 0)


def test_reserving_more_than_the_budget_raises_overloaded() -> None:
    """503 with advice; the attempt reserves nothing."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as first, memory_budget.reservation() as second:
        first.reserve(100)
        with pytest.raises(Overloaded) as caught:
            second.reserve(1)

        assert caught.value.headers["Retry-After"] == "5"
        assert (memory_budget.used, second.size) == (100, 0)


def test_try_reserve_reserves_if_there_is_room() -> None:
    """For what is only welcome, such as a larger read-ahead."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as share:
        assert [share.try_reserve(60), share.try_reserve(60)] == [True, False]
        assert share.size == 60


def test_shrinking_returns_the_rest_at_once() -> None:
    """Others can reserve it."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as share:
        share.reserve(80)
        share.shrink_to(30)
        assert (memory_budget.used, share.size) == (30, 30)


def test_reservation_returns_after_an_error() -> None:
    """However the block ends."""
    memory_budget = MemoryBudget(100)
    with suppress(ZeroDivisionError), memory_budget.reservation() as share:
        share.reserve(80)
        raise ZeroDivisionError

    assert memory_budget.used == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["fits", "shrink"]), st.integers(0, 60)))
)
def test_budget_is_never_exceeded_and_is_the_sum_of_its_reservations(
    steps: list[tuple[int, str, int]],
) -> None:
    """Four requests in any order."""
    memory_budget = MemoryBudget(100)
    shares = [memory_budget.reservation() for _ in range(4)]
    for index, step, size in steps:
        share = shares[index]
        if step == "fits":
            held = share.size
            assert share.try_reserve(size) == (share.size == held + size)
        else:
            share.shrink_to(min(size, share.size))

        assert 0 <= memory_budget.used == sum(client.size for client in shares) <= 100
    for share in shares:
        with share:
            pass

    assert memory_budget.used == 0
