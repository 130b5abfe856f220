"""HTTP as it arrives in reality: in pieces, in old versions, and wrong."""

import asyncio
import json

import pytest

from gateway.simulator import Simulator
from tests.simulator.calls import CHAT, chat, raw_request
from tests.simulator.replay import read_reply, send


async def exchange(raw: bytes, *, pieces: int = 1) -> bytes:
    """Send bytes, end writing, and return everything received until the server closes."""
    async with Simulator() as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        step = -(-len(raw) // pieces)
        for start in range(0, len(raw), step):
            writer.write(raw[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
    return got


async def test_http_1_0_gets_streams_without_chunks() -> None:
    """The connection closes at their end."""
    got = await exchange(raw_request(CHAT, chat(stream=True), minor=0))

    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"Transfer-Encoding" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_connection_close_is_obeyed() -> None:
    got = await exchange(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    assert b"\r\nConnection: close\r\n" in got
    assert got.endswith(b"Ollama is running")


async def test_a_request_may_arrive_byte_by_byte() -> None:
    body = json.dumps(chat("SAY: yes")).encode()
    chunks = b"".join(b"%x;x=y\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    raw = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"

    got = await exchange(raw, pieces=50)

    assert b'"content":"yes"' in got


async def test_connections_are_reused() -> None:
    """Pipelined requests get their responses in order."""
    async with Simulator() as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(raw_request(CHAT, chat("SAY: one")) + raw_request("/api/version"))
        first, second = await read_reply(reader, "POST"), await read_reply(reader, "GET")
        writer.close()
        await writer.wait_closed()

    assert '"content":"one"' in (first.body or "")
    assert second.body == '{"version":"0.33.0"}'
    assert sim.stats.connections == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_invalid_http_gets_400(raw: bytes) -> None:
    """As plain text; the connection closes."""
    got = await exchange(raw)

    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain")


async def test_a_rejected_request_gets_no_100_continue() -> None:
    """It is rejected before its body is sent."""
    got = await exchange(
        b"POST /nope HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        b"Content-Length: 5\r\n\r\n"
    )

    assert got.startswith(b"HTTP/1.1 404 Not Found")


async def test_long_responses_have_no_content_length() -> None:
    """Above 2048 bytes a response is one chunk, as in Go's server."""
    body = {"model": "nomic-embed-text", "input": "x"}
    async with Simulator() as sim:
        reply = await send(sim.port, raw_request("/v1/embeddings", body), "POST")

    assert reply.body is None
    assert len(reply.chunks or []) == 1


async def test_a_bug_of_the_simulator_is_raised_at_its_end() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        async with Simulator() as sim:
            sim.failures.append(RuntimeError("a bug"))


async def test_the_host_header_matters_on_loopback_only() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: gateway.example.com\r\n\r\n"
    async with Simulator() as loopback, Simulator(host="0.0.0.0") as everywhere:
        refused = await send(loopback.port, raw)
        accepted = await send(everywhere.port, raw)

    assert refused.status_line == "HTTP/1.1 403 Forbidden"
    assert accepted.status_line == "HTTP/1.1 200 OK"
