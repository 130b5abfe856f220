"""Disconnects of real clients, of many clients at once, and of a gateway in its own process."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.simulator import Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import MODEL, Clients, clients_of, seen_request, user
from .dialect_specs import OPENAI
from .disconnects import assert_disconnect_logged, assert_ollama_stopped, close_connection, scene
from .failing import until
from .process import Home
from .wire import raw_client, request

BOTH_LOOPS = True
MIB = 1 << 20


def _openai(clients: Clients) -> Coroutine[Any, Any, object]:
    return clients.openai.chat.completions.create(model=MODEL, messages=[user("hello")])


def _anthropic(clients: Clients) -> Coroutine[Any, Any, object]:
    return clients.anthropic.messages.create(
        model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "hello"}]
    )


def _ollama(clients: Clients) -> Coroutine[Any, Any, object]:
    return clients.ollama.chat(model=MODEL, messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("send", [_openai, _anthropic, _ollama])
async def test_cancelled_request_of_an_sdk(
    tmp_path: Path, send: Callable[[Clients], Coroutine[Any, Any, object]]
) -> None:
    """Its user presses a button, or its own timeout expires."""
    async with scene(tmp_path) as here, clients_of(here.gateway) as clients:
        with here.sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                open_request = group.create_task(send(clients))
                await here.sim.wait_for(lambda: hold.waiting == 1)
                open_request.cancel()
            await assert_ollama_stopped(here)
            await assert_disconnect_logged(here, "first_byte")


async def test_sdk_timeout_frees_the_slot_for_its_retry(tmp_path: Path) -> None:
    """The retry finds the slot free."""
    async with scene(tmp_path) as here, clients_of(here.gateway) as clients:
        with here.sim.hold():
            with pytest.raises(Exception, match="timed out"):
                await clients.openai.with_options(timeout=0.2).chat.completions.create(
                    model=MODEL, messages=[user("hello")]
                )
            await assert_ollama_stopped(here)
            await assert_disconnect_logged(here, "first_byte")

        assert (await here.fetch()).status == 200


async def test_sdk_stream_that_is_left_early(tmp_path: Path) -> None:
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
            await assert_ollama_stopped(here)
            await assert_disconnect_logged(here, "relay")


# Many at once, and in production.


async def test_thirty_disconnects_at_once_leave_nothing(sim: Simulator, tmp_path: Path) -> None:
    """Whatever each of the requests was waiting for."""
    async with running(sim.url, tmp_path, scheduler={"max_queued_per_key": 64}) as gateway:
        with sim.hold() as hold:
            async with httpx.AsyncClient(headers=gateway.bearer, timeout=30) as client:
                url = gateway.url + OPENAI.path
                tasks = [
                    asyncio.get_running_loop().create_task(client.post(url, json=OPENAI.body()))
                    for _ in range(30)
                ]
                await sim.wait_for(lambda: hold.waiting == 1)
                await until(lambda: "29/64 queued" in repr(gateway.gateway.host.scheduler))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            lines = await gateway.finished(30)
        await left_empty(gateway)
        await sim.wait_for(lambda: sim.stats.active == 0)

        assert {line["outcome"] for line in lines} == {"client_disconnected"}
        assert sorted(line["phase"] for line in lines) == ["first_byte"] + ["queue"] * 29
        assert len(seen_request(sim)) == 1


async def test_disconnect_from_a_gateway_process(sim: Simulator, tmp_path: Path) -> None:
    """aiohttp would let Ollama work on by default; the shipped program does not."""
    home = Home(tmp_path)
    key = home.key("tester")
    with home.serves(sim.url) as process, sim.hold() as hold:
        async with raw_client(process.port) as client:
            bearer = {"Authorization": f"Bearer {key}"}
            client.send(request(OPENAI.path, OPENAI.body(), headers=bearer))
            await sim.wait_for(lambda: hold.waiting == 1)
            close_connection(client)
            await sim.wait_for(lambda: sim.stats.generations_abandoned == 1)
        await process.until(lambda: bool(process.log("request.finished")))
        line = process.log("request.finished")[0]
        process.signal(signal.SIGTERM)

        assert await process.ended() == 0
    assert (line["outcome"], line["status"]) == ("client_disconnected", 499)


async def test_open_connection_is_not_taken_for_a_disconnect(
    gateway: Running, sim: Simulator
) -> None:
    """A complete request on an open connection is served, however long it takes."""
    async with raw_client(gateway.port) as client:
        with sim.hold() as hold:
            client.send(request(OPENAI.path, OPENAI.body(), headers=gateway.bearer))
            await sim.wait_for(lambda: hold.waiting == 1)
        response = await client.response()

    assert (response.status, response.complete) == (200, True)
