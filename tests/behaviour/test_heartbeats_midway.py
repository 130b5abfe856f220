"""Silence and disconnects in the middle of a response with heartbeats."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import asked
from .failing import Scene, scene_of, until
from .held import QUICK, all_are_held, beats, calling
from .leaving import half_closes, hangs_up, is_abandoned, is_killed, is_logged
from .scripted import Script, ScriptedOllama
from .speech import ALL, MODEL, NATIVE, OPENAI, Speech

HELD: dict[str, Any] = {"tunnel": QUICK}

SSE = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
PIECES = {
    "openai": [SSE[:9], SSE[9:-1], SSE[-1:], SSE + SSE[:3], SSE[3:], b"data: [DO", b"NE]\n\n"],
    "native": [b'{"done"', b":false}", b'\n{"done":false}\n{', b'"done":tr', b"ue}\n"],
}
BETWEEN = {"openai": {3, 5}, "native": set[int]()}
"""After so many pieces the stream is between two events."""

# Inside an event.


@asynccontextmanager
async def scripted(folder: Path, speech: Speech) -> AsyncIterator[tuple[ScriptedOllama, Running]]:
    kind = "application/x-ndjson" if speech is NATIVE else "text/event-stream"
    headers = [("Content-Type", kind), ("Transfer-Encoding", "chunked")]
    script = Script("HTTP/1.1 200 OK", headers, PIECES[speech.name], "proper")
    ollama = ScriptedOllama([MODEL], script)
    async with ollama.listening(), running(ollama.url, folder, tunnel=QUICK) as gateway:
        yield ollama, gateway
        await left_empty(gateway)


@pytest.mark.parametrize("speech", [OPENAI, NATIVE], ids=lambda speech: speech.name)
async def test_heartbeats_only_between_events(tmp_path: Path, speech: Speech) -> None:
    """Nothing is sent between two pieces of an event, heartbeats between two events."""
    pieces = PIECES[speech.name]
    async with scripted(tmp_path, speech) as (ollama, gateway):
        scene: Any = Scene(None, gateway, speech)  # type: ignore[arg-type]  # no simulator here
        async with calling(scene, stream=True) as client:
            await client.head()
            await beats(client, speech, 1, stream=True)
            chunks: list[bytes] = []
            for count, piece in enumerate(pieces, start=1):
                ollama.proceed()
                while not chunks or chunks[-1] != piece:
                    chunks.append(await client.chunk())
                if count in BETWEEN[speech.name]:
                    await beats(client, speech, 2, stream=True)
                else:
                    await all_are_held(scene, 2)
            ollama.proceed()
            rest, whole = await client.rest()

    # Heartbeats that came before the next piece are chunks of their own.
    mark = b" " if speech is NATIVE else b":\n\n"
    said = [chunk for chunk in chunks if chunk in pieces]
    extra = [at for at, chunk in enumerate(chunks) if chunk not in pieces]
    assert said == pieces
    assert (rest, whole) == (b"", True)
    for at in extra:
        before = sum(chunk in pieces for chunk in chunks[:at])

        assert chunks[at].startswith(mark[:1])
        assert before in {0, *BETWEEN[speech.name]}


# Disconnects.


@pytest.mark.parametrize(
    "leave", [hangs_up, is_killed, half_closes], ids=lambda leave: leave.__name__
)
async def test_client_leaves_the_queue_after_heartbeats(tmp_path: Path, leave: Any) -> None:
    """Its slot goes to the next request, and Ollama gets nothing."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene, scene.occupied() as (first, hold):
        async with calling(scene, stream=True) as client:
            await client.head()
            await beats(client, OPENAI, stream=True)
            leave(client)
            line = await is_logged(scene, "queue")
        await scene.queued(0)
        hold.end()
        await first.answer()

    assert len(asked(scene.sim)) == 1
    assert line["heartbeats"] >= 2


@pytest.mark.parametrize(
    ("speech", "stream"),
    [(OPENAI, False), *((speech, True) for speech in ALL)],
    ids=lambda value: getattr(value, "name", value),
)
async def test_client_leaves_after_heartbeats_while_ollama_works(
    tmp_path: Path, speech: Speech, stream: bool
) -> None:
    """Ollama stops at once, and the next request is served."""
    async with scene_of(tmp_path, speech, HELD) as scene:
        with scene.sim.hold() as hold:
            async with calling(scene, stream=stream) as client:
                await client.head()
                await beats(client, speech, stream=stream)
                await scene.sim.wait_for(lambda: hold.waiting == 1)
                hangs_up(client)
                await is_abandoned(scene)
                await is_logged(scene, "first_byte")
        next_one = await scene.ask()

    assert next_one.status == 200


async def test_disconnect_after_heartbeats_is_no_failure_to_replay(tmp_path: Path) -> None:
    """A retry of it is served."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene:
        with scene.sim.hold():
            async with calling(scene) as client:
                await client.head()
                await beats(client, OPENAI, stream=False)
                is_killed(client)
                await is_abandoned(scene)
        await until(lambda: scene.gateway.gateway.scheduler.idle)
        again = await scene.ask(headers={"x-stainless-retry-count": "1"})

    assert again.status == 200
    assert scene.sim.stats.generations_finished == 1
