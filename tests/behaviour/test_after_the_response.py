"""Work after the end of a response delays no request and fails none."""

import time
from pathlib import Path

import pytest

from gateway.server import drain
from gateway.simulator import Fault

from .clients import user
from .dialect_specs import OPENAI
from .failing import Scene, scene_of
from .wire import request

LONGISH = [user("word " * 400)]
"""No reason to ask Ollama before it is sent, but the context window decides about its tokens."""

STALL = 1.5
"""Seconds for which ``/api/ps`` does not respond."""


STREAM = OPENAI.body(stream=True, messages=LONGISH, stream_options={"include_usage": True})


async def is_asked_for_the_window(scene: Scene) -> None:
    await scene.sim.wait_for(lambda: scene.sim.requests[-1].path == "/api/ps")


async def test_the_next_request_on_the_connection_is_not_delayed(tmp_path: Path) -> None:
    """With ``/api/ps`` stalled; the log has the duration of the response alone."""
    async with scene_of(tmp_path, OPENAI) as scene:
        scene.sim.fault(Fault.slow_headers(STALL), path="/api/ps")
        bearer = {"Authorization": f"Bearer {scene.gateway.key}"}
        async with scene.waiting(STREAM) as client:
            first = await client.response()
            await is_asked_for_the_window(scene)
            began = time.monotonic()
            client.send(request(OPENAI.path, STREAM, headers=bearer))
            second = await client.response()
        took = time.monotonic() - began
        lines = await scene.gateway.finished(2)

    assert (first.complete, second.complete) == (True, True)
    assert took < STALL / 3
    assert max(line["duration"] for line in lines) < STALL / 3
    assert [line["outcome"] for line in lines] == ["ok"] * 2


@pytest.mark.parametrize("how", ["leaves", "drain"])
async def test_a_client_may_leave_after_its_response(tmp_path: Path, how: str) -> None:
    """The end of its request does not wait for Ollama, and it is no failure."""
    async with scene_of(tmp_path, OPENAI, {"timeouts": {"drain_timeout": 0.1}}) as scene:
        scene.sim.fault(Fault.slow_headers(STALL), path="/api/ps")
        async with scene.waiting(STREAM) as client:
            response = await client.response()
            await is_asked_for_the_window(scene)
            if how == "drain":
                await drain(scene.gateway.gateway)
        (line,) = await scene.gateway.finished()

    assert response.complete
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert (line["status"], line["outcome"], line["phase"]) == (200, "ok", "done")
