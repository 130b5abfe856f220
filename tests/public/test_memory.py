"""The budget of bytes that all callers share."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Overloaded
from gateway.public.memory import MemoryBudget


def test_what_is_taken_is_given_back_with_the_block() -> None:
    """Whatever was taken inside it, in however many steps."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as share:
        share.reserve(40)
        share.reserve(20)

        assert (memory_budget.used, share.held) == (60, 60)
        assert repr(memory_budget) == "<Buffers 60/100 bytes>"

    assert (memory_budget.used, share.held) == (0, 0)


def test_the_last_byte_can_be_taken_and_not_one_more() -> None:
    """503 ``overloaded``, with advice; nothing was taken by the attempt."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as first, memory_budget.reservation() as second:
        first.reserve(100)
        with pytest.raises(Overloaded) as caught:
            second.reserve(1)

        assert caught.value.headers["Retry-After"] == "5"
        assert (memory_budget.used, second.held) == (100, 0)


def test_one_may_ask_whether_it_fits_and_has_it_if_so() -> None:
    """For what is only welcome, such as reading ahead."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as share:
        assert [share.try_reserve(60), share.try_reserve(60)] == [True, False]
        assert share.held == 60


def test_less_can_be_held_from_now_on() -> None:
    """The rest is there for others at once."""
    memory_budget = MemoryBudget(100)
    with memory_budget.reservation() as share:
        share.reserve(80)
        share.shrink_to(30)
        assert (memory_budget.used, share.held) == (30, 30)


def test_an_error_gives_it_back_too() -> None:
    """However the block ends."""
    memory_budget = MemoryBudget(100)
    with suppress(ZeroDivisionError), memory_budget.reservation() as share:
        share.reserve(80)
        raise ZeroDivisionError

    assert memory_budget.used == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["fits", "shrink"]), st.integers(0, 60)))
)
def test_the_budget_is_never_exceeded_and_always_the_sum_of_its_shares(
    steps: list[tuple[int, str, int]],
) -> None:
    """Four callers in any order."""
    memory_budget = MemoryBudget(100)
    shares = [memory_budget.reservation() for _ in range(4)]
    for index, step, size in steps:
        share = shares[index]
        if step == "fits":
            held = share.held
            assert share.try_reserve(size) == (share.held == held + size)
        else:
            share.shrink_to(min(size, share.held))

        assert 0 <= memory_budget.used == sum(one.held for one in shares) <= 100
    for share in shares:
        with share:
            pass

    assert memory_budget.used == 0
