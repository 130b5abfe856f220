"""Connections as a weapon: too many, too slow, too eager, or gone."""

import asyncio
import contextlib
from pathlib import Path

import pytest
import uvloop

from gateway.simulator import Simulator
from tests.behaviour.wire import caller, request
from tests.conftest import left_empty
from tests.harness import Running, running

CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hi"}], "stream": False}
PATH = "/v1/chat/completions"
HEALTH = request("/healthz")
MEGABYTE = b"x" * (1 << 20)


def chat(gateway: Running, **headers: str) -> bytes:
    return request(PATH, CHAT, headers={**gateway.bearer, **headers})


async def until_read(gateway: Running, count: int = 1) -> None:
    """Until so many requests are under way."""
    async with asyncio.timeout(5):
        while len(gateway.gateway.handler.active_requests()) < count:  # noqa: ASYNC110  - no event for tests
            await asyncio.sleep(0.002)


def generations(sim: Simulator) -> int:
    return sim.stats.generations_started


async def test_above_the_limit_a_connection_is_told_so_and_disturbs_nobody(
    sim: Simulator, tmp_path: Path
) -> None:
    """503 with advice, closed at once; those who are there go on, and a place frees another."""
    async with running(sim.url, tmp_path, limits={"connections": 3}) as gateway:
        async with contextlib.AsyncExitStack() as stack:
            inside = [await stack.enter_async_context(caller(gateway.port)) for _ in range(3)]
            for one in inside:
                one.send(HEALTH)
                assert (await one.answer()).status == 200
            for _ in range(20):
                async with caller(gateway.port) as late:
                    late.send(chat(gateway))
                    told = await late.hung_up()

                assert told.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 2\r\n" in told
            with sim.hold() as hold:
                inside[0].send(chat(gateway))
                await sim.wait_for(lambda: hold.waiting == 1)
                hold.release(100)
                assert (await inside[0].answer()).status == 200
        async with asyncio.timeout(5):
            while True:
                async with caller(gateway.port) as one:
                    one.send(HEALTH)
                    if (await one.answer()).status == 200:
                        break
        assert generations(sim) == 1
        await left_empty(gateway)


async def test_pipelined_requests_are_answered_in_their_order(
    gateway: Running, sim: Simulator
) -> None:
    """Each with its own credentials; what is refused in between poisons nothing."""
    bad = request(PATH, CHAT, headers={"Authorization": "Bearer ogw_wrong"})
    async with caller(gateway.port) as one:
        one.send(chat(gateway) + bad + HEALTH + request("/api/pull", CHAT) + chat(gateway))
        told = [await one.answer() for _ in range(5)]

    assert [each.status for each in told] == [200, 401, 200, 404, 200]
    assert generations(sim) == 2


async def test_of_a_flood_of_requests_only_a_few_are_kept(gateway: Running, sim: Simulator) -> None:
    """A hundred thousand of them behind a running one: the rest stays with the sender."""
    with sim.hold() as hold:
        async with caller(gateway.port) as one:
            one.send(chat(gateway))
            await sim.wait_for(lambda: hold.waiting == 1)
            one.send(HEALTH * 100_000)
            await sim.wait_for(lambda: sim.stats.active == 0)

            assert len(await gateway.finished()) == 1


