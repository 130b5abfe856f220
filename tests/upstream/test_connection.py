"""Responses on the wire: which are complete, which are broken, and what may follow them."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.errors import (
    GatewayError,
    UpstreamIncomplete,
    UpstreamProtocolError,
)
from gateway.upstream import Outgoing, Upstream
from gateway.upstream.connection import HIGH_WATER, MAX_HEAD_BYTES, Connection, Reply

from .fake_transport import FakeTransport, connected
from .requests import POST, deadlines, fetch
from .scripted import OK, ScriptedServer, ServerSide

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def closing_after(server: ScriptedServer, *parts: bytes, reset: bool = False) -> None:
    """Respond with ``parts``, then close the connection."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        for part in parts:
            await side.send(part)
        if reset:
            side.reset()
        else:
            side.close()

    server.script = script


async def failure(upstream: Upstream) -> GatewayError:
    """Return the error of a broken response."""
    with pytest.raises(GatewayError) as caught:
        await fetch(upstream)
    return caught.value


async def broken(
    upstream: Upstream, after: bytes, then: Callable[[], None] = lambda: None
) -> GatewayError:
    """Return the error raised after ``after`` was read; ``then`` is called in between."""
    read = b""
    try:
        async with upstream.open(POST, deadlines()) as reply:
            while len(read) < len(after):
                read += await reply.read()
            then()
            read += await reply.read()
    except GatewayError as error:
        assert read == after
        return error
    raise AssertionError(f"a complete reply: {read!r}")


# Complete responses.


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (OK, (200, b"ok")),
        (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", (200, b"ok")),
        (CHUNKED + b"2;ext=1\r\nok\r\n0\r\nTrailer: x\r\n\r\n", (200, b"ok")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, b"")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno.", (404, b"no.")),
        (b"HTTP/1.1 503\r\nContent-Length: 1\r\n\r\n!", (503, b"!")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, b"ok")),
        (b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + OK, (200, b"ok")),
    ],
    ids=["length", "chunked", "trailer", "empty", "204", "404", "no-reason", "100", "103+102"],
)
@pytest.mark.parametrize("division", ["at once", "byte by byte"])
async def test_a_response_is_complete_where_its_framing_ends(
    server: ScriptedServer,
    upstream: Upstream,
    reply: bytes,
    expected: tuple[int, bytes],
    division: str,
) -> None:
    """At once or byte by byte; and the connection carries the next request."""

    async def script(side: ServerSide) -> None:
        while True:
            await server.receive(side)
            for start in range(0, len(reply), step):
                await side.send(reply[start : start + step])

    step = len(reply) if division == "at once" else 1
    server.script = script

    assert await fetch(upstream) == expected
    assert await fetch(upstream) == expected
    assert server.connections == 1


