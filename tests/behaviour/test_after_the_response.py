"""Work after a response delays no client and is no failure."""

from pathlib import Path

import pytest

from gateway.server import drain
from gateway.simulator import Fault

from .clients import user
from .failing import scene_of
from .speech import OPENAI

LONGISH = [user("word " * 400)]
"""No reason to ask before it is sent, but more tokens than are plausible."""


@pytest.mark.parametrize("how", ["leaves", "drain"])
async def test_response_ends_before_the_work_after_it(tmp_path: Path, how: str) -> None:
    """It does not wait for what Ollama is asked then, and leaving then is no failure."""
    async with scene_of(tmp_path, OPENAI, {"timeouts": {"drain_timeout": 0.1}}) as scene:
        scene.sim.fault(Fault.slow_headers(), path="/api/ps")
        body = OPENAI.body(stream=True, messages=LONGISH, stream_options={"include_usage": True})
        async with scene.waiting(body) as client:
            await client.head()
            stream, whole = await client.rest()
            await scene.sim.wait_for(lambda: scene.sim.requests[-1].path == "/api/ps")
            before = scene.gateway.log("request.finished")
            if how == "drain":
                await drain(scene.gateway.gateway)
        (line,) = await scene.gateway.finished()

    assert whole
    assert stream.endswith(b"data: [DONE]\n\n")
    assert before == []
    assert (line["status"], line["outcome"], line["phase"]) == (200, "ok", "done")
