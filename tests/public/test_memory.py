"""The budget of bytes that all callers reservation."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Overloaded
from gateway.public.body import MemoryBudget


def test_reservation_returns_to_the_budget_with_its_block() -> None:
    """However many steps it was made in."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as reservation:
        reservation.reserve(40)
        reservation.reserve(20)

        assert (memory_budget.used, reservation.size) == (60, 60)
        assert repr(memory_budget) == "<MemoryBudget 60/100 bytes>"

    assert (memory_budget.used, reservation.size) == (0, 0)


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
    with memory_budget.reservation() as reservation:
        assert [reservation.try_reserve(60), reservation.try_reserve(60)] == [True, False]
        assert reservation.size == 60


def test_shrinking_returns_the_rest_at_once() -> None:
    """Others can reserve it."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as reservation:
        reservation.reserve(80)
        reservation.shrink_to(30)
        assert (memory_budget.used, reservation.size) == (30, 30)


def test_reservation_returns_after_an_error() -> None:
    """However the block ends."""
    memory_budget = MemoryBudget(100)
    with suppress(ZeroDivisionError), memory_budget.reservation() as reservation:
        reservation.reserve(80)
        raise ZeroDivisionError

    assert memory_budget.used == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["reserve", "shrink"]), st.integers(0, 60))
    )
)
def test_budget_is_never_exceeded_and_is_the_sum_of_its_reservations(
    steps: list[tuple[int, str, int]],
) -> None:
    """Four requests in any order."""
    memory_budget = MemoryBudget(100)
    reservations = [memory_budget.reservation() for _ in range(4)]
    for index, step, size in steps:
        reservation = reservations[index]
        if step == "reserve":
            before = reservation.size
            assert reservation.try_reserve(size) == (reservation.size == before + size)
        else:
            reservation.shrink_to(min(size, reservation.size))

        assert 0 <= memory_budget.used == sum(client.size for client in reservations) <= 100
    for reservation in reservations:
        with reservation:
            pass

    assert memory_budget.used == 0
