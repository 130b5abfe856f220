"""Connections as an attack: too many, too slow, pipelined, or gone."""

import asyncio
import contextlib
from pathlib import Path

import pytest
import uvloop

from gateway.simulator import Simulator
from tests.behaviour.wire import raw_client, request
from tests.conftest import left_empty
from tests.harness import Running, running

CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hi"}], "stream": False}
PATH = "/v1/chat/completions"
HEALTH = request("/healthz")
MEGABYTE = b"x" * (1 << 20)


def chat(gateway: Running, **headers: str) -> bytes:
    return request(PATH, CHAT, headers={**gateway.bearer, **headers})


async def until_active(gateway: Running, count: int = 1) -> None:
    """Wait until so many requests are being served."""
    async with asyncio.timeout(5):
        while len(gateway.gateway.handler.active_requests()) < count:  # noqa: ASYNC110  - no event for tests
            await asyncio.sleep(0.002)


def generations(sim: Simulator) -> int:
    return sim.stats.generations_started


async def test_connection_above_the_limit_gets_503(sim: Simulator, tmp_path: Path) -> None:
    """With advice, and closed at once; open connections go on, and closing one makes room."""
    async with running(sim.url, tmp_path, limits={"connections": 3}) as gateway:
        async with contextlib.AsyncExitStack() as stack:
            inside = [await stack.enter_async_context(raw_client(gateway.port)) for _ in range(3)]
            for client in inside:
                client.send(HEALTH)
                assert (await client.response()).status == 200
            for _ in range(20):
                async with raw_client(gateway.port) as late:
                    late.send(chat(gateway))
                    response = await late.read_until_closed()

                assert response.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 2\r\n" in response
            with sim.hold() as hold:
                inside[0].send(chat(gateway))
                await sim.wait_for(lambda: hold.waiting == 1)
                hold.release(100)
                assert (await inside[0].response()).status == 200
        async with asyncio.timeout(5):
            while True:
                async with raw_client(gateway.port) as client:
                    client.send(HEALTH)
                    if (await client.response()).status == 200:
                        break
        assert generations(sim) == 1
        await left_empty(gateway)


async def test_pipelined_requests_are_served_in_order(gateway: Running, sim: Simulator) -> None:
    """Each with its own credentials; a rejected one in between affects no other."""
    bad = request(PATH, CHAT, headers={"Authorization": "Bearer ogw_wrong"})
    async with raw_client(gateway.port) as client:
        client.send(chat(gateway) + bad + HEALTH + request("/api/pull", CHAT) + chat(gateway))
        response = [await client.response() for _ in range(5)]

    assert [each.status for each in response] == [200, 401, 200, 404, 200]
    assert generations(sim) == 2


async def test_only_a_few_pipelined_requests_are_buffered(gateway: Running, sim: Simulator) -> None:
    """Of a hundred thousand behind a running one, the rest stays with the client."""
    with sim.hold() as hold:
        async with raw_client(gateway.port) as client:
            client.send(chat(gateway))
            await sim.wait_for(lambda: hold.waiting == 1)
            client.send(HEALTH * 100_000)
            await sim.wait_for(lambda: sim.stats.active == 0)

            assert len(await gateway.finished()) == 1


