"""The response on a real connection: what the client gets in each of its states."""

import asyncio

import pytest

from gateway.dialects import OLLAMA
from gateway.errors import (
    QueueFull,
    UpstreamIncomplete,
)
from gateway.public import writer as writer_module
from gateway.public.response import Response
from tests.behaviour.wire import request

from .response_server import (
    EVENT,
    MIB,
    SSE,
    ResponseServer,
    connected,
    fetch,
    settings_with,
    stream,
)

# Pending: every failure has its status.


async def test_failure_of_a_pending_response_has_a_status_and_a_body() -> None:
    """With the headers of the error and those that every response has."""

    async def script(response: Response) -> None:
        await response.fail(QueueFull("full", retry_after=7.0))

    response = await fetch(script)

    assert (response.status, response.complete) == (503, True)
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-request-id"] == "req_1"
    assert response.json()["error"]["code"] == "queue_full"


async def test_failure_is_rendered_in_the_dialect_of_the_route() -> None:
    """Ollama's own API has a single text for an error."""

    async def script(response: Response) -> None:
        await response.fail(QueueFull("full"))

    assert (await fetch(script, dialect=OLLAMA)).json() == {"error": "full"}


async def test_end_of_a_pending_response_does_nothing() -> None:
    """It stays pending and can still fail with a status."""

    async def script(response: Response) -> None:
        await response.end()
        await response.fail(QueueFull("full"))

    assert (await fetch(script)).status == 503


# Committed: bytes as they come.


async def test_complete_response_has_its_length_and_the_gateways_headers_win() -> None:
    """``headers`` replace those of Ollama with the same name."""

    async def script(response: Response) -> None:
        headers = [("X-Request-Id", "theirs"), ("x-a", "1"), ("x-a", "2")]
        response.headers["X-Request-Id"] = response.headers.pop("x-request-id")
        await response.send(201, headers, b"all of it")
        await response.end()

    response = await fetch(script)

    assert (response.status, response.body, response.complete) == (201, b"all of it", True)
    assert response.headers["content-length"] == "9"
    assert response.headers["x-request-id"] == "req_1"


async def test_head_request_gets_the_length_and_no_body() -> None:
    """RFC 9110, section 9.3.2."""

    async def script(response: Response) -> None:
        await response.send(200, [], b"all of it")
        await response.end()

    async with connected(ResponseServer(script)) as client:
        for _ in range(2):  # a body would be read as the beginning of the second response
            client.send(request("/", None, method="HEAD"))
            response = await client.response("HEAD")

            assert (response.headers["content-length"], response.body) == ("9", b"")


async def test_each_piece_of_a_stream_is_sent_when_it_is_written() -> None:
    """In a chunk of its own: pieces are neither joined nor kept back."""

    async def script(response: Response) -> None:
        await response.begin_stream(200, SSE, length=None, scanner=response.dialect.scanner())
        for number in range(3):
            await response.write(b"piece %d" % number)
            await seen.wait()
            seen.clear()
        await response.end()

    seen = asyncio.Event()
    async with connected(ResponseServer(script)) as client:
        client.send(request("/", {}))
        status, headers = await client.head()
        pieces = []
        for _ in range(3):
            pieces.append(await client.chunk())
            seen.set()

        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert pieces == [b"piece 0", b"piece 1", b"piece 2"]
        assert await client.rest() == (b"", True)


async def test_repr_shows_state_status_and_size() -> None:
    """The state table of the module, as a debugger sees it."""
    reprs = []

    async def script(response: Response) -> None:
        reprs.append(repr(response))
        await response.begin_stream(200, SSE, length=None, scanner=None)
        await response.write(b"12345")
        reprs.append(repr(response))
        await response.end()
        reprs.append(repr(response))

    await fetch(script)

    assert reprs == [
        "<Response pending , 0 bytes>",
        "<Response committed 200, 5 bytes>",
        "<Response ended 200, 5 bytes>",
    ]


# Committed, and failing: reported where possible, and no end.


async def test_late_failure_of_a_stream_is_an_error_event_and_no_end() -> None:
    """An error event where an event may stand; then the body does not end."""
    response = await fetch(stream(EVENT, UpstreamIncomplete("half")))

    assert response.status == 200
    assert not response.complete
    assert response.body.startswith(EVENT + b"data: ")
    assert b'"upstream_incomplete"' in response.body


async def test_late_failure_inside_an_event_only_aborts() -> None:
    """No client would read an error in the middle of another event."""
    response = await fetch(stream(EVENT, EVENT[:10], UpstreamIncomplete("half")))

    assert (response.body, response.complete) == (EVENT + EVENT[:10], False)


async def test_failure_of_a_committed_stream_without_bytes_still_sends_its_head() -> None:
    """The head waits for the first bytes; an event without it would not be HTTP."""
    response = await fetch(stream(UpstreamIncomplete("none")))

    assert (response.status, response.complete) == (200, False)
    assert b'"upstream_incomplete"' in response.body


async def test_late_failure_of_a_complete_response_aborts_it() -> None:
    """It has no place for an error: it ends short of its declared length."""

    async def script(response: Response) -> None:
        await response.begin_stream(200, [], length=100, scanner=None)
        await response.write(b"half")
        await response.fail(UpstreamIncomplete("half"))

    response = await fetch(script)

    assert (response.body, response.complete) == (b"half", False)


async def test_an_ended_or_aborted_response_stays_so() -> None:
    """Nothing fails after the end, and nothing ends after a failure."""
    whole = await fetch(stream(EVENT, None, UpstreamIncomplete("late")))
    failed = await fetch(stream(EVENT, UpstreamIncomplete("half"), None))

    assert (whole.body, whole.complete) == (EVENT, True)
    assert failed.complete is False


async def test_aborted_response_to_a_client_that_reads_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client gets a moment to read; then the connection is reset."""
    monkeypatch.setattr(writer_module, "_LINGER", 0.1)

    async def script(response: Response) -> None:
        await response.begin_stream(200, SSE, length=None, scanner=response.dialect.scanner())
        await response.write(bytes(32 * MIB))
        await response.fail(UpstreamIncomplete("half"))
        await asyncio.Event().wait()  # until the connection is lost, which cancels us

    server = ResponseServer(
        script, settings=settings_with(write_timeout=9, read_ahead_bytes=64 * MIB)
    )
    async with connected(server) as client:
        client.send(request("/", {}))
        await server.wait_until_over()

    assert [type(error) for error in server.errors] == [asyncio.CancelledError]


# HTTP/1.0, where closing is how a response ends.


async def test_http_1_0_client_gets_a_stream_without_chunks() -> None:
    """RFC 9112, section 6.3: the body ends when the connection closes."""
    async with connected(ResponseServer(stream(EVENT, EVENT, None))) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        _, headers = await client.head()

        assert "transfer-encoding" not in headers
        assert await client.read_until_closed() == EVENT + EVENT


async def test_failed_stream_to_an_http_1_0_client_is_a_reset() -> None:
    """A normal close would say that the stream was complete."""

    async def script(response: Response) -> None:
        await stream(EVENT)(response)
        await read.wait()
        await response.fail(UpstreamIncomplete("half"))

    read = asyncio.Event()
    async with connected(ResponseServer(script)) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.head()
        await client.reader.readexactly(len(EVENT))
        read.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1000)
