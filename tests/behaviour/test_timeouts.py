"""Every timeout of a request at Ollama and in the queue: each ends it and frees what it used."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.simulator import USUAL_MODELS, Fault, Simulator
from gateway.timeouts import Deadlines
from tests.behaviour.dialect_specs import ALL, MODEL, OPENAI, DialectSpec
from tests.behaviour.failing import Scene, scene_of
from tests.conftest import left_empty
from tests.harness import running

SHORT = 0.1
"""Seconds of the clock that is meant to ring."""

RESPECT = {"tunnel": {"client_timeout": "respect"}}

RESPONSE_TOKENS = 8
"""Tokens of an answer of the simulator's."""

every_spec = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)


def timeouts(**settings: float) -> dict[str, Any]:
    return {"timeouts": settings}


# The queue.


async def test_queue_timeout_ends_the_wait(tmp_path: Path) -> None:
    """Whatever the request does that has the slot."""
    async with (
        scene_of(tmp_path, OPENAI, timeouts(queue_timeout=SHORT)) as scene,
        scene.occupied() as (first, hold),
    ):
        result = await scene.fetch()

        assert (result.status, result.json()["error"]["code"]) == (503, "queue_timeout")
        assert "1/2 active, 0/64 queued" in repr(scene.gateway.gateway.host.scheduler)
        hold.end()
        assert (await first.response()).status == 200


async def test_queue_timeout_stops_with_the_slot(tmp_path: Path) -> None:
    """However long the response takes then."""
    async with (
        scene_of(tmp_path, OPENAI, timeouts(queue_timeout=SHORT)) as scene,
        scene.occupied() as (first, hold),
        scene.waiting() as second,
    ):
        await scene.queued(1)
        hold.release(RESPONSE_TOKENS)
        await first.response()
        await scene.sim.wait_for(lambda: hold.waiting == 1)
        # Its own clock began after that of the one who was granted.
        refused = await scene.fetch()
        hold.end()
        result = await second.response()

    assert (refused.status, result.status) == (503, 200)


