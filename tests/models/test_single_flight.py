import asyncio
import math

import pytest

from gateway.errors import (
    GatewayError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.models.catalog import SingleFlight, Stamped
from tests.models.virtual import now, ticks, virtual_time


class Question:
    """Answers 1, 2, 3… after ``latency`` seconds, or raises ``error``."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.error: Exception | None = None
        self.asked = 0
        self.ended: list[GatewayError | None] = []
        self.flight: SingleFlight[int] = SingleFlight(
            self.ask, now=now, timeout=2.0, on_end=self.ended.append
        )

    async def ask(self, _: float) -> int:
        self.asked += 1
        number = self.asked
        await asyncio.sleep(self.latency)
        if self.error is not None:
            raise self.error
        return number

    async def since(self, moment: float = math.inf) -> int:
        return (await self.flight.since(min(moment, now()))).value


@virtual_time
async def test_a_response_young_enough_is_not_fetched_again() -> None:
    """Its age counts from when it was asked for."""
    question = Question()
    question.latency = 0.5

    assert await question.flight.since(0.0) == Stamped(1, 1000.0)
    assert await question.since(1000.0) == 1
    assert await question.since(1000.1) == 2


@virtual_time
async def test_concurrent_callers_share_one_fetch() -> None:
    question = Question()
    question.latency = 1.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(question.since()) for _ in range(100)]

    assert {task.result() for task in tasks} == {1}
    assert question.asked == 1


@virtual_time
async def test_a_caller_during_a_fetch_gets_a_newer_response() -> None:
    """The response of the running fetch does not know what happened before the caller came."""
    question = Question()
    question.latency = 1.0
    async with asyncio.TaskGroup() as group:
        group.create_task(question.since())
        await asyncio.sleep(0.5)
        later = [group.create_task(question.since()) for _ in range(10)]

    assert {task.result() for task in later} == {2}
    assert question.asked == 2


@virtual_time
async def test_a_failure_is_shared_with_the_callers_that_waited() -> None:
    """With the same message."""
    question = Question()
    question.latency = 1.0
    question.error = UpstreamUnreachable("no route")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_failure(question)) for _ in range(10)]

    assert {task.result() for task in tasks} == {"UpstreamUnreachable: no route"}
    assert question.asked == 1


@virtual_time
async def test_a_failure_is_not_shared_with_later_callers() -> None:
    """They fetch themselves, and find Ollama back."""
    question = Question()
    question.error = UpstreamProtocolError("nonsense")
    assert await _failure(question) == "UpstreamProtocolError: nonsense"
    question.error = None

    assert await question.since() == 2


@virtual_time
async def test_a_failure_keeps_the_last_response() -> None:
    question = Question()
    await question.since()
    await asyncio.sleep(1)
    question.error = UpstreamUnreachable()
    await _failure(question)

    assert question.flight.stamped == Stamped(1, 1000.0)
    assert repr(question.flight) == "<SingleFlight a response of 1000, 1 failures>"


@virtual_time
async def test_a_fetch_times_out_as_unreachable() -> None:
    """After two seconds; the message says so."""
    question = Question()
    question.latency = 60.0

    assert "did not answer within 2 s" in await _failure(question)
    assert now() == 1002.0
    assert not question.flight.in_flight


@virtual_time
async def test_a_timeout_of_the_connection_is_the_same_failure() -> None:
    question = Question()
    for question.error in (UpstreamTimeout(), TimeoutError()):
        assert "UpstreamUnreachable: Ollama did not answer" in await _failure(question)


@virtual_time
async def test_waiting_for_another_fetch_counts_as_waiting() -> None:
    """It ends with that fetch's failure at the latest."""
    question = Question()
    question.latency = 60.0
    ends: list[float] = []

    async def caller() -> None:
        await _failure(question)
        ends.append(now())

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(caller())
            await asyncio.sleep(0.5)

    assert ends == [1002.0, 1002.0, 1002.0, 1002.0, 1004.0]


@virtual_time
async def test_a_waiter_that_fetches_has_only_the_rest_of_its_time() -> None:
    """When the first caller is cancelled late."""
    question = Question()
    question.latency = 60.0
    async with asyncio.TaskGroup() as group:
        first = group.create_task(question.since())
        second = group.create_task(_failure(question))
        await asyncio.sleep(1.5)
        first.cancel()

    assert "did not answer" in second.result()
    assert now() == 1002.0


@virtual_time
async def test_each_end_is_reported_once() -> None:
    """With None or the reason of the failure."""
    question = Question()
    await question.since()
    question.error = UpstreamUnreachable("gone")
    await asyncio.sleep(1)
    await _failure(question)

    assert [error and error.message for error in question.ended] == [None, "gone"]


@pytest.mark.parametrize("steps", range(6))
@virtual_time
async def test_a_cancelled_fetch_does_not_fail_the_others(steps: int) -> None:
    """Wherever it is cancelled, the others get a response and the lock is free."""
    question = Question()
    question.latency = 0.5
    async with asyncio.TaskGroup() as group:
        first = group.create_task(question.since())
        others = [group.create_task(question.since()) for _ in range(3)]
        await ticks(steps)
        first.cancel()

    assert {task.result() for task in others} <= {1, 2}
    assert not question.flight.in_flight
    assert await question.since() <= 3


@pytest.mark.parametrize("steps", range(6))
@virtual_time
async def test_a_cancelled_waiter_does_not_fail_the_others(steps: int) -> None:
    question = Question()
    question.latency = 0.5
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(question.since()) for _ in range(4)]
        await ticks(steps)
        callers[2].cancel()

    assert {task.result() for task in callers if task is not callers[2]} == {1}
    assert not question.flight.in_flight


@virtual_time
async def test_after_all_callers_were_cancelled_the_next_one_fetches() -> None:
    question = Question()
    question.latency = 0.5
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(question.since()) for _ in range(4)]
        await ticks(2)
        for caller in callers:
            caller.cancel()

    assert question.ended == []
    assert await question.since() == 2


@virtual_time
async def test_a_cancelled_fetch_is_not_reported() -> None:
    """A client that disconnects is no failure of Ollama."""
    question = Question()
    question.latency = 0.5
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(question.since())
        await ticks(2)
        caller.cancel()

    assert question.ended == []


async def _failure(question: Question) -> str:
    try:
        await question.since()
    except GatewayError as error:
        return f"{type(error).__name__}: {error.message}"
    return "no failure"
