"""A caller who leaves frees his place at once, and Ollama stops working for him."""

import asyncio
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import MODEL, Clients, asked, clients_of, user
from .failing import Scene, scene_of, until
from .process import Home
from .speech import ALL, NATIVE, OPENAI, Speech
from .wire import Caller, caller, request

BOTH_LOOPS = True
MIB = 1 << 20

every_dialect = pytest.mark.parametrize("speech", ALL, ids=lambda speech: speech.name)
streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def hangs_up(one: Caller) -> None:
    """What most clients do: a clean close."""
    one.writer.close()


def is_killed(one: Caller) -> None:
    """What a killed process or a tunnel that breaks does: a reset."""
    sock = one.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.writer.transport.abort()


def half_closes(one: Caller) -> None:
    """Says that nothing more will come from him. It counts as gone: tunnels never do it."""
    one.writer.write_eof()


Leave = Callable[[Caller], None]
every_way = pytest.mark.parametrize(
    "leave", [hangs_up, is_killed, half_closes], ids=lambda leave: leave.__name__
)


@asynccontextmanager
async def scene(folder: Path, speech: Speech = OPENAI, **settings: Any) -> AsyncIterator[Scene]:
    async with scene_of(folder, speech, settings) as made:
        yield made


async def is_logged(scene: Scene, phase: str, count: int = 1) -> dict[str, Any]:
    """The last of ``count`` lines, which is that of a caller who left in that phase."""
    line = (await scene.gateway.finished(count))[-1]

    assert (line["outcome"], line["status"], line["phase"]) == ("client_disconnected", 499, phase)

    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{scene.gateway.admin_url}/metrics")).text

    assert f'gateway_client_disconnects_total{{phase="{phase}"}} 1.0' in metrics
    return line


async def is_abandoned(scene: Scene) -> None:
    """Ollama saw the connection close, and stopped."""
    sim = scene.sim
    await sim.wait_for(lambda: sim.stats.generations_abandoned == 1 and sim.stats.active == 0)

    assert sim.stats.generations_finished == 0


# (a) While he uploads.


@every_way
async def test_while_he_uploads(tmp_path: Path, leave: Leave) -> None:
    """Nothing was asked of Ollama, nothing was queued."""
    async with scene(tmp_path) as here, caller(here.gateway.port) as one:
        data = request(OPENAI.path, OPENAI.body(), headers=here.gateway.bearer)
        one.send(data[:-10])
        await until(lambda: "1 requests" in repr(here.gateway.gateway.front))
        leave(one)
        await is_logged(here, "body")

        assert asked(here.sim) == []


async def test_while_he_uploads_megabytes(tmp_path: Path) -> None:
    """The memory that he was given is free again."""
    async with scene(tmp_path) as here, caller(here.gateway.port) as one:
        buffers = here.gateway.gateway.front._buffers
        headers = {**here.gateway.bearer, "Content-Length": str(20 * MIB)}
        one.send(request(OPENAI.path, bytes(10 * MIB), headers=headers))
        await until(lambda: buffers.used == 20 * MIB)
        is_killed(one)
        await is_logged(here, "body")

        assert buffers.used == 0


# (b) While he waits for his turn.


@every_way
async def test_while_he_is_queued(tmp_path: Path, leave: Leave) -> None:
    """His place in the queue is gone, and Ollama never hears of him."""
    async with scene(tmp_path) as here, here.occupied() as (first, hold):
        async with here.waiting() as one:
            await here.queued(1)
            leave(one)
            line = await is_logged(here, "queue")
        await here.queued(0)
        hold.end()

        assert (await first.answer()).status == 200
        assert len(asked(here.sim)) == 1
        assert "upstream_status" not in line
        assert line["queue_wait"] >= 0


async def test_one_who_leaves_the_queue_does_not_hold_up_those_behind_him(tmp_path: Path) -> None:
    """The next one moves up."""
    async with scene(tmp_path) as here, here.occupied() as (first, hold):
        async with here.waiting() as gone, here.waiting() as behind:
            await here.queued(2)
            hangs_up(gone)
            await here.queued(1)
            hold.end()

            assert (await first.answer()).status == 200
            assert (await behind.answer()).status == 200
        assert len(asked(here.sim)) == 2


# (c) While he waits for the first byte.


