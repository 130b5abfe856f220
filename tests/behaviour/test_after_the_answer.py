"""What is still to be found out when an answer has ended keeps nobody, and is nobody's failure."""

from pathlib import Path

import pytest

from gateway.server import drain
from gateway.simulator import Fault

from .clients import user
from .failing import scene_of
from .speech import OPENAI

LONGISH = [user("word " * 400)]
"""No reason to ask before it is sent, but more tokens than any answer is believed about."""


@pytest.mark.parametrize("how", ["leaves", "drain"])
async def test_who_has_all_of_his_answer_may_go(tmp_path: Path, how: str) -> None:
    """Its end does not wait for what Ollama is asked then, and no failure is made of it."""
    async with scene_of(tmp_path, OPENAI, {"timeouts": {"drain_timeout": 0.1}}) as scene:
        scene.sim.fault(Fault.slow_headers(), path="/api/ps")
        body = OPENAI.body(stream=True, messages=LONGISH, stream_options={"include_usage": True})
        async with scene.waiting(body) as one:
            await one.head()
            stream, whole = await one.rest()
            await scene.sim.wait_for(lambda: scene.sim.requests[-1].path == "/api/ps")
            before = scene.gateway.log("request.finished")
            if how == "drain":
                await drain(scene.gateway.gateway)
        (line,) = await scene.gateway.finished()

    assert whole
    assert stream.endswith(b"data: [DONE]\n\n")
    assert before == []
    assert (line["status"], line["outcome"], line["phase"]) == (200, "ok", "done")
