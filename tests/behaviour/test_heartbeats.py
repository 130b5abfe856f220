"""Heartbeats keep clients waiting, and no timeout of the gateway is extended by them by mistake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.server import drain
from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import running

from .clients import MODEL, user
from .dialect_specs import NATIVE, OPENAI
from .failing import Scene, scene_of
from .heartbeats import QUICK, all_get_heartbeats, assert_heartbeats, open_request
from .wire import raw_client, request

MIB = 1 << 20
STAINLESS = "x-stainless-read-timeout"


def with_heartbeats(**timeouts: float) -> dict[str, Any]:
    return {"tunnel": QUICK, "timeouts": timeouts}


async def last_outcome(scene: Scene, count: int = 1) -> tuple[str, int, bool]:
    """How the last of ``count`` requests ended; whether it had heartbeats."""
    line = (await scene.gateway.finished(count))[-1]
    return line["outcome"], line["status"], line.get("heartbeats", 0) >= 2


# Client timeouts.


@asynccontextmanager
async def clients_with_timeout(
    scene: Scene, *timeouts: float
) -> AsyncIterator[list[openai.AsyncOpenAI]]:
    """OpenAI's clients with this timeout in seconds, which do not retry."""
    async with AsyncExitStack() as stack:
        made = []
        for timeout in timeouts:
            client = openai.AsyncOpenAI(
                base_url=f"{scene.gateway.url}/v1",
                api_key=scene.gateway.key,
                max_retries=0,
                timeout=timeout,
            )
            made.append(await stack.enter_async_context(client))
        yield made


async def test_heartbeats_keep_clients_from_giving_up(tmp_path: Path) -> None:
    """Without any setting: one client waits for the first token, the others in the queue, for
    longer than the timeout of most of them.
    """
    scheduler = {"scheduler": {"max_active": 1}}
    async with (
        scene_of(tmp_path, OPENAI, scheduler) as scene,
        clients_with_timeout(scene, 1.0, 1.2, 1.5, 60.0) as clients,
        asyncio.TaskGroup() as group,
    ):
        with scene.sim.hold() as hold:
            tasks = []
            for number, client in enumerate(clients):
                create = client.chat.completions.create
                messages = [user(f"SAY: {number}")]
                tasks.append(group.create_task(create(model=MODEL, messages=messages)))
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await scene.queued(3)
            async with open_request(scene, headers={STAINLESS: "1"}) as witness:
                await witness.head()
                await assert_heartbeats(witness, OPENAI, 4, stream=False)
            assert not any(task.done() for task in tasks)
    lines = scene.gateway.log("request.finished")
    outcomes = sorted(line["outcome"] for line in lines)
    responses = [task.result().choices[0].message.content for task in tasks]

    assert responses == ["0", "1", "2", "3"]
    assert outcomes == ["client_disconnected", "ok", "ok", "ok", "ok"]
    # Nothing waited long enough for a heartbeat.
    assert sorted(line.get("heartbeats", 0) > 0 for line in lines) == [False, *[True] * 4]