async def test_an_interim_response_leaves_no_header_in_the_final_one(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """Early hints are not Ollama's response."""
    server.respond_with(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + OK)
    async with upstream.open(POST, deadlines()) as reply:
        assert reply.headers == [("Content-Length", "2")]
        assert reply.content_length == 2
        await reply.read()


async def test_without_a_length_nothing_proves_the_end(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """RFC 9112, section 8: a close could be the end or a failure; Ollama frames what it says."""
    closing_after(server, b"HTTP/1.1 200 OK\r\n\r\n", b"until ", b"closed")

    with pytest.raises(UpstreamIncomplete):
        await fetch(upstream)
    assert server.connections == 1


async def test_a_reset_is_not_an_end_even_without_a_length(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """A killed process did not complete its response."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await seen.wait()
        side.reset()

    seen = asyncio.Event()
    server.script = script

    assert type(await broken(upstream, b"half", seen.set)) is UpstreamIncomplete


async def test_many_headers_arrive_in_order_and_with_duplicates(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """What they mean is for others to say."""
    sent = [(f"X-{number % 400}", str(number)) for number in range(800)]
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent).encode()
    server.respond_with(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n")
    async with upstream.open(POST, deadlines()) as reply:
        assert reply.headers == [*sent, ("Content-Length", "0")]


@pytest.mark.parametrize("parts", [1, 2, 50])
async def test_a_long_head_is_accepted_in_any_parts(
    server: ScriptedServer, upstream: Upstream, parts: int
) -> None:
    """The bound is on the size of a head, not on how the network divided it."""
    value = b"x" * (MAX_HEAD_BYTES - 1024)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: " + value + b"\r\n\r\n"
    step = len(head) // parts + 1

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        for start in range(0, len(head), step):
            await side.send(head[start : start + step])
            await asyncio.sleep(0)
        await side.closed()

    server.script = script
    async with upstream.open(POST, deadlines()) as reply:
        assert reply.header("x-long") == value.decode()


# Broken responses.


NEVER_ANSWERED = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an interim reply alone": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("sent", NEVER_ANSWERED.values(), ids=NEVER_ANSWERED)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_closed_before_the_head_fails_without_a_retry(
    server: ScriptedServer, upstream: Upstream, sent: bytes, reset: bool
) -> None:
    """Ollama may have begun the work, so a retry could do it twice."""
    closing_after(server, sent, reset=reset)
    error = await failure(upstream)

    assert type(error) is UpstreamProtocolError
    assert "closed the connection before it answered" in error.message
    assert (len(server.requests), server.connections) == (1, 1)


NONSENSE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "another version": b"HTTP/9.9 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a control byte in a header": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "another protocol from here on": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    "one endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1024),
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-Y: abcdefg\r\n" * (MAX_HEAD_BYTES // 8),
    "endless interim replies": b"HTTP/1.1 103 E\r\nLink: <abcdefg>\r\n\r\n"
    * (MAX_HEAD_BYTES // 12),
}


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE)
async def test_broken_http_fails_the_response_and_closes_the_connection(
    server: ScriptedServer, upstream: Upstream, sent: bytes
) -> None:
    """Without waiting for an end, and without a retry."""
    gone = asyncio.Event()

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        side.writer.write(sent)
        await side.closed()
        gone.set()

    server.script = script
    error = await failure(upstream)

    assert type(error) is UpstreamProtocolError
    assert "does not look like Ollama" in error.message
    async with asyncio.timeout(5):
        await gone.wait()
    assert (len(server.requests), server.connections) == (1, 1)


UNFINISHED = {
    "a length not reached": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "chunks without the last": CHUNKED + b"4\r\nhalf\r\n",
    "half a chunk": CHUNKED + b"10\r\nhalf",
    "the last chunk without its end": CHUNKED + b"4\r\nhalf\r\n0\r\n",
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
@pytest.mark.parametrize("polite", [True, False], ids=["closed", "reset"])
async def test_an_unfinished_body_is_never_complete(
    server: ScriptedServer, upstream: Upstream, sent: bytes, polite: bool
) -> None:
    """What came is relayed, then the error is raised."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(sent)
        await seen.wait()
        if polite:
            side.close()
        else:
            side.reset()

    seen = asyncio.Event()
    server.script = script
    error = await broken(upstream, b"half", seen.set)

    assert type(error) is UpstreamIncomplete
    assert "in the middle of the response" in error.message
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [b"xyz", b"-1", b"fffffffffffffffff", b""])
async def test_an_invalid_chunk_size_fails_the_response(
    server: ScriptedServer, upstream: Upstream, size: bytes
) -> None:
    """After the bytes that were good."""
    server.respond_with(CHUNKED + b"4\r\nhalf\r\n" + size + b"\r\nmore\r\n0\r\n\r\n")

    assert type(await broken(upstream, b"half")) is UpstreamProtocolError


async def test_endless_trailers_fail_the_response(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """They are headers, and bounded like them."""
    server.respond_with(CHUNKED + b"0\r\n" + b"X-Y: abcdefg\r\n" * (MAX_HEAD_BYTES // 8))

    assert type(await failure(upstream)) is UpstreamProtocolError


@pytest.mark.parametrize(
    "start",
    [b"0\r\nX: ", b"0\r\n", b"2;ext="],
    ids=["value of a trailer", "name of a trailer", "chunk extension"],
)
async def test_endless_bytes_beside_the_body_fail_the_response(
    server: ScriptedServer, upstream: Upstream, start: bytes
) -> None:
    """The parser keeps a trailer until its end, which never comes."""
    server.respond_with(CHUNKED + b"4\r\nhalf\r\n" + start + b"a" * (4 * MAX_HEAD_BYTES))

    assert type(await broken(upstream, b"half")) is UpstreamProtocolError


async def test_tiny_chunks_are_accepted(server: ScriptedServer, upstream: Upstream) -> None:
    """A body in tiny chunks has more bytes beside it than in it."""
    count = MAX_HEAD_BYTES // 4
    server.respond_with(CHUNKED + b"1;ext=1234567\r\nx\r\n" * count + b"0\r\n\r\n")

    assert await fetch(upstream) == (200, b"x" * count)


async def test_a_trailer_is_no_header(server: ScriptedServer, upstream: Upstream) -> None:
    """It may come together with the head, before that was read."""
    server.respond_with(CHUNKED + b"0\r\nContent-Encoding: gzip\r\n\r\n")
    async with upstream.open(POST, deadlines()) as reply:
        await reply.read()

    assert reply.headers == [("Transfer-Encoding", "chunked")]


# What follows a response.


@pytest.mark.parametrize("more", [b"x", OK, b"\r\n\r\n\r\nGET"])
async def test_bytes_after_the_response_close_the_connection(
    server: ScriptedServer, upstream: Upstream, more: bytes
) -> None:
    """They must never become the next response."""
    server.respond_with(OK + more)

    assert await fetch(upstream) == (200, b"ok")

    server.respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")

    assert await fetch(upstream) == (200, b"mine")
    assert server.connections == 2


async def test_an_unsolicited_response_is_never_given_to_the_next_request(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """It comes while the connection is idle."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(OK)
        await sent.wait()
        await side.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
        await side.closed()
        gone.set()

    sent, gone = asyncio.Event(), asyncio.Event()
    server.script = script
    await fetch(upstream)
    sent.set()
    async with asyncio.timeout(5):
        await gone.wait()
    server.respond_with(OK)

    assert await fetch(upstream) == (200, b"ok")
    assert server.connections == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"]
)
async def test_a_connection_announced_to_close_is_not_reused(
    server: ScriptedServer, upstream: Upstream, head: bytes
) -> None:
    """Even if it is still open when the next request comes."""
    for _ in range(2):
        server.respond_with(head + b"Content-Length: 2\r\n\r\nok")

        assert await fetch(upstream) == (200, b"ok")

    assert server.connections == 2


async def test_a_response_to_an_unread_request_closes_the_connection(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """The rest of the old request would be read as the beginning of the next one."""

    async def script(side: ServerSide) -> None:
        await side.reader.readuntil(b"\r\n\r\n")
        await side.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await closed.wait()

    closed = asyncio.Event()
    server.script = script

    assert await fetch(upstream, Outgoing("POST", POST.path, bytes(16 << 20))) == (413, b"no")

    closed.set()
    server.respond_with(OK)

    assert await fetch(upstream) == (200, b"ok")
    assert server.connections == 2


# The reading side, without a network.

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.fixture
async def exchange() -> AsyncIterator[tuple[Connection, FakeTransport, Reply]]:
    """A response whose head has come."""
    connection, transport, reply = connected()
    connection.data_received(HEAD)
    yield connection, transport, reply
    connection.close()
    transport.close()


Exchange = tuple[Connection, FakeTransport, Reply]


async def test_bytes_that_came_together_are_read_together(exchange: Exchange) -> None:
    """Everything since the last call, in order."""
    connection, _, reply = exchange
    connection.data_received(b"a")
    connection.data_received(b"b")

    assert await reply.read() == b"ab"


async def test_an_error_is_raised_after_the_bytes_before_it(exchange: Exchange) -> None:
    """Nothing that came is lost to what came after it; and it is raised each time."""
    connection, _, reply = exchange
    connection.data_received(b"half a comp")
    connection.connection_lost(None)

    assert await reply.read() == b"half a comp"
    with pytest.raises(UpstreamIncomplete):
        await reply.read()
    with pytest.raises(UpstreamIncomplete):
        await reply.read()
    assert not reply.complete


async def test_the_first_failure_is_the_cause(exchange: Exchange) -> None:
    """What follows from it does not hide it."""
    connection, _, reply = exchange
    reply.fail(UpstreamProtocolError())
    connection.connection_lost(None)

    with pytest.raises(UpstreamProtocolError):
        await reply.read()


async def test_a_connection_that_closes_after_the_end_is_no_failure() -> None:
    """The response was complete."""
    connection, transport, reply = connected()
    connection.data_received(OK)
    connection.connection_lost(None)
    transport.close()

    assert (await reply.read(), await reply.read()) == (b"ok", b"")


async def test_reading_is_paused_above_the_high_water_and_resumed_by_reading(
    exchange: Exchange,
) -> None:
    """Once each, however many chunks there are."""
    connection, transport, reply = exchange
    connection.data_received(bytes(HIGH_WATER))
    below = list(transport.calls)
    connection.data_received(b"a")
    connection.data_received(b"b")

    assert (below, transport.calls) == ([], ["pause"])

    assert len(await reply.read()) == HIGH_WATER + 2
    assert transport.calls == ["pause", "resume"]


async def test_bytes_wake_the_reading_task(exchange: Exchange) -> None:
    """As soon as they come."""
    connection, _, reply = exchange
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(reply.read())
        await asyncio.sleep(0)
        connection.data_received(b"x")

    assert reading.result() == b"x"


async def test_a_cancelled_read_leaves_the_bytes_to_the_next_one(exchange: Exchange) -> None:
    """And there is no task to wake."""
    connection, _, reply = exchange
    reading = asyncio.get_running_loop().create_task(reply.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    connection.data_received(b"x")

    assert await reply.read() == b"x"


async def test_repr_shows_how_far_a_reply_is(exchange: Exchange) -> None:
    """Open, complete or failed, and how much was not read yet."""
    connection, _, reply = exchange
    connection.data_received(b"abc")
    calls = [repr(reply)]
    connection.data_received(bytes(999_997))
    calls.append(repr(reply))

    assert calls == [
        "<Reply 200 open, 3 bytes unread>",
        "<Reply 200 complete, 1000000 bytes unread>",
    ]


async def test_headers_are_found_by_name_in_any_case(exchange: Exchange) -> None:
    """The first of that name; an absent one is empty."""
    _, _, reply = exchange
    reply.headers = [("Content-Type", "a"), ("content-type", "b")]

    assert reply.header("content-type") == "a"
    assert reply.header("content-length") == ""
