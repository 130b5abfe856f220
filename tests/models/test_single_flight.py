import asyncio
import math

import pytest

from gateway.errors import (
    GatewayError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.models.single_flight import Latest, Stamped
from tests.models.virtual import now, ticks, virtual_time


class Question:
    """Answers 1, 2, 3… after ``latency`` seconds, or raises ``error``."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.error: Exception | None = None
        self.asked = 0
        self.ended: list[GatewayError | None] = []
        self.latest: Latest[int] = Latest(self.ask, now=now, timeout=2.0, on_end=self.ended.append)

    async def ask(self, _: float) -> int:
        self.asked += 1
        number = self.asked
        await asyncio.sleep(self.latency)
        if self.error is not None:
            raise self.error
        return number

    async def since(self, moment: float = math.inf) -> int:
        return (await self.latest.since(min(moment, now()))).value


@virtual_time
async def test_an_answer_young_enough_is_not_asked_for_again() -> None:
    """Age counts from the asking, not from the answer."""
    question = Question()
    question.latency = 0.5

    assert await question.latest.since(0.0) == Stamped(1, 1000.0)
    assert await question.since(1000.0) == 1
    assert await question.since(1000.1) == 2


@virtual_time
async def test_callers_at_once_share_one_question() -> None:
    """A hundred callers make one request."""
    question = Question()
    question.latency = 1.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(question.since()) for _ in range(100)]

    assert {task.result() for task in tasks} == {1}
    assert question.asked == 1


@virtual_time
async def test_who_comes_while_ollama_is_asked_is_not_given_the_older_answer() -> None:
    """An answer that was asked for before somebody came does not know what he did before."""
    question = Question()
    question.latency = 1.0
    async with asyncio.TaskGroup() as group:
        group.create_task(question.since())
        await asyncio.sleep(0.5)
        later = [group.create_task(question.since()) for _ in range(10)]

    assert {task.result() for task in later} == {2}
    assert question.asked == 2


@virtual_time
async def test_a_failure_is_shared_with_those_who_waited() -> None:
    """One failure fails everybody who waited for it, in the same words."""
    question = Question()
    question.latency = 1.0
    question.error = UpstreamUnreachable("no route")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_failure(question)) for _ in range(10)]

    assert {task.result() for task in tasks} == {"UpstreamUnreachable: no route"}
    assert question.asked == 1


@virtual_time
async def test_a_failure_is_not_shared_with_those_who_come_later() -> None:
    """The next caller asks for himself, and finds Ollama back."""
    question = Question()
    question.error = UpstreamProtocolError("nonsense")
    assert await _failure(question) == "UpstreamProtocolError: nonsense"
    question.error = None

    assert await question.since() == 2


@virtual_time
async def test_a_failure_keeps_the_last_answer() -> None:
    """What was good before a failure is still there."""
    question = Question()
    await question.since()
    await asyncio.sleep(1)
    question.error = UpstreamUnreachable()
    await _failure(question)

    assert question.latest.stamped == Stamped(1, 1000.0)
    assert repr(question.latest) == "<Latest an answer of 1000, 1 failures>"


@virtual_time
async def test_silence_is_ollama_being_out_of_reach() -> None:
    """Who asks waits two seconds and not longer; the message says so."""
    question = Question()
    question.latency = 60.0

    assert "did not answer within 2 s" in await _failure(question)
    assert now() == 1002.0
    assert not question.latest.asking


@virtual_time
async def test_a_source_that_times_out_itself() -> None:
    """A timeout of the connection is the same failure as our own."""
    question = Question()
    for question.error in (UpstreamTimeout(), TimeoutError()):
        assert "UpstreamUnreachable: Ollama did not answer" in await _failure(question)


@virtual_time
async def test_nobody_waits_longer_than_his_own_time() -> None:
    """Waiting for another's question counts as waiting, and ends by his failure at the latest."""
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
async def test_a_waiter_who_must_ask_himself_has_only_his_own_time_left() -> None:
    """When the asker leaves late, the next in line does not start his two seconds anew."""
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
async def test_each_end_is_told_once() -> None:
    """Whoever listens hears of each question's end: nothing, or why it failed."""
    question = Question()
    await question.since()
    question.error = UpstreamUnreachable("gone")
    await asyncio.sleep(1)
    await _failure(question)

    assert [error and error.message for error in question.ended] == [None, "gone"]


@pytest.mark.parametrize("steps", range(6))
@virtual_time
async def test_a_cancelled_asker_does_not_fail_the_others(steps: int) -> None:
    """Wherever he is cancelled, those who wait get their answer and the lock is free."""
    question = Question()
    question.latency = 0.5
    async with asyncio.TaskGroup() as group:
        first = group.create_task(question.since())
        others = [group.create_task(question.since()) for _ in range(3)]
        await ticks(steps)
        first.cancel()

    assert {task.result() for task in others} <= {1, 2}
    assert not question.latest.asking
    assert await question.since() <= 3


@pytest.mark.parametrize("steps", range(6))
@virtual_time
async def test_a_cancelled_waiter_does_not_fail_the_others(steps: int) -> None:
    """One in the middle who leaves takes nothing with him."""
    question = Question()
    question.latency = 0.5
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(question.since()) for _ in range(4)]
        await ticks(steps)
        callers[2].cancel()

    assert {task.result() for task in callers if task is not callers[2]} == {1}
    assert not question.latest.asking


@virtual_time
async def test_all_cancelled() -> None:
    """When everybody leaves, the next one starts afresh."""
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
async def test_a_cancelled_asker_tells_nothing_about_ollama() -> None:
    """Somebody's leaving is no failure of Ollama's."""
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