@every_dialect
@streaming_or_not
async def test_before_the_first_byte(tmp_path: Path, speech: Speech, stream: bool) -> None:
    """The model works, nothing was sent yet: it stops."""
    async with scene(tmp_path, speech) as here, caller(here.gateway.port) as one:
        with here.sim.hold() as hold:
            body = speech.body(stream=stream)
            one.send(request(speech.path, body, headers=here.gateway.bearer))
            await here.sim.wait_for(lambda: hold.waiting == 1)
            hangs_up(one)
            await is_abandoned(here)
            await is_logged(here, "first_byte")


@every_way
async def test_while_the_model_loads(tmp_path: Path, leave: Leave) -> None:
    """However he leaves: Ollama has sent no byte, and sees its connection close."""
    async with scene(tmp_path) as here, here.waiting() as one:
        here.sim.fault(Fault.slow_headers())
        await here.sim.wait_for(lambda: len(asked(here.sim)) == 1)
        leave(one)
        await is_logged(here, "first_byte")
        await until(lambda: here.gateway.gateway.admission.idle)

        assert repr(here.gateway.gateway.upstream.pool).startswith("<Pool 0 lent")


# (d) In the middle of the answer.


@every_dialect
async def test_in_the_middle_of_a_stream(tmp_path: Path, speech: Speech) -> None:
    """Ollama stops within the next token, and the next caller is served."""
    async with scene(tmp_path, speech) as here:
        with here.sim.hold() as hold:
            async with caller(here.gateway.port) as one:
                body = speech.body(stream=True)
                one.send(request(speech.path, body, headers=here.gateway.bearer))
                hold.release(2)
                status, _ = await one.head()
                await one.chunk()
                await here.sim.wait_for(lambda: here.sim.stats.tokens_generated == 2)
                hangs_up(one)
                await is_abandoned(here)
            line = await is_logged(here, "relay")

        assert (status, line["upstream_status"]) == (200, 200)
        assert line["bytes_out"] > 0
        assert (await here.ask()).status == 200


@every_way
async def test_in_the_middle_of_a_stream_in_every_way(tmp_path: Path, leave: Leave) -> None:
    """Closed, reset, or half closed."""
    async with scene(tmp_path, NATIVE) as here, caller(here.gateway.port) as one:
        with here.sim.hold() as hold:
            body = NATIVE.body(stream=True)
            one.send(request(NATIVE.path, body, headers=here.gateway.bearer))
            hold.release(1)
            await one.head()
            await one.chunk()
            await here.sim.wait_for(lambda: hold.waiting == 1)
            leave(one)
            await is_abandoned(here)
            await is_logged(here, "relay")


async def test_while_he_takes_nothing_of_a_stream(tmp_path: Path) -> None:
    """Held back by his slowness, Ollama is let go by his leaving."""
    settings = {"answer_bytes": 64 * 1024}
    async with scene(tmp_path, limits=settings) as here:
        here.sim.fault(Fault.huge(64 * MIB))
        async with caller(here.gateway.port, limit=1 << 16) as one:
            body = OPENAI.body(stream=True)
            one.send(request(OPENAI.path, body, headers=here.gateway.bearer))
            await here.sim.wait_for(lambda: here.sim.stats.blocked == 1)
            is_killed(one)
            await is_abandoned(here)
            await is_logged(here, "relay")


# (e) While the last of it is on its way.


@pytest.mark.parametrize("leave", [hangs_up, is_killed], ids=lambda leave: leave.__name__)
async def test_while_the_end_is_flushed(tmp_path: Path, leave: Leave) -> None:
    """His place was free already; the rest of the answer is dropped."""
    async with scene(tmp_path, limits={"answer_bytes": 16 * MIB}) as here:
        here.sim.fault(Fault.huge(14 * MIB))
        async with caller(here.gateway.port, limit=1 << 16) as one:
            one.send(request(OPENAI.path, OPENAI.body(), headers=here.gateway.bearer))
            await here.sim.wait_for(lambda: here.sim.stats.generations_finished == 1)
            await until(lambda: here.gateway.gateway.admission.idle)
            still = repr(here.gateway.gateway.front)
            leave(one)
            await is_logged(here, "relay")

        assert still == "<Front 1 requests>"


# The clients that people use.


def _openai(clients: Clients) -> Coroutine[Any, Any, object]:
    return clients.openai.chat.completions.create(model=MODEL, messages=[user("hello")])


