"""A prompt that is certainly too long is reported also where heartbeats send the head."""

from pathlib import Path

import httpx
import pytest

from gateway.simulator import Simulator
from tests.harness import Running, running

from .clients import MODEL, user

SOON = {"commit_after": 0.3, "heartbeat_interval": 0.3}
HEADER = "x-gateway-prompt-truncated"
LONG = "many words of it, " * 9000


async def _extended(gateway: Running, sim: Simulator, text: str, *, stream: bool) -> httpx.Response:
    """A call that Ollama leaves without a word until its head has come."""
    body = {"model": MODEL, "messages": [user(text)], "stream": stream}
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"{gateway.url}/v1/chat/completions"
        with sim.hold() as hold:
            async with client.stream("POST", url, json=body, headers=gateway.bearer) as answer:
                hold.end()
                await answer.aread()
        return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_truncation_header_is_sent_with_the_first_heartbeat(
    sim: Simulator, tmp_path: Path, stream: bool
) -> None:
    """Not for a prompt that fits."""
    async with running(sim.url, tmp_path, tunnel=SOON) as gateway:
        await _extended(gateway, sim, "hello", stream=False)
        short = await _extended(gateway, sim, "hello", stream=stream)
        long = await _extended(gateway, sim, LONG, stream=stream)
        lines = await gateway.finished(3)

    assert HEADER not in short.headers
    assert long.headers.get_list(HEADER) == ["true"]
    assert lines[2]["heartbeats"] >= 1
    assert [line.get("prompt_truncated") for line in lines] == [None, None, True]
