"""Silence and leaving in the middle of an answer that heartbeats keep alive."""

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
"""After so many pieces the stream stands between two events."""

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
async def test_ollama_falls_silent_anywhere(tmp_path: Path, speech: Speech) -> None:
    """Between two pieces of an event nothing is sent; between two events there are heartbeats."""
    pieces = PIECES[speech.name]
    async with scripted(tmp_path, speech) as (ollama, gateway):
        scene: Any = Scene(None, gateway, speech)  # type: ignore[arg-type]  # no simulator here
        async with calling(scene, stream=True) as one:
            await one.head()
            await beats(one, speech, 1, stream=True)
            chunks: list[bytes] = []
            for count, piece in enumerate(pieces, start=1):
                ollama.proceed()
                while not chunks or chunks[-1] != piece:
                    chunks.append(await one.chunk())
                if count in BETWEEN[speech.name]:
                    await beats(one, speech, 2, stream=True)
                else:
                    await all_are_held(scene, 2)
            ollama.proceed()
            rest, whole = await one.rest()

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


# Leaving.


@pytest.mark.parametrize(
    "leave", [hangs_up, is_killed, half_closes], ids=lambda leave: leave.__name__
)
async def test_he_leaves_the_queue_after_heartbeats(tmp_path: Path, leave: Any) -> None:
    """His place goes to the next, and Ollama never hears of him."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene, scene.occupied() as (first, hold):
        async with calling(scene, stream=True) as one:
            await one.head()
            await beats(one, OPENAI, stream=True)
            leave(one)
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
async def test_he_leaves_ollama_after_heartbeats(
    tmp_path: Path, speech: Speech, stream: bool
) -> None:
    """It stops at once, and the next caller is served."""
    async with scene_of(tmp_path, speech, HELD) as scene:
        with scene.sim.hold() as hold:
            async with calling(scene, stream=stream) as one:
                await one.head()
                await beats(one, speech, stream=stream)
                await scene.sim.wait_for(lambda: hold.waiting == 1)
                hangs_up(one)
                await is_abandoned(scene)
                await is_logged(scene, "first_byte")
        next_one = await scene.ask()

    assert next_one.status == 200


async def test_what_he_left_is_remembered_by_nobody(tmp_path: Path) -> None:
    """He is no failed call: whoever comes again, and says so, is served."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene:
        with scene.sim.hold():
            async with calling(scene) as one:
                await one.head()
                await beats(one, OPENAI, stream=False)
                is_killed(one)
                await is_abandoned(scene)
        await until(lambda: scene.gateway.gateway.scheduler.idle)
        again = await scene.ask(headers={"x-stainless-retry-count": "1"})

    assert again.status == 200
    assert scene.sim.stats.generations_finished == 1
