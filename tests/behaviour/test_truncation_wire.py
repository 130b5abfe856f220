"""A broken response on the wire: where an error event may stand, and that the end is missing."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvloop

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import running

from .clients import MODEL, clients_of, user
from .dialect_cases import CHAT, NATIVE_CHAT
from .scripted import Ending, Script, ScriptedOllama, open_post

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}\n\n'
STREAM = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize(
    "aborted_at", [1, 30, -1], ids=["at-its-start", "inside", "before-its-end"]
)
@pytest.mark.parametrize("ending", ["proper", "cut"])
async def test_break_inside_an_event_gets_no_error_event(
    tmp_path: Path, aborted_at: int, ending: Ending
) -> None:
    """It would become part of the broken event."""
    script = Script("HTTP/1.1 200 OK", STREAM, [EVENT, EVENT[:aborted_at]], ending, at_once=True)
    fake = ScriptedOllama([MODEL], script)
    said: list[str] = []
    async with fake.listening(), running(fake.url, tmp_path) as gateway:
        async with open_post(gateway.port, CHAT.path, CHAT.body, gateway.key) as answer:
            await answer.head()
            chunks, end = await answer.chunks()
        async with clients_of(gateway) as clients:
            with pytest.raises(openai.APIConnectionError):
                await CHAT.stream(clients, said)
        lines = await gateway.finished(2)
        await left_empty(gateway)

    assert b"".join(chunks) == EVENT + EVENT[:aborted_at]
    assert end is None
    assert said == ["one"]
    assert [line["outcome"] for line in lines] == ["upstream_incomplete"] * 2


async def test_stream_with_its_final_event_is_complete(tmp_path: Path) -> None:
    """Whatever happens to Ollama's connection after it."""
    script = Script("HTTP/1.1 200 OK", STREAM, [EVENT, b"data: [DONE]\n\n"], "cut", at_once=True)
    fake = ScriptedOllama([MODEL], script)
    said: list[str] = []
    async with fake.listening(), running(fake.url, tmp_path) as gateway:
        async with clients_of(gateway) as clients:
            await CHAT.stream(clients, said)
        (line,) = await gateway.finished()
        await left_empty(gateway)

    assert said == ["one"]
    assert line["outcome"] == "ok"


async def test_final_event_inside_a_text_is_no_end(tmp_path: Path) -> None:
    """A model can say ``[DONE]``."""
    said = EVENT.replace(b"one", b'data: [DONE]\\n\\n \\"done\\":true} message_stop')
    script = Script("HTTP/1.1 200 OK", STREAM, [said], "proper", at_once=True)
    fake = ScriptedOllama([MODEL], script)
    async with fake.listening(), running(fake.url, tmp_path) as gateway:
        async with clients_of(gateway) as clients:
            with pytest.raises(openai.APIError, match="before it was complete"):
                await CHAT.stream(clients, [])
        await left_empty(gateway)


# HTTP/1.0, where closing is how an answer ends: there a cut must be a reset.


async def over_http10(folder: Path, fault: Fault | None) -> tuple[bytes, bool, dict[str, Any]]:
    """What a caller got, whether it ended with a reset, and the log's line."""
    async with Simulator(time_scale=0) as sim, running(sim.url, folder) as gateway:
        if fault is not None:
            sim.fault(fault)
        body = {**CHAT.body, "stream": True}
        got = bytearray()
        reset = False
        async with open_post(gateway.port, CHAT.path, body, gateway.key, version="1.0") as answer:
            await answer.head()
            try:
                while data := await answer.reader.read(65536):
                    got += data
            except ConnectionResetError:
                reset = True
        (line,) = await gateway.finished()
        await left_empty(gateway)
    assert answer.header("transfer-encoding") is None
    return bytes(got), reset, line


LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@LOOPS
@pytest.mark.parametrize("fault", [Fault.die(2), Fault.abort(2)], ids=["polite", "cut"])
def test_http10_client_sees_a_reset(tmp_path: Path, loop: Any, fault: Fault) -> None:
    """Not a clean end of file."""
    with asyncio.Runner(loop_factory=loop) as runner:
        _, reset, line = runner.run(over_http10(tmp_path, fault))

    assert reset
    assert line["outcome"] == "upstream_incomplete"


@LOOPS
def test_http10_client_sees_a_clean_end(tmp_path: Path, loop: Any) -> None:
    """Without chunks, ended by closing, as Ollama does."""
    with asyncio.Runner(loop_factory=loop) as runner:
        got, reset, line = runner.run(over_http10(tmp_path, None))

    assert got.endswith(b"data: [DONE]\n\n")
    assert not reset
    assert line["outcome"] == "ok"


@LOOPS
def test_both_event_loops_abort_alike(tmp_path: Path, loop: Any) -> None:
    """What was written is delivered, then the connection closes."""

    async def scene() -> tuple[list[bytes], bytes | None]:
        async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
            sim.fault(Fault.repeat(after_tokens=300))
            words = "SAY: " + " ".join(f"word{number}" for number in range(400))
            body = {**CHAT.body, "stream": True, "messages": [user(words)]}
            async with open_post(gateway.port, CHAT.path, body, gateway.key) as answer:
                await answer.head()
                passed = await answer.chunks()
            await left_empty(gateway)
            return passed

    with asyncio.Runner(loop_factory=loop) as runner:
        chunks, end = runner.run(scene())

    passed = b"".join(chunks)
    assert end is None
    assert passed.count(b'"content":') == passed.count(b"word") == 300
    assert b"upstream_incomplete" in passed[-400:]


async def test_long_response_that_breaks_is_shorter_than_declared(tmp_path: Path) -> None:
    """Beyond the read-ahead only that can tell, and clients raise."""
    length = 3_000_000
    script = Script(
        "HTTP/1.1 200 OK",
        [("Content-Type", "application/json"), ("Content-Length", str(length))],
        [b'{"choices":[' + b" " * 2_000_000],
        "cut",
        at_once=True,
    )
    fake = ScriptedOllama([MODEL], script)
    async with fake.listening(), running(fake.url, tmp_path) as gateway:
        async with clients_of(gateway) as clients:
            with pytest.raises(openai.APIConnectionError):
                await CHAT.complete(clients)
            with pytest.raises(httpx.RemoteProtocolError):
                await NATIVE_CHAT.complete(clients)
        lines = await gateway.finished(2)
        await left_empty(gateway)

    assert [(line["outcome"], line["status"]) for line in lines] == [
        ("upstream_incomplete", 200),
        ("upstream_incomplete", 200),
    ]