async def test_without_heartbeats_every_failure_keeps_its_status(tmp_path: Path) -> None:
    """``tunnel.profile = "none"``: for an owner with neither a tunnel nor impatient clients."""
    settings = {"tunnel": {"profile": "none"}, "timeouts": {"total_timeout": 0.8}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        with scene.sim.hold():
            response = await scene.fetch(headers={STAINLESS: "1"})
        ending = await last_outcome(scene)

    assert (response.status, response.json()["error"]["code"]) == (504, "upstream_timeout")
    assert ending == ("upstream_timeout", 504, False)


# Heartbeats restart no timeout of the gateway.


@pytest.mark.parametrize("spec", [OPENAI, NATIVE], ids=lambda spec: spec.name)
async def test_idle_timeout_ends_a_silent_stream(tmp_path: Path, spec: Any) -> None:
    """Heartbeats are no sign of life from Ollama."""
    async with scene_of(tmp_path, spec, with_heartbeats(idle_timeout=0.4)) as scene:
        response = await scene.provoked(Fault.stall(after_tokens=2), stream=True)
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        ending = await last_outcome(scene)

    assert "nothing for 0.4 s" in spec.late_failure(response.body).message
    assert (response.status, response.complete) == (200, False)
    assert ending == ("upstream_idle_timeout", 200, True)


async def test_first_byte_timeout_ends_a_stream_that_does_not_begin(tmp_path: Path) -> None:
    """Only a byte from Ollama counts."""
    async with scene_of(tmp_path, OPENAI, with_heartbeats(first_byte_timeout=0.4)) as scene:
        with scene.sim.hold():
            response = await scene.fetch(stream=True)
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        ending = await last_outcome(scene)

    assert OPENAI.late_failure(response.body).code == "upstream_first_byte_timeout"
    assert ending == ("upstream_first_byte_timeout", 200, True)


async def test_total_timeout_ends_a_complete_response_that_never_comes(tmp_path: Path) -> None:
    """The client's timeout no longer ends it."""
    async with scene_of(tmp_path, OPENAI, with_heartbeats(total_timeout=0.4)) as scene:
        with scene.sim.hold():
            response = await scene.fetch(headers={STAINLESS: "60"})
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        ending = await last_outcome(scene)

    assert (response.status, response.complete, response.body.strip()) == (200, False, b"")
    assert ending == ("upstream_timeout", 200, True)


async def test_queue_timeout_ends_a_request_that_is_never_dispatched(tmp_path: Path) -> None:
    """``queue_timeout``, not the client's declared timeout."""
    settings = {**with_heartbeats(queue_timeout=1.3), "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, scene.occupied():
        response = await scene.fetch(stream=True, headers={STAINLESS: "1"})
        ending = await last_outcome(scene)

    assert OPENAI.late_failure(response.body).code == "queue_timeout"
    assert "within 1.3 s" in OPENAI.late_failure(response.body).message
    assert ending == ("queue_timeout", 200, True)


async def test_total_timeout_ends_a_stream_of_comments(tmp_path: Path) -> None:
    """They are bytes, so the stream is not idle, but they are no response."""
    settings = with_heartbeats(stream_total_timeout=0.6, idle_timeout=0.5)
    async with Simulator() as sim, running(sim.url, tmp_path, settings=settings) as gateway:
        scene = Scene(sim, gateway, OPENAI)
        response = await scene.provoked(Fault.comments_only(), stream=True)
        (line,) = await gateway.finished()
        sim.release()
        await left_empty(gateway)

    assert response.body.startswith(b": nothing to say\n\n")
    assert (OPENAI.late_failure(response.body).code, response.complete) == (
        "upstream_timeout",
        False,
    )
    assert (line["outcome"], line["status"]) == ("upstream_timeout", 200)


async def test_timeouts_of_the_gateway_end_a_response_to_a_very_slow_client(tmp_path: Path) -> None:
    """Reading a byte now and then is no progress."""
    settings = {**with_heartbeats(write_timeout=0.4), "limits": {"read_ahead_bytes": 64 * 1024}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        scene.sim.fault(Fault.huge(64 * MIB))
        async with raw_client(scene.gateway.port, limit=1 << 16) as slow:
            body = OPENAI.body(stream=True)
            slow.send(request(OPENAI.path, body, headers=scene.gateway.bearer))
            async with asyncio.timeout(5):
                while not scene.gateway.log("request.finished"):
                    await slow.reader.read(1)
                    await asyncio.sleep(0.02)  # how fast it reads
        (line,) = await scene.gateway.finished()

    assert (line["outcome"], line["status"]) == ("client_write_timeout", 499)
    assert scene.sim.stats.generations_abandoned == 1


async def test_timeouts_of_the_gateway_end_heartbeats_to_a_very_slow_client(tmp_path: Path) -> None:
    """The client takes all that there is, and so little that no write timeout is reached."""
    async with scene_of(
        tmp_path, OPENAI, with_heartbeats(total_timeout=0.5, write_timeout=30)
    ) as scene:
        with scene.sim.hold():
            async with open_request(scene) as slow:
                got = b""
                async with asyncio.timeout(5):
                    while byte := await slow.reader.read(1):
                        got += byte
        ending = await last_outcome(scene)

    assert got.count(b"1\r\n \r\n") >= 2
    assert not got.endswith(b"0\r\n\r\n")
    assert ending == ("upstream_timeout", 200, True)


# What is recorded of them.


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
async def test_heartbeats_do_not_change_the_record(tmp_path: Path, stream: bool) -> None:
    """Bytes, tokens and the time to first token are Ollama's."""
    async with scene_of(tmp_path, OPENAI, {"tunnel": QUICK}) as scene:
        with scene.sim.hold() as hold:
            async with open_request(scene, stream=stream) as client:
                await client.head()
                await assert_heartbeats(client, OPENAI, 3, stream=stream)
                hold.end()
                rest, _ = await client.rest()
        (line,) = await scene.gateway.finished()

    body = rest.lstrip()
    if stream:
        # On a busy machine another heartbeat may come between two events.
        body = rest[rest.index(b"data:") :].replace(b":\n\n", b"")
    assert line["bytes_out"] == len(body)
    assert (line["tokens_out"], line["outcome"]) == (8, "ok")
    assert line["heartbeats"] >= 3
    if stream:
        assert line["time_to_first_token"] >= 3 * QUICK["heartbeat_interval"]
    else:
        assert "time_to_first_token" not in line


# The drain.


async def test_drain_ends_requests_that_heartbeats_keep_alive(tmp_path: Path) -> None:
    """A running request may go on until the drain timeout, a queued one fails at once."""
    settings = {**with_heartbeats(drain_timeout=0.3), "scheduler": {"max_active": 1}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        scene.occupied() as (served, _),
        open_request(scene) as complete,
        open_request(scene, stream=True) as stream,
    ):
        await all_get_heartbeats(scene)
        await scene.gateway.finished()
        await drain(scene.gateway.gateway)
        response = [await client.response() for client in (served, complete, stream)]
        lines = (await scene.gateway.finished(4))[1:]

    assert [(client.status, client.complete) for client in response] == [(200, False)] * 3
    assert [response[0].body.strip(), response[1].body.strip()] == [b"", b""]
    assert OPENAI.late_failure(response[2].body).code == "draining"
    assert sorted(line["outcome"] for line in lines) == ["draining", "draining", "shutdown"]
    assert {line["status"] for line in lines} == {200}
