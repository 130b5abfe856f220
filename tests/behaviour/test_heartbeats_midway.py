"""Silence and disconnects in the middle of a response with heartbeats."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import seen_request
from .dialect_specs import ALL, MODEL, NATIVE, OPENAI, DialectSpec
from .disconnects import (
    assert_disconnect_logged,
    assert_ollama_stopped,
    close_connection,
    half_close_connection,
    reset_connection,
)
from .failing import Scene, scene_of, until
from .heartbeats import QUICK, all_get_heartbeats, assert_heartbeats, open_request
from .scripted import Script, ScriptedOllama

EXTENDED: dict[str, Any] = {"tunnel": QUICK}

SSE = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
PIECES = {
    "openai": [SSE[:9], SSE[9:-1], SSE[-1:], SSE + SSE[:3], SSE[3:], b"data: [DO", b"NE]\n\n"],
    "native": [b'{"done"', b":false}", b'\n{"done":false}\n{', b'"done":tr', b"ue}\n"],
}
BETWEEN = {"openai": {3, 5}, "native": set[int]()}
"""After so many pieces the stream is between two events."""

# Inside an event.


@asynccontextmanager
async def scripted(
    folder: Path, spec: DialectSpec
) -> AsyncIterator[tuple[ScriptedOllama, Running]]:
    kind = "application/x-ndjson" if spec is NATIVE else "text/event-stream"
    headers = [("Content-Type", kind), ("Transfer-Encoding", "chunked")]
    script = Script("HTTP/1.1 200 OK", headers, PIECES[spec.name], "proper")
    ollama = ScriptedOllama([MODEL], script)
    async with ollama.listening(), running(ollama.url, folder, tunnel=QUICK) as gateway:
        yield ollama, gateway
        await left_empty(gateway)


@pytest.mark.parametrize("spec", [OPENAI, NATIVE], ids=lambda spec: spec.name)
async def test_heartbeats_only_between_events(tmp_path: Path, spec: DialectSpec) -> None:
    """Nothing is sent between two pieces of an event, heartbeats between two events."""
    pieces = PIECES[spec.name]
    async with scripted(tmp_path, spec) as (ollama, gateway):
        scene: Any = Scene(None, gateway, spec)  # type: ignore[arg-type]  # no simulator here
        async with open_request(scene, stream=True) as client:
            await client.head()
            await assert_heartbeats(client, spec, 1, stream=True)
            chunks: list[bytes] = []
            for count, piece in enumerate(pieces, start=1):
                ollama.proceed()
                while not chunks or chunks[-1] != piece:
                    chunks.append(await client.chunk())
                if count in BETWEEN[spec.name]:
                    await assert_heartbeats(client, spec, 2, stream=True)
                else:
                    await all_get_heartbeats(scene, 2)
            ollama.proceed()
            rest, complete = await client.rest()

    # Heartbeats that came before the next piece are chunks of their own.
    mark = b" " if spec is NATIVE else b":\n\n"
    said = [chunk for chunk in chunks if chunk in pieces]
    extra = [at for at, chunk in enumerate(chunks) if chunk not in pieces]
    assert said == pieces
    assert (rest, complete) == (b"", True)
    for at in extra:
        before = sum(chunk in pieces for chunk in chunks[:at])

        assert chunks[at].startswith(mark[:1])
        assert before in {0, *BETWEEN[spec.name]}


# Disconnects.


@pytest.mark.parametrize(
    "leave",
    [close_connection, reset_connection, half_close_connection],
    ids=lambda leave: leave.__name__,
)
async def test_client_leaves_the_queue_after_heartbeats(tmp_path: Path, leave: Any) -> None:
    """Its slot goes to the next request, and Ollama gets nothing."""
    async with scene_of(tmp_path, OPENAI, EXTENDED) as scene, scene.occupied() as (first, hold):
        async with open_request(scene, stream=True) as client:
            await client.head()
            await assert_heartbeats(client, OPENAI, stream=True)
            leave(client)
            line = await assert_disconnect_logged(scene, "queue")
        await scene.queued(0)
        hold.end()
        await first.response()

    assert len(seen_request(scene.sim)) == 1
    assert line["heartbeats"] >= 2


@pytest.mark.parametrize(
    ("spec", "stream"),
    [(OPENAI, False), *((spec, True) for spec in ALL)],
    ids=lambda value: getattr(value, "name", value),
)
async def test_client_leaves_after_heartbeats_while_ollama_works(
    tmp_path: Path, spec: DialectSpec, stream: bool
) -> None:
    """Ollama stops at once, and the next request is served."""
    async with scene_of(tmp_path, spec, EXTENDED) as scene:
        with scene.sim.hold() as hold:
            async with open_request(scene, stream=stream) as client:
                await client.head()
                await assert_heartbeats(client, spec, stream=stream)
                await scene.sim.wait_for(lambda: hold.waiting == 1)
                close_connection(client)
                await assert_ollama_stopped(scene)
                await assert_disconnect_logged(scene, "first_byte")
        next_one = await scene.fetch()

    assert next_one.status == 200


async def test_disconnect_after_heartbeats_is_no_failure_to_replay(tmp_path: Path) -> None:
    """A retry of it is served."""
    async with scene_of(tmp_path, OPENAI, EXTENDED) as scene:
        with scene.sim.hold():
            async with open_request(scene) as client:
                await client.head()
                await assert_heartbeats(client, OPENAI, stream=False)
                reset_connection(client)
                await assert_ollama_stopped(scene)
        await until(lambda: scene.gateway.gateway.host.scheduler.idle)
        again = await scene.fetch(headers={"x-stainless-retry-count": "1"})

    assert again.status == 200
    assert scene.sim.stats.generations_finished == 1
