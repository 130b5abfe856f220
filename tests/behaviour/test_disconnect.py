"""A client disconnect releases the slot at once, and Ollama stops working for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.simulator import Fault

from .clients import seen_request
from .dialect_specs import ALL, NATIVE, OPENAI, DialectSpec
from .disconnects import (
    assert_disconnect_logged,
    assert_ollama_stopped,
    close_connection,
    half_close_connection,
    reset_connection,
    scene,
)
from .failing import until
from .wire import RawClient, raw_client, request

BOTH_LOOPS = True
MIB = 1 << 20

every_dialect = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete"])


Leave = Callable[[RawClient], None]
every_way = pytest.mark.parametrize(
    "leave",
    [close_connection, reset_connection, half_close_connection],
    ids=lambda leave: leave.__name__,
)


# (a) During the upload.


@every_way
async def test_disconnect_during_the_upload(tmp_path: Path, leave: Leave) -> None:
    """Nothing is sent to Ollama, nothing is queued."""
    async with scene(tmp_path) as here, raw_client(here.gateway.port) as client:
        data = request(OPENAI.path, OPENAI.body(), headers=here.gateway.bearer)
        client.send(data[:-10])
        await until(lambda: "1 active" in repr(here.gateway.gateway.handler))
        leave(client)
        await assert_disconnect_logged(here, "body")

        assert seen_request(here.sim) == []


async def test_disconnect_during_a_large_upload_frees_its_memory(tmp_path: Path) -> None:
    """The reservation returns to the budget."""
    async with scene(tmp_path) as here, raw_client(here.gateway.port) as client:
        memory_budget = here.gateway.gateway.handler.memory_budget
        headers = {**here.gateway.bearer, "Content-Length": str(20 * MIB)}
        client.send(request(OPENAI.path, bytes(10 * MIB), headers=headers))
        await until(lambda: memory_budget.used == 20 * MIB)
        reset_connection(client)
        await assert_disconnect_logged(here, "body")

        assert memory_budget.used == 0


# (b) In the queue.


@every_way
async def test_disconnect_in_the_queue(tmp_path: Path, leave: Leave) -> None:
    """The request leaves the queue, and Ollama gets nothing."""
    async with scene(tmp_path) as here, here.occupied() as (first, hold):
        async with here.waiting() as client:
            await here.queued(1)
            leave(client)
            line = await assert_disconnect_logged(here, "queue")
        await here.queued(0)
        hold.end()

        assert (await first.response()).status == 200
        assert len(seen_request(here.sim)) == 1
        assert "upstream_status" not in line
        assert line["queue_wait"] >= 0


async def test_disconnect_in_the_queue_lets_later_requests_move_up(tmp_path: Path) -> None:
    """The next one is dispatched."""
    async with scene(tmp_path) as here, here.occupied() as (first, hold):
        async with here.waiting() as gone, here.waiting() as behind:
            await here.queued(2)
            close_connection(gone)
            await here.queued(1)
            hold.end()

            assert (await first.response()).status == 200
            assert (await behind.response()).status == 200
        assert len(seen_request(here.sim)) == 2


# (c) Before the first byte.


@every_dialect
@streaming_or_not
async def test_disconnect_before_the_first_byte(
    tmp_path: Path, spec: DialectSpec, stream: bool
) -> None:
    """The model works and nothing was sent yet: Ollama stops."""
    async with scene(tmp_path, spec) as here, raw_client(here.gateway.port) as client:
        with here.sim.hold() as hold:
            body = spec.body(stream=stream)
            client.send(request(spec.path, body, headers=here.gateway.bearer))
            await here.sim.wait_for(lambda: hold.waiting == 1)
            close_connection(client)
            await assert_ollama_stopped(here)
            await assert_disconnect_logged(here, "first_byte")


@every_way
async def test_disconnect_while_the_model_loads(tmp_path: Path, leave: Leave) -> None:
    """Ollama has sent no byte, and sees its connection close."""
    async with scene(tmp_path) as here, here.waiting() as client:
        here.sim.fault(Fault.slow_headers())
        await here.sim.wait_for(lambda: len(seen_request(here.sim)) == 1)
        leave(client)
        await assert_disconnect_logged(here, "first_byte")
        await until(lambda: here.gateway.gateway.host.scheduler.idle)

        assert repr(here.gateway.gateway.host.upstream).startswith("<Upstream 0 in use")


# (d) In the middle of the response.


@every_dialect
async def test_disconnect_in_a_stream(tmp_path: Path, spec: DialectSpec) -> None:
    """Ollama stops within the next token, and the next request is served."""
    async with scene(tmp_path, spec) as here:
        with here.sim.hold() as hold:
            async with raw_client(here.gateway.port) as client:
                body = spec.body(stream=True)
                client.send(request(spec.path, body, headers=here.gateway.bearer))
                hold.release(2)
                status, _ = await client.head()
                await client.chunk()
                await here.sim.wait_for(lambda: here.sim.stats.tokens_generated == 2)
                close_connection(client)
                await assert_ollama_stopped(here)
            line = await assert_disconnect_logged(here, "relay")

        assert (status, line["upstream_status"]) == (200, 200)
        assert line["bytes_out"] > 0
        assert (await here.fetch()).status == 200


@every_way
async def test_every_kind_of_disconnect_in_a_stream(tmp_path: Path, leave: Leave) -> None:
    """Closed, reset, or half closed."""
    async with scene(tmp_path, NATIVE) as here, raw_client(here.gateway.port) as client:
        with here.sim.hold() as hold:
            body = NATIVE.body(stream=True)
            client.send(request(NATIVE.path, body, headers=here.gateway.bearer))
            hold.release(1)
            await client.head()
            await client.chunk()
            await here.sim.wait_for(lambda: hold.waiting == 1)
            leave(client)
            await assert_ollama_stopped(here)
            await assert_disconnect_logged(here, "relay")


async def test_disconnect_of_a_client_that_does_not_read(tmp_path: Path) -> None:
    """Ollama waits for the client, and stops when that leaves."""
    settings = {"read_ahead_bytes": 64 * 1024}
    async with scene(tmp_path, limits=settings) as here:
        here.sim.fault(Fault.huge(64 * MIB))
        async with raw_client(here.gateway.port, limit=1 << 16) as client:
            body = OPENAI.body(stream=True)
            client.send(request(OPENAI.path, body, headers=here.gateway.bearer))
            await here.sim.wait_for(lambda: here.sim.stats.blocked == 1)
            reset_connection(client)
            await assert_ollama_stopped(here)
            await assert_disconnect_logged(here, "relay")


# (e) While the last of it is sent.


@pytest.mark.parametrize(
    "leave", [close_connection, reset_connection], ids=lambda leave: leave.__name__
)
async def test_disconnect_while_the_rest_is_sent(tmp_path: Path, leave: Leave) -> None:
    """The slot is free already; the rest of the response is dropped."""
    async with scene(tmp_path, limits={"read_ahead_bytes": 16 * MIB}) as here:
        here.sim.fault(Fault.huge(14 * MIB))
        async with raw_client(here.gateway.port, limit=1 << 16) as client:
            client.send(request(OPENAI.path, OPENAI.body(), headers=here.gateway.bearer))
            await here.sim.wait_for(lambda: here.sim.stats.generations_finished == 1)
            await until(lambda: here.gateway.gateway.host.scheduler.idle)
            still = repr(here.gateway.gateway.handler)
            leave(client)
            await assert_disconnect_logged(here, "relay")

        assert still == "<RequestHandler 1 active>"