@pytest.mark.parametrize("kind", ["body", "requests", "upgrade"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_who_leaves_behind_a_full_buffer_has_left(kind: str, loop: object, tmp_path: Path) -> None:
    """What a caller sends behind his request must not blind us to his leaving: Ollama stops."""
    behind = {
        "body": request(PATH, MEGABYTE * 3, headers={"Authorization": "Bearer x"}),
        "requests": HEALTH * 50_000,
        "upgrade": MEGABYTE * 3,
    }

    async def scene() -> None:
        async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
            with sim.hold() as hold:
                upgrade = {"Connection": "upgrade", "Upgrade": "websocket"}
                async with caller(gateway.port) as one:
                    one.send(chat(gateway, **(upgrade if kind == "upgrade" else {})))
                    await sim.wait_for(lambda: hold.waiting == 1)
                    one.send(behind[kind])
                    await asyncio.sleep(0)
                    one.writer.transport.abort()
                await sim.wait_for(lambda: sim.stats.active == 0)
            (line,) = await gateway.finished()

            assert line["outcome"] == "client_disconnected"
            assert sim.stats.generations_abandoned == 1
            await left_empty(gateway)

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]  # either factory
        runner.run(scene())


async def test_who_sends_the_next_request_early_is_served(gateway: Running, sim: Simulator) -> None:
    """A large body behind a short request is only a little eager, and keeps its connection."""
    padded = {**CHAT, "metadata": {"x": "y" * (1 << 20)}}
    async with caller(gateway.port) as one:
        for _ in range(5):
            one.send(HEALTH + request(PATH, padded, headers=gateway.bearer))

            assert [(await one.answer()).status for _ in range(2)] == [200, 200]
    assert generations(sim) == 5


async def test_who_half_closes_has_left(gateway: Running, sim: Simulator) -> None:
    """While he waits for the answer; his place is free and Ollama stops."""
    with sim.hold() as hold:
        async with caller(gateway.port) as one:
            one.send(chat(gateway))
            await sim.wait_for(lambda: hold.waiting == 1)
            one.writer.write_eof()
            await sim.wait_for(lambda: sim.stats.active == 0)

            assert await one.hung_up() == b""


@pytest.mark.parametrize("how", ["close", "abort", "half"])
async def test_who_leaves_while_uploading_leaves_nothing(
    gateway: Running, sim: Simulator, how: str
) -> None:
    """His share of the memory is free at once, and Ollama never heard of him."""
    async with caller(gateway.port) as one:
        head = {**gateway.bearer, "Content-Length": str(20 << 20)}
        one.send(request(PATH, MEGABYTE, headers=head))
        await until_read(gateway)
        leave = {
            "close": one.writer.close,
            "abort": one.writer.transport.abort,
            "half": one.writer.write_eof,
        }
        leave[how]()
        (line,) = await gateway.finished()

    assert (line["outcome"], line["phase"]) == ("client_disconnected", "body")
    assert repr(gateway.gateway.handler.memory_budget) == "<MemoryBudget 0/536870912 bytes>"
    assert generations(sim) == 0


async def test_slow_uploads_end_at_their_clock_and_free_their_memory(
    sim: Simulator, tmp_path: Path
) -> None:
    """A byte now and then does not extend it; others are served meanwhile."""
    async with (
        running(sim.url, tmp_path, timeouts={"body_timeout": 0.3}) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        slow = [await stack.enter_async_context(caller(gateway.port)) for _ in range(20)]
        for one in slow:
            one.send(request(PATH, b"{", headers={**gateway.bearer, "Content-Length": "1000000"}))
        await until_read(gateway, len(slow))
        quick = await stack.enter_async_context(caller(gateway.port))
        quick.send(chat(gateway))
        assert (await quick.answer()).status == 200
        for _ in range(5):
            for one in slow:
                one.send(b" ")
            await asyncio.sleep(0.02)

        assert {(await one.answer()).status for one in slow} == {408}
        assert gateway.gateway.handler.memory_budget.used == 0
        await left_empty(gateway)


async def test_a_stranger_is_refused_before_his_body_is_read(
    gateway: Running, sim: Simulator
) -> None:
    """No `100 Continue`, no share of the memory, and the connection ends if he insists."""
    async with caller(gateway.port) as one:
        head = {"Content-Length": str(20 << 20), "Expect": "100-continue"}
        one.send(request(PATH, b"", headers=head))
        told = await one.answer()
        one.send(MEGABYTE)
        rest = await one.hung_up()

    assert (told.status, rest) == (401, b"")
    assert gateway.gateway.handler.memory_budget.used == 0
    assert generations(sim) == 0


async def test_heads_that_trickle_end_at_their_clock(sim: Simulator, tmp_path: Path) -> None:
    """A connection is not held by a header every now and then."""
    async with (
        running(sim.url, tmp_path, timeouts={"head_timeout": 0.2}) as gateway,
        caller(gateway.port) as one,
    ):
        one.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for number in range(4):
            one.send(b"X-%d: y\r\n" % number)
            await asyncio.sleep(0.02)

        assert await one.hung_up() == b""


@pytest.mark.parametrize("before", [b"", HEALTH])
async def test_a_head_is_bounded_as_a_whole(gateway: Running, before: bytes) -> None:
    """A hundred lines, each of them short enough, would be a megabyte: it ends with 431."""
    lines = [b"X-%d: %b\r\n" % (number, b"y" * 8000) for number in range(9)]
    async with caller(gateway.port) as one:
        if before:
            one.send(before)
            assert (await one.answer()).status == 200
        one.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        one.send(b"".join(lines))
        told = await one.hung_up()

    # Where bytes of his are on their way when it is closed, TCP may lose ours.
    assert told[:13] in (b"HTTP/1.1 431 ", b"")
    assert len(gateway.log("request.finished")) == bool(before)


async def test_a_head_of_usual_size_is_not_counted_with_others(
    gateway: Running, sim: Simulator
) -> None:
    """Many requests on one connection, some with large bodies, are many heads."""
    padded = {**CHAT, "metadata": {"x": "y" * (1 << 20)}}
    async with caller(gateway.port) as one:
        for body in (CHAT, padded, CHAT, padded):
            data = request(PATH, body, headers={**gateway.bearer, "X-Long": "z" * 8000})
            for at in range(0, len(data), 50_000):
                one.send(data[at : at + 50_000])
                await asyncio.sleep(0)

            assert (await one.answer()).status == 200
        for _ in range(30):
            one.send(request("/healthz", headers={"X-Long": "z" * 8000}))
            assert (await one.answer()).status == 200
    assert generations(sim) == 4


async def test_a_second_head_that_trickles_ends_with_the_idle_clock(
    sim: Simulator, tmp_path: Path
) -> None:
    """Having asked once buys no more time than being idle does."""
    async with (
        running(sim.url, tmp_path, timeouts={"keepalive_timeout": 0.2}) as gateway,
        caller(gateway.port) as one,
    ):
        one.send(HEALTH)
        await one.answer()
        one.send(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(4):
            one.send(b"X: y\r\n")
            await asyncio.sleep(0.02)

        assert await one.hung_up() == b""
