"""What reaches Ollama of a request, and what leaving early does to it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from gateway.errors import UpstreamProtocolError
from gateway.upstream import Outgoing, Probes, Upstream, client

from .asking import GET, POST, ask, timeouts, upstream_at
from .scripted import Line, Scripted

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def upstream(server: Scripted) -> AsyncIterator[Upstream]:
    async with upstream_at(server.url) as upstream:
        yield upstream


# What is sent.


async def test_a_post_carries_our_headers_and_nothing_else(
    server: Scripted, upstream: Upstream
) -> None:
    """``Host`` is Ollama's own address: bound to loopback it refuses others."""
    await ask(upstream, POST)

    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{server.url.port}\r\n"
        "User-Agent: ollama-gateway/test\r\n"
        "Accept: */*\r\n"
        "X-Request-Id: req_1\r\n"
        "Content-Type: application/json\r\n"
        "Content-Length: 13\r\n\r\n"
    )

    assert server.requests == [(head, b'{"model":"m"}')]


async def test_a_get_has_no_body(server: Scripted, upstream: Upstream) -> None:
    """And says nothing about one."""
    await ask(upstream, GET)
    head, body = server.requests[0]

    assert head.startswith("GET /api/tags HTTP/1.1\r\n")
    assert "Content-" not in head
    assert body == b""


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 5_000_000])
async def test_a_body_arrives_as_it_is(server: Scripted, upstream: Upstream, size: int) -> None:
    """Small ones travel with the head, large ones behind it."""
    body = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)
    await ask(upstream, Outgoing("POST", "/api/chat", body[:size]))

    assert server.requests[0][1] == body[:size]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:11434", "127.0.0.1:11434"),
        ("http://ollama.internal", "ollama.internal:80"),
        ("https://ollama.internal", "ollama.internal:443"),
        ("http://[::1]:11434", "[::1]:11434"),
    ],
)
def test_the_host_names_the_port_even_where_the_url_does_not(url: str, host: str) -> None:
    """The one that is connected to."""
    rendered = Upstream(URL(url), version="test")._render(GET).decode()

    assert f"\r\nHost: {host}\r\n" in rendered


# What comes back.


@pytest.mark.parametrize("status", [301, 302, 304, 307])
async def test_a_redirect_is_not_an_ollama(
    server: Scripted, upstream: Upstream, status: int
) -> None:
    """It is never followed, and its connection not used again."""
    server.answers(
        f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:1/\r\n"
        "Content-Length: 0\r\n\r\n".encode()
    )
    with pytest.raises(UpstreamProtocolError, match="redirects elsewhere"):
        await ask(upstream)

    assert len(server.requests) == 1
    assert repr(upstream.pool).startswith("<Pool 0 lent")


async def test_the_head_is_given_before_the_body_has_come(
    server: Scripted, upstream: Upstream
) -> None:
    """A stream begins when it begins."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(STREAM.replace(b"\r\n\r\n", b"\r\nContent-Type: text/x\r\n\r\n"))
        await opened.wait()
        await line.send(b"2\r\nok\r\n0\r\n\r\n")
        await line.gone()

    opened = asyncio.Event()
    server.script = script
    async with upstream.open(POST, timeouts()) as reply:
        assert (reply.status, reply.header("content-type")) == (200, "text/x")
        assert (reply.first_byte_at, reply.content_length) == (None, None)

        opened.set()
        assert await reply.read() == b"ok"


async def test_every_chunk_can_be_read_as_soon_as_it_is_there(
    server: Scripted, upstream: Upstream
) -> None:
    """The server sends the next one only when the last one was read here."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(STREAM)
        for number in range(5):
            await line.send(b"1\r\n%d\r\n" % number)
            await read.wait()
            read.clear()
        await line.send(b"0\r\n\r\n")
        await line.gone()

    read = asyncio.Event()
    server.script = script
    async with upstream.open(POST, timeouts()) as reply:
        for number in range(5):
            assert await reply.read() == b"%d" % number
            read.set()

        assert await reply.read() == b""


async def test_a_list_that_is_far_too_long_is_given_up(
    server: Scripted, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes are small; nobody fills our memory through them."""
    monkeypatch.setattr(client, "MAX_PROBE_BYTES", 1000)
    server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))
    with pytest.raises(UpstreamProtocolError, match="far too long"):
        await ask(upstream)


async def test_a_probe_that_is_not_answered_well_says_who_said_what(server: Scripted) -> None:
    """The owner reads in it what is wrong with ``ollama.url``."""
    server.answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    async with upstream_at(server.url) as upstream:
        with pytest.raises(UpstreamProtocolError, match="says 403 to /api/tags"):
            await Probes(upstream).tags()


# Leaving.


async def test_leaving_early_closes_the_connection_at_once(
    server: Scripted, upstream: Upstream
) -> None:
    """Ollama stops generating when its client's connection goes."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(STREAM + b"4\r\nhalf\r\n")
        await line.gone()
        gone.set()

    gone = asyncio.Event()
    server.script = script
    async with upstream.open(POST, timeouts()) as reply:
        await reply.read()
    async with asyncio.timeout(1):
        await gone.wait()

    assert repr(upstream.pool) == "<Pool 0 lent, 0 idle>"


@pytest.mark.parametrize("moment", ["sent", "headed", "streaming", "flooding"])
async def test_a_cancellation_closes_the_connection_wherever_it_strikes(
    server: Scripted, upstream: Upstream, moment: str
) -> None:
    """Before the head, before the first byte, between two, and while we hold Ollama back."""
    answers = {
        "sent": b"",
        "headed": STREAM,
        "streaming": STREAM + b"4\r\nhalf\r\n",
        "flooding": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(1 << 20),
    }

    async def script(line: Line) -> None:
        await server.heard(line)
        line.writer.write(answers[moment])
        there.set()
        await line.gone()
        gone.set()

    there, gone = asyncio.Event(), asyncio.Event()
    server.script = script
    asking = asyncio.get_running_loop().create_task(ask(upstream))
    async with asyncio.timeout(5):
        await there.wait()
        await asyncio.sleep(0.01)  # let it get as far as it can
        asking.cancel()
        await gone.wait()

    assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], BaseException)
    assert repr(upstream.pool) == "<Pool 0 lent, 0 idle>"


async def test_leaving_after_the_end_keeps_the_connection(
    server: Scripted, upstream: Upstream
) -> None:
    """A whole reply that nobody read to its end was whole all the same."""
    async with upstream.open(POST, timeouts()) as reply:
        await reply.read()
    async with upstream.open(POST, timeouts()) as reply:
        assert reply.complete

    assert server.connections == 1