def _anthropic(clients: Clients) -> Coroutine[Any, Any, object]:
    return clients.anthropic.messages.create(
        model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "hello"}]
    )


def _ollama(clients: Clients) -> Coroutine[Any, Any, object]:
    return clients.ollama.chat(model=MODEL, messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("call", [_openai, _anthropic, _ollama])
async def test_a_cancelled_call_of_a_real_client(
    tmp_path: Path, call: Callable[[Clients], Coroutine[Any, Any, object]]
) -> None:
    """Their users press a button, or their own clock runs out."""
    async with scene(tmp_path) as here, clients_of(here.gateway) as clients:
        with here.sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calling = group.create_task(call(clients))
                await here.sim.wait_for(lambda: hold.waiting == 1)
                calling.cancel()
            await is_abandoned(here)
            await is_logged(here, "first_byte")


async def test_a_real_client_that_gives_up_by_its_own_clock(tmp_path: Path) -> None:
    """Its retry finds the place free."""
    async with scene(tmp_path) as here, clients_of(here.gateway) as clients:
        with here.sim.hold():
            with pytest.raises(Exception, match="timed out"):
                await clients.openai.with_options(timeout=0.2).chat.completions.create(
                    model=MODEL, messages=[user("hello")]
                )
            await is_abandoned(here)
            await is_logged(here, "first_byte")

        assert (await here.ask()).status == 200


async def test_a_stream_of_a_real_client_that_is_left_early(tmp_path: Path) -> None:
    """A ``break`` in the loop that reads it."""
    async with scene(tmp_path) as here, clients_of(here.gateway) as clients:
        with here.sim.hold() as hold:
            hold.release(1)
            stream = await clients.openai.chat.completions.create(
                model=MODEL, messages=[user("hello")], stream=True
            )
            async with stream:
                async for _ in stream:
                    break
            await is_abandoned(here)
            await is_logged(here, "relay")


# Many at once, and in production.


async def test_thirty_who_leave_at_once_leave_nothing(sim: Simulator, tmp_path: Path) -> None:
    """Whatever each of them was waiting for."""
    async with running(sim.url, tmp_path, admission={"max_queued_per_key": 64}) as gateway:
        with sim.hold() as hold:
            async with httpx.AsyncClient(headers=gateway.bearer, timeout=30) as client:
                url = gateway.url + OPENAI.path
                tasks = [
                    asyncio.get_running_loop().create_task(client.post(url, json=OPENAI.body()))
                    for _ in range(30)
                ]
                await sim.wait_for(lambda: hold.waiting == 1)
                await until(lambda: "29/64 queued" in repr(gateway.gateway.admission))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            lines = await gateway.finished(30)
        await left_empty(gateway)
        await sim.wait_for(lambda: sim.stats.active == 0)

        assert {line["outcome"] for line in lines} == {"client_disconnected"}
        assert sorted(line["phase"] for line in lines) == ["first_byte"] + ["queue"] * 29
        assert len(asked(sim)) == 1


async def test_a_caller_who_leaves_a_process_of_its_own(sim: Simulator, tmp_path: Path) -> None:
    """aiohttp's own default would let Ollama work on; what is shipped does not."""
    home = Home(tmp_path)
    key = home.key("tester")
    with home.serves(sim.url) as process, sim.hold() as hold:
        async with caller(process.port) as one:
            bearer = {"Authorization": f"Bearer {key}"}
            one.send(request(OPENAI.path, OPENAI.body(), headers=bearer))
            await sim.wait_for(lambda: hold.waiting == 1)
            hangs_up(one)
            await sim.wait_for(lambda: sim.stats.generations_abandoned == 1)
        await process.until(lambda: bool(process.log("request.finished")))
        line = process.log("request.finished")[0]
        process.signal(signal.SIGTERM)

        assert await process.ended() == 0
    assert (line["outcome"], line["status"]) == ("client_disconnected", 499)


async def test_a_caller_who_stays_is_not_taken_for_gone(gateway: Running, sim: Simulator) -> None:
    """A whole request on a connection that stays open is answered, however long it takes."""
    async with caller(gateway.port) as one:
        with sim.hold() as hold:
            one.send(request(OPENAI.path, OPENAI.body(), headers=gateway.bearer))
            await sim.wait_for(lambda: hold.waiting == 1)
        answer = await one.answer()

    assert (answer.status, answer.whole) == (200, True)
