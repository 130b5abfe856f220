"""What heartbeats leave of a connection: the next request on it finds it clean."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Fault

from .clients import asked
from .failing import scene_of
from .held import QUICK, all_are_held, beats, calling
from .scripted import asking
from .speech import OPENAI
from .wire import caller, request

BOTH_LOOPS = True
HELD: dict[str, Any] = {"tunnel": QUICK}

streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def is_answer(body: bytes, *, stream: bool) -> bool:
    """One whole answer of OpenAI's, heartbeats before it or not."""
    if stream:
        return body.count(b"data: [DONE]\n\n") == 1 and body.endswith(b"data: [DONE]\n\n")
    return bool(json.loads(body)["choices"])


# The next request.


@streaming_or_not
async def test_the_next_request_on_the_connection(tmp_path: Path, stream: bool) -> None:
    """After a slow answer a fast one, with its own head; after a fast one a slow one."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene, caller(scene.gateway.port) as one:
        slow = request(OPENAI.path, OPENAI.body(stream=stream), headers=scene.gateway.bearer)
        told = []
        for _ in range(2):
            scene.sim.fault(Fault.slow_headers())
            one.send(slow)
            status, headers = await one.head()
            assert "connection" not in headers
            await beats(one, OPENAI, stream=stream)
            scene.sim.release()
            rest, whole = await one.rest()
            told.append((status, whole, is_answer(rest, stream=stream)))
            one.send(request("/v1/models/nope", headers=scene.gateway.bearer))
            missing = await one.answer()
            told.append((missing.status, missing.whole, "content-length" in missing.headers))

    assert told == [(200, True, True), (404, True, True)] * 2


async def test_requests_that_were_sent_behind_it(tmp_path: Path) -> None:
    """They wait for the end of the slow one, and are answered in their order."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene, caller(scene.gateway.port) as one:
        scene.sim.fault(Fault.slow_headers())
        slow = request(OPENAI.path, OPENAI.body(), headers=scene.gateway.bearer)
        one.send(slow + request("/healthz") + slow)
        await one.head()
        await beats(one, OPENAI, 3, stream=False)
        only_one = asked(scene.sim)
        scene.sim.release()
        rest, whole = await one.rest()
        health, again = await one.answer(), await one.answer()

    assert only_one == [OPENAI.path]
    assert whole
    assert is_answer(rest, stream=False)
    assert (health.status, health.body) == (200, b"ok\n")
    assert is_answer(again.body, stream=False)


async def test_one_who_asks_whether_his_body_is_wanted(tmp_path: Path) -> None:
    """``100 Continue`` is no answer: the heartbeats come after it, in the answer itself."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene, caller(scene.gateway.port) as one:
        scene.sim.fault(Fault.slow_headers())
        data = request(
            OPENAI.path,
            OPENAI.body(),
            headers={**scene.gateway.bearer, "Expect": "100-continue"},
        )
        head, _, body = data.partition(b"\r\n\r\n")
        one.send(head + b"\r\n\r\n")
        interim, _ = await one.head()
        one.send(body)
        status, _ = await one.head()
        await beats(one, OPENAI, stream=False)
        scene.sim.release()
        rest, whole = await one.rest()

    assert (interim, status, whole) == (100, 200, True)
    assert is_answer(rest, stream=False)


@streaming_or_not
async def test_one_who_wants_the_connection_closed(tmp_path: Path, stream: bool) -> None:
    """It is, behind an answer that ends as HTTP says."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene:
        scene.sim.fault(Fault.slow_headers())
        async with calling(scene, stream=stream, headers={"Connection": "close"}) as one:
            _, headers = await one.head()
            await beats(one, OPENAI, stream=stream)
            scene.sim.release()
            rest, whole = await one.rest()
            more = await one.hung_up()

    assert (whole, more, headers["connection"]) == (True, b"", "close")
    assert is_answer(rest, stream=stream)


@streaming_or_not
async def test_http_1_0_is_left_alone(tmp_path: Path, stream: bool) -> None:
    """It has no chunks: nothing is sent before Ollama speaks, and no byte more."""
    async with scene_of(tmp_path, OPENAI, HELD) as scene:
        scene.sim.fault(Fault.slow_headers())
        body = OPENAI.body(stream=stream)
        key = scene.gateway.key
        async with asking(scene.gateway.port, OPENAI.path, body, key, version="1.0") as old:
            await scene.sim.wait_for(lambda: asked(scene.sim) == [OPENAI.path])
            await all_are_held(scene, 3)
            silent = not old.reader._buffer  # type: ignore[attr-defined]  # what has come so far
            scene.sim.release()
            await old.head()
            said = await old.reader.read()
        lines = await scene.gateway.finished(2)

    assert silent
    assert (old.status.split()[1], old.header("transfer-encoding")) == ("200", None)
    assert said.startswith(b"data: " if stream else b"{")
    assert [line.get("heartbeats") for line in lines if line["outcome"] == "ok"] == [None]
