"""Callers who are slow, and callers who are gone."""

import asyncio

from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
)
from gateway.public.memory import MemoryBudget
from gateway.public.response import Response
from gateway.public.writer import Pace
from tests.behaviour.wire import request

from .stage import MIB, PACE, SSE, Stage, staged, stream


async def test_writing_waits_only_when_the_read_ahead_is_full() -> None:
    """A stream: so many bytes on their way, and Ollama is held back."""
    written: list[int] = []
    full = asyncio.Event()

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, SSE, length=None, scanner=answer.dialect.scanner())
        for _ in range(64):
            await answer.write(bytes(MIB))
            written.append(answer._outlet.unsent)
            if written[-1] > 0:
                full.set()
        await answer.end()

    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        async with asyncio.timeout(5):
            await full.wait()
        await one.head()
        rest, whole = await one.rest()

    assert (len(rest), whole) == (64 * MIB, True)
    assert max(written) <= PACE.answer_bytes


async def test_a_whole_answer_is_taken_over_at_once() -> None:
    """It is in memory anyway: whoever wrote it is free."""
    taken = asyncio.Event()

    async def story(answer: Response) -> None:
        await answer.send(200, [], bytes(32 * MIB))
        taken.set()
        await answer.end()

    async with staged(Stage(story)) as one:
        one.send(request("/", {}))
        async with asyncio.timeout(5):
            await taken.wait()
        answer = await one.answer()

    assert (len(answer.body), answer.whole) == (32 * MIB, True)


async def test_the_end_is_when_the_last_byte_is_on_its_way() -> None:
    """Nothing of a request is kept in memory after it, and the connection goes on."""
    left: list[int] = []

    async def story(answer: Response) -> None:
        await answer.send(200, [], bytes(16 * MIB))
        await answer.end()
        left.append(answer._outlet.unsent)

    async with staged(Stage(story)) as one:
        for _ in range(2):
            one.send(request("/", {}))
            assert len((await one.answer()).body) == 16 * MIB

    assert left == [0, 0]


async def test_one_who_takes_nothing_is_given_up() -> None:
    """After ``write_timeout`` seconds without a byte."""
    stage = Stage(stream(bytes(32 * MIB), None), pace=Pace(write_timeout=0.2, answer_bytes=MIB))
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    (error,) = stage.errors
    assert type(error) is ClientWriteTimeout
    assert "0.2 s" in error.message


async def test_one_who_takes_little_is_not_given_up() -> None:
    """Slow is not gone: each ``write_timeout`` needs only some progress."""
    pace = Pace(write_timeout=0.3, answer_bytes=MIB)
    stage = Stage(stream(bytes(24 * MIB), None), pace=pace)
    async with staged(stage) as one:
        one.send(request("/", {}))
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data = await one.reader.read(MIB)
            await asyncio.sleep(0.008)  # so that all of it takes longer than one write_timeout

    assert stage.errors == []


async def test_writing_to_one_who_is_gone_says_so() -> None:
    """It is his doing, not Ollama's."""
    gone = asyncio.Event()

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, SSE, length=None, scanner=None)
        await answer.write(b"x")
        transport = answer._request.transport
        assert transport is not None
        transport.abort()
        gone.set()
        await answer.write(b"y")

    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    assert [type(error) for error in stage.errors] == [ClientDisconnected]
    assert stage.answers[0].state == "aborted"


async def test_one_who_leaves_wakes_whoever_waits_to_write_to_him() -> None:
    """At once, not after the clock."""
    stage = Stage(stream(bytes(32 * MIB), None), pace=Pace(write_timeout=60, answer_bytes=MIB))
    async with staged(stage) as one:
        one.send(request("/", {}))
        await one.head()
        one.writer.transport.abort()
        await stage.is_over()

    assert [type(error) for error in stage.errors] in (
        [ClientDisconnected],
        [asyncio.CancelledError],
    )


async def test_a_long_answer_is_read_ahead_as_far_as_memory_allows() -> None:
    """Its length is known: with room in the budget nobody waits for a slow reader."""

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, [], length=24 * MIB, scanner=None)
        for _ in range(24):
            await answer.write(bytes(MIB))
        taken.set()
        await go_on.wait()
        await answer.end()

    taken, go_on = asyncio.Event(), asyncio.Event()
    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        async with asyncio.timeout(5):
            await taken.wait()
        held = stage.memory_budget.used
        go_on.set()
        answer = await one.answer()

    assert held >= 24 * MIB
    assert (len(answer.body), answer.whole, stage.memory_budget.used) == (24 * MIB, True, 0)


async def test_without_room_in_the_budget_a_long_answer_waits_for_its_reader() -> None:
    """What all callers together may hold is held by nobody twice."""
    stage = Stage(
        stream(),
        memory_budget=MemoryBudget(2 * MIB),
        pace=Pace(write_timeout=0.2, answer_bytes=MIB),
    )

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, [], length=64 * MIB, scanner=None)
        for _ in range(64):
            await answer.write(bytes(MIB))

    stage.story = story
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    assert [type(error) for error in stage.errors] == [ClientWriteTimeout]
    assert stage.memory_budget.used == 0