@pytest.mark.parametrize("kind", ["body", "requests", "upgrade"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_disconnect_behind_a_full_buffer_is_noticed(
    kind: str, loop: object, tmp_path: Path
) -> None:
    """Pipelined data must not hide a disconnect: Ollama stops."""
    behind = {
        "body": request(PATH, MEGABYTE * 3, headers={"Authorization": "Bearer x"}),
        "requests": HEALTH * 50_000,
        "upgrade": MEGABYTE * 3,
    }

    async def scene() -> None:
        async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
            with sim.hold() as hold:
                upgrade = {"Connection": "upgrade", "Upgrade": "websocket"}
                async with raw_client(gateway.port) as client:
                    client.send(chat(gateway, **(upgrade if kind == "upgrade" else {})))
                    await sim.wait_for(lambda: hold.waiting == 1)
                    client.send(behind[kind])
                    await asyncio.sleep(0)
                    client.writer.transport.abort()
                await sim.wait_for(lambda: sim.stats.active == 0)
            (line,) = await gateway.finished()

            assert line["outcome"] == "client_disconnected"
            assert sim.stats.generations_abandoned == 1
            await left_empty(gateway)

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]  # either factory
        runner.run(scene())


async def test_early_next_request_is_served(gateway: Running, sim: Simulator) -> None:
    """A large body behind a short request keeps its connection."""
    padded = {**CHAT, "metadata": {"x": "y" * (1 << 20)}}
    async with raw_client(gateway.port) as client:
        for _ in range(5):
            client.send(HEALTH + request(PATH, padded, headers=gateway.bearer))

            assert [(await client.response()).status for _ in range(2)] == [200, 200]
    assert generations(sim) == 5


async def test_half_closed_connection_counts_as_a_disconnect(
    gateway: Running, sim: Simulator
) -> None:
    """While it waits: the slot is free and Ollama stops."""
    with sim.hold() as hold:
        async with raw_client(gateway.port) as client:
            client.send(chat(gateway))
            await sim.wait_for(lambda: hold.waiting == 1)
            client.writer.write_eof()
            await sim.wait_for(lambda: sim.stats.active == 0)

            assert await client.read_until_closed() == b""


@pytest.mark.parametrize("how", ["close", "abort", "half"])
async def test_disconnect_during_an_upload_leaves_nothing(
    gateway: Running, sim: Simulator, how: str
) -> None:
    """The memory is free at once, and Ollama gets nothing."""
    async with raw_client(gateway.port) as client:
        head = {**gateway.bearer, "Content-Length": str(20 << 20)}
        client.send(request(PATH, MEGABYTE, headers=head))
        await until_active(gateway)
        leave = {
            "close": client.writer.close,
            "abort": client.writer.transport.abort,
            "half": client.writer.write_eof,
        }
        leave[how]()
        (line,) = await gateway.finished()

    assert (line["outcome"], line["phase"]) == ("client_disconnected", "body")
    assert repr(gateway.gateway.handler.memory_budget) == "<MemoryBudget 0/536870912 bytes>"
    assert generations(sim) == 0


async def test_slow_uploads_time_out_and_free_their_memory(sim: Simulator, tmp_path: Path) -> None:
    """A byte now and then does not extend the timeout; other requests are served meanwhile."""
    async with (
        running(sim.url, tmp_path, timeouts={"body_timeout": 0.3}) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        slow = [await stack.enter_async_context(raw_client(gateway.port)) for _ in range(20)]
        for client in slow:
            client.send(
                request(PATH, b"{", headers={**gateway.bearer, "Content-Length": "1000000"})
            )
        await until_active(gateway, len(slow))
        quick = await stack.enter_async_context(raw_client(gateway.port))
        quick.send(chat(gateway))
        assert (await quick.response()).status == 200
        for _ in range(5):
            for client in slow:
                client.send(b" ")
            await asyncio.sleep(0.02)

        assert {(await client.response()).status for client in slow} == {408}
        assert gateway.gateway.handler.memory_budget.used == 0
        await left_empty(gateway)


async def test_request_without_a_key_is_rejected_before_its_body_is_read(
    gateway: Running, sim: Simulator
) -> None:
    """No `100 Continue`, no reserved memory; the connection ends if the client sends on."""
    async with raw_client(gateway.port) as client:
        head = {"Content-Length": str(20 << 20), "Expect": "100-continue"}
        client.send(request(PATH, b"", headers=head))
        response = await client.response()
        client.send(MEGABYTE)
        rest = await client.read_until_closed()

    assert (response.status, rest) == (401, b"")
    assert gateway.gateway.handler.memory_budget.used == 0
    assert generations(sim) == 0


async def test_slow_heads_time_out(sim: Simulator, tmp_path: Path) -> None:
    """A header now and then does not keep a connection open."""
    async with (
        running(sim.url, tmp_path, timeouts={"head_timeout": 0.2}) as gateway,
        raw_client(gateway.port) as client,
    ):
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for number in range(4):
            client.send(b"X-%d: y\r\n" % number)
            await asyncio.sleep(0.02)

        assert await client.read_until_closed() == b""


@pytest.mark.parametrize("before", [b"", HEALTH])
async def test_total_size_of_a_head_is_limited(gateway: Running, before: bytes) -> None:
    """A hundred lines that are short enough each would be a megabyte: 431."""
    lines = [b"X-%d: %b\r\n" % (number, b"y" * 8000) for number in range(9)]
    async with raw_client(gateway.port) as client:
        if before:
            client.send(before)
            assert (await client.response()).status == 200
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        client.send(b"".join(lines))
        response = await client.read_until_closed()

    # If bytes of the client are in flight when it is closed, TCP may lose the response.
    assert response[:13] in (b"HTTP/1.1 431 ", b"")
    assert len(gateway.log("request.finished")) == bool(before)


async def test_heads_of_several_requests_are_counted_separately(
    gateway: Running, sim: Simulator
) -> None:
    """Many requests on one connection, some with large bodies."""
    padded = {**CHAT, "metadata": {"x": "y" * (1 << 20)}}
    async with raw_client(gateway.port) as client:
        for body in (CHAT, padded, CHAT, padded):
            data = request(PATH, body, headers={**gateway.bearer, "X-Long": "z" * 8000})
            for at in range(0, len(data), 50_000):
                client.send(data[at : at + 50_000])
                await asyncio.sleep(0)

            assert (await client.response()).status == 200
        for _ in range(30):
            client.send(request("/healthz", headers={"X-Long": "z" * 8000}))
            assert (await client.response()).status == 200
    assert generations(sim) == 4


async def test_slow_second_head_ends_with_the_keepalive_timeout(
    sim: Simulator, tmp_path: Path
) -> None:
    """An earlier request buys no more time than being idle."""
    async with (
        running(sim.url, tmp_path, timeouts={"keepalive_timeout": 0.2}) as gateway,
        raw_client(gateway.port) as client,
    ):
        client.send(HEALTH)
        await client.response()
        client.send(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(4):
            client.send(b"X: y\r\n")
            await asyncio.sleep(0.02)

        assert await client.read_until_closed() == b""