async def test_queue_wait_ends_with_the_client_timeout(tmp_path: Path) -> None:
    """If no heartbeat extends the deadline."""
    settings = {**timeouts(queue_timeout=300), "tunnel": {"profile": "none"}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, scene.occupied():
        result = await scene.fetch(headers={"x-stainless-read-timeout": "1"})

    assert (result.status, result.json()["error"]["code"]) == (503, "queue_timeout")
    assert "within 1 s" in result.json()["error"]["message"]


# Connecting.


async def test_connect_timeout_ends_in_502(tmp_path: Path) -> None:
    """Long before any timeout of a response."""
    async with scene_of(tmp_path, OPENAI, timeouts(connect_timeout=SHORT)) as scene:
        await scene.fetch()
        await scene.sim.stop()
        with deaf(scene.sim.port):
            result = await scene.fetch()

    assert (result.status, result.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert "no response within 0.1 s" in result.json()["error"]["message"]


@contextmanager
def deaf(port: int) -> Iterator[None]:
    """A listener accepts no connection: its backlog is full."""
    waiting = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        try:
            while True:
                one = socket.socket()
                waiting.append(one)
                one.settimeout(SHORT)
                try:
                    one.connect(("127.0.0.1", port))
                except TimeoutError:
                    break
            yield
        finally:
            for one in waiting:
                one.close()


# Before the first byte.


@every_spec
async def test_first_byte_timeout_ends_a_stream_that_does_not_begin(
    spec: DialectSpec, tmp_path: Path
) -> None:
    """504, no retry, and Ollama stops working."""
    async with scene_of(tmp_path, spec, timeouts(first_byte_timeout=SHORT)) as scene:
        with scene.sim.hold():
            result = await scene.fetch(stream=True)
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        line = (await scene.gateway.finished())[0]

    assert (result.status, result.headers["x-should-retry"]) == (504, "false")
    assert (line["outcome"], line["phase"]) == ("upstream_first_byte_timeout", "first_byte")
    assert scene.sim.stats.generations_abandoned == 1


async def test_first_byte_timeout_is_for_streams_only(tmp_path: Path) -> None:
    """A complete response has no first byte before its last."""
    settings = {**timeouts(first_byte_timeout=SHORT), **_two_at_once()}
    async with _in_parallel(tmp_path, settings) as scene:
        with scene.sim.hold() as hold:
            async with scene.waiting() as complete:
                await scene.sim.wait_for(lambda: hold.waiting == 1)
                late = await scene.fetch(stream=True)
                hold.end()
                result = await complete.response()

    assert (late.status, result.status) == (504, 200)


@every_spec
async def test_total_timeout_ends_a_response_that_never_ends(
    spec: DialectSpec, tmp_path: Path
) -> None:
    """504, no retry, and Ollama stops working."""
    async with scene_of(tmp_path, spec, timeouts(total_timeout=SHORT)) as scene:
        with scene.sim.hold():
            result = await scene.fetch()
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        line = (await scene.gateway.finished())[0]

    assert (result.status, result.headers["x-should-retry"]) == (504, "false")
    assert line["outcome"] == "upstream_timeout"
    assert scene.sim.stats.generations_abandoned == 1


# After the first byte.


@every_spec
async def test_idle_timeout_aborts_a_silent_stream(spec: DialectSpec, tmp_path: Path) -> None:
    """An error event, an abort, and Ollama stops working."""
    async with scene_of(tmp_path, spec, timeouts(idle_timeout=SHORT)) as scene:
        result = await scene.provoked(Fault.stall(after_tokens=2), stream=True)
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        line = (await scene.gateway.finished())[0]

    assert "nothing for 0.1 s" in spec.late_failure(result.body).message
    assert (result.status, result.complete) == (200, False)
    assert (line["outcome"], line["phase"]) == ("upstream_idle_timeout", "relay")
    assert scene.sim.stats.generations_abandoned == 1


async def test_first_byte_timeout_is_the_default_idle_timeout(
    tmp_path: Path,
) -> None:
    """Ollama is as silent while it builds a tool call as before its first token."""
    async with scene_of(tmp_path, OPENAI, timeouts(first_byte_timeout=SHORT)) as scene:
        result = await scene.provoked(Fault.stall(after_tokens=2), stream=True)

    assert OPENAI.late_failure(result.body).code == "upstream_idle_timeout"


async def test_each_byte_restarts_the_idle_timeout(tmp_path: Path) -> None:
    """A stream that sends bytes is not idle."""
    models = [model.at_speed(load_time=0.0, tokens_per_second=20.0) for model in USUAL_MODELS]
    async with (
        Simulator(models, output_tokens=16) as sim,
        running(sim.url, tmp_path, timeouts={"idle_timeout": 0.5}) as gateway,
    ):
        result = await Scene(sim, gateway, OPENAI).fetch(stream=True)
        line = (await gateway.finished())[0]
        await left_empty(gateway)

    assert result.complete
    assert line["duration"] > 0.5


@every_spec
async def test_stream_total_timeout_aborts_an_endless_stream(
    spec: DialectSpec, tmp_path: Path
) -> None:
    """Even if its bytes never pause."""
    settings = timeouts(stream_total_timeout=0.2, first_byte_timeout=0.2)
    async with scene_of(tmp_path, spec, settings) as scene:
        with scene.sim.hold() as hold:
            hold.release(2)
            result = await scene.fetch(stream=True)
        line = (await scene.gateway.finished())[0]

    assert "did not complete the response within 0.2 s" in spec.late_failure(result.body).message
    assert (result.status, result.complete) == (200, False)
    assert line["outcome"] == "upstream_timeout"


@pytest.mark.parametrize(("sent", "status", "complete"), [(100, 504, True), (8192, 200, False)])
async def test_total_timeout_of_a_complete_response_that_stops_midway(
    sent: int, status: int, complete: bool, tmp_path: Path
) -> None:
    """504 as long as nothing was relayed; an abort after that."""
    settings = {**timeouts(total_timeout=SHORT), "limits": {"read_ahead_bytes": 4096}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        await scene.gateway.gateway.host.catalog.get()
        await scene.sim.stop()
        async with _stopping_after(sent, scene.sim.port):
            result = await scene.fetch()
        line = (await scene.gateway.finished())[0]

    assert (result.status, result.complete) == (status, complete)
    assert (line["status"], line["outcome"]) == (status, "upstream_timeout")
    assert b"error" not in result.body or status == 504


@asynccontextmanager
async def _stopping_after(size: int, port: int) -> AsyncIterator[None]:
    """An Ollama that announces more than the ``size`` bytes it sends, and then says nothing."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 100000\r\n\r\n" + b" " * size)
        await over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        yield
        over.set()


# Whose word counts.


@pytest.mark.parametrize("stream", [False, True])
async def test_timeouts_of_a_model_rule_are_final(stream: bool, tmp_path: Path) -> None:
    """Neither the table nor a client raises them."""
    rule = {"match": "llama3.2:*", "total_timeout": 0.2, "first_byte_timeout": SHORT}
    settings = {**timeouts(total_timeout=60, first_byte_timeout=60), "models": [rule]}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        with scene.sim.hold():
            result = await scene.fetch(stream=stream, headers={"x-stainless-read-timeout": "600"})

    seconds = SHORT if stream else 0.2
    assert result.status == 504
    assert f"within {seconds:g} s" in result.json()["error"]["message"]


async def test_model_rule_does_not_change_other_models(tmp_path: Path) -> None:
    """Their requests go on."""
    rule = {"match": "llama3.2:*", "total_timeout": SHORT}
    async with _in_parallel(tmp_path, {"models": [rule], **_two_at_once()}) as scene:
        with scene.sim.hold() as hold:
            async with scene.waiting(OPENAI.body("qwen2.5-coder:7b")) as other:
                await scene.sim.wait_for(lambda: hold.waiting == 1)
                late = await scene.fetch()
                hold.end()
                result = await other.response()

    assert (late.status, result.status) == (504, 200)


async def test_client_timeout_raises_the_total_up_to_the_ceiling(tmp_path: Path) -> None:
    """A 1.2B model has 60 s by its size."""
    seen_request = []
    async with scene_of(tmp_path, OPENAI, RESPECT) as scene:
        seen_request = _timeouts_of(scene)
        for client_timeout in ("10", "300", "86400", "inf"):
            await scene.fetch(headers={"x-stainless-read-timeout": client_timeout})

    assert [one.total for one in seen_request] == [60, 300, 1800, 60]


async def test_extended_deadline_is_the_ceiling(tmp_path: Path) -> None:
    """Unless the client limits the full response."""
    async with scene_of(tmp_path, OPENAI) as scene:
        seen_request = _timeouts_of(scene)
        for header in ("x-stainless-read-timeout", "x-request-timeout"):
            await scene.fetch(headers={header: "300"})

    assert [one.total for one in seen_request] == [1800, 300]


async def test_timeout_of_the_openai_client_is_the_client_timeout(tmp_path: Path) -> None:
    """Streaming or not."""
    async with scene_of(tmp_path, OPENAI, RESPECT) as scene:
        seen_request = _timeouts_of(scene)
        async with openai.AsyncOpenAI(
            base_url=f"{scene.gateway.url}/v1", api_key=scene.gateway.key, timeout=444
        ) as client:
            words = [{"role": "user", "content": "hello"}]
            chat: Any = client.chat.completions
            await chat.create(model=MODEL, messages=words)
            async for _ in await chat.create(model=MODEL, messages=words, stream=True):
                pass

    complete, stream = seen_request
    assert complete.total == 444
    assert (stream.first_byte, stream.total) == (444, 1800)


def _timeouts_of(scene: Scene) -> list[Deadlines]:
    """The clocks with which Ollama is asked from now on."""
    pipeline: Any = scene.gateway.gateway.handler._inference._pipeline
    seen_request: list[Deadlines] = []

    class Noting:
        def open(self, outgoing: Any, timeouts: Deadlines) -> Any:
            seen_request.append(timeouts)
            return scene.gateway.gateway.host.upstream.open(outgoing, timeouts)

    pipeline._upstream = Noting()
    return seen_request


def _two_at_once() -> dict[str, Any]:
    return {"scheduler": {"max_active": 2, "max_active_per_model": 2, "max_loaded_models": 2}}


@asynccontextmanager
async def _in_parallel(folder: Path, settings: dict[str, Any]) -> AsyncIterator[Scene]:
    async with (
        Simulator(time_scale=0, num_parallel=2) as sim,
        running(sim.url, folder, settings=settings) as gateway,
    ):
        yield Scene(sim, gateway, OPENAI)
        await left_empty(gateway)
