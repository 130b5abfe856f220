"""Writing a response: slow clients, clients that left, and what may be sent at all."""

import asyncio

import pytest

from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    InternalError,
)
from gateway.public.body import MemoryBudget
from gateway.public.connection import LOW_WATER
from gateway.public.response import Response
from tests.behaviour.wire import request

from .response_server import MIB, SSE, ResponseServer, connected, fetch, settings_with, stream


async def test_writing_a_stream_waits_when_the_read_ahead_is_full() -> None:
    """So much is unsent at most, and Ollama has to wait."""
    written: list[int] = []
    full = asyncio.Event()

    async def script(response: Response) -> None:
        await response.begin_stream(200, SSE, length=None, scanner=response.dialect.scanner())
        for _ in range(64):
            await response.write(bytes(MIB))
            written.append(response._writer.unsent)
            if written[-1] > 0:
                full.set()
        await response.end()

    server = ResponseServer(script)
    async with connected(server) as client:
        client.send(request("/", {}))
        async with asyncio.timeout(5):
            await full.wait()
        await client.head()
        rest, whole = await client.rest()

    assert (len(rest), whole) == (64 * MIB, True)
    assert max(written) <= MIB


async def test_complete_response_is_taken_over_at_once() -> None:
    """It is in memory anyway: the slot is free before the client has read it."""
    taken = asyncio.Event()

    async def script(response: Response) -> None:
        await response.send(200, [], bytes(32 * MIB))
        taken.set()
        await response.end()

    async with connected(ResponseServer(script)) as client:
        client.send(request("/", {}))
        async with asyncio.timeout(5):
            await taken.wait()
        response = await client.response()

    assert (len(response.body), response.complete) == (32 * MIB, True)


async def test_end_waits_until_nearly_everything_is_sent() -> None:
    """A request keeps next to nothing in memory afterwards; the connection goes on."""
    left: list[int] = []

    async def script(response: Response) -> None:
        await response.send(200, [], bytes(16 * MIB))
        await response.end()
        left.append(response._writer.unsent)

    async with connected(ResponseServer(script)) as client:
        for _ in range(2):
            client.send(request("/", {}))
            assert len((await client.response()).body) == 16 * MIB

    assert max(left) <= LOW_WATER


async def test_client_that_reads_nothing_times_out() -> None:
    """After ``write_timeout`` seconds without a byte."""
    server = ResponseServer(
        stream(bytes(32 * MIB), None),
        settings=settings_with(write_timeout=0.2),
    )
    async with connected(server) as client:
        client.send(request("/", {}))
        await server.wait_until_over()

    (error,) = server.errors
    assert type(error) is ClientWriteTimeout
    assert "0.2 s" in error.message


async def test_slow_client_does_not_time_out() -> None:
    """Each ``write_timeout`` needs only some progress."""
    settings = settings_with(write_timeout=0.3)
    server = ResponseServer(stream(bytes(24 * MIB), None), settings=settings)
    async with connected(server) as client:
        client.send(request("/", {}))
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data = await client.reader.read(MIB)
            await asyncio.sleep(0.008)  # so that all of it takes longer than one write_timeout

    assert server.errors == []


async def test_writing_to_a_client_that_left_raises() -> None:
    """The failure is the client's, not Ollama's."""
    gone = asyncio.Event()

    async def script(response: Response) -> None:
        await response.begin_stream(200, SSE, length=None, scanner=None)
        await response.write(b"x")
        transport = response._writer._request.transport
        assert transport is not None
        transport.abort()
        gone.set()
        await response.write(b"y")

    server = ResponseServer(script)
    async with connected(server) as client:
        client.send(request("/", {}))
        await server.wait_until_over()

    assert [type(error) for error in server.errors] == [ClientDisconnected]
    assert server.responses[0].state == "aborted"


async def test_client_disconnect_wakes_a_waiting_write() -> None:
    """At once, not after the timeout."""
    server = ResponseServer(
        stream(bytes(32 * MIB), None),
        settings=settings_with(write_timeout=60),
    )
    async with connected(server) as client:
        client.send(request("/", {}))
        await client.head()
        client.writer.transport.abort()
        await server.wait_until_over()

    assert [type(error) for error in server.errors] in (
        [ClientDisconnected],
        [asyncio.CancelledError],
    )


async def test_declared_length_is_read_ahead_within_the_memory_budget() -> None:
    """With room in the budget, Ollama does not wait for a slow client."""

    async def script(response: Response) -> None:
        await response.begin_stream(200, [], length=24 * MIB, scanner=None)
        for _ in range(24):
            await response.write(bytes(MIB))
        taken.set()
        await go_on.wait()
        await response.end()

    taken, go_on = asyncio.Event(), asyncio.Event()
    server = ResponseServer(script)
    async with connected(server) as client:
        client.send(request("/", {}))
        async with asyncio.timeout(5):
            await taken.wait()
        reserved = server.memory_budget.used
        go_on.set()
        response = await client.response()

    assert reserved >= 24 * MIB
    assert (len(response.body), response.complete, server.memory_budget.used) == (24 * MIB, True, 0)


async def test_without_memory_a_long_response_waits_for_its_client() -> None:
    """The read-ahead never exceeds the memory budget."""
    server = ResponseServer(
        stream(),
        memory_budget=MemoryBudget(2 * MIB),
        settings=settings_with(write_timeout=0.2),
    )

    async def script(response: Response) -> None:
        await response.begin_stream(200, [], length=64 * MIB, scanner=None)
        for _ in range(64):
            await response.write(bytes(MIB))

    server.script = script
    async with connected(server) as client:
        client.send(request("/", {}))
        await server.wait_until_over()

    assert [type(error) for error in server.errors] == [ClientWriteTimeout]
    assert server.memory_budget.used == 0


# The head.


@pytest.mark.parametrize("value", ["a\r\nx-b: 1", "a\nb", "a\x00b", "\u20ac"])
async def test_header_that_could_forge_another_one_is_never_sent(value: str) -> None:
    """The response stays pending, so its failure can still have a status."""

    async def script(response: Response) -> None:
        with pytest.raises(ValueError, match=r"control character|latin-1"):
            await response.send(200, [("x-a", value)], b"secret")
        await response.fail(InternalError())

    response = await fetch(script)

    assert (response.status, "x-a" in response.headers) == (500, False)
    assert b"secret" not in response.body


async def test_header_bytes_of_ollama_are_unchanged() -> None:
    """Header values are bytes on the wire; Latin-1 stands for each of them."""

    async def script(response: Response) -> None:
        await response.send(200, [("x-a", "caf\xe9")], b"")
        await response.end()

    assert (await fetch(script)).headers["x-a"] == "caf\xe9"


@pytest.mark.parametrize("status", [204, 304])
async def test_status_without_a_body_has_none(status: int) -> None:
    """RFC 9112, section 6.3: a client would take a body for the next response."""

    async def script(response: Response) -> None:
        await response.send(status, [], b"not sent")
        await response.end()

    async with connected(ResponseServer(script)) as client:
        for _ in range(2):
            client.send(request("/", {}))
            found, headers = await client.head()

            assert (found, "transfer-encoding" in headers) == (status, False)


async def test_response_longer_than_its_length_is_clipped() -> None:
    """A client would read the rest as its next response."""

    async def script(response: Response) -> None:
        await response.begin_stream(200, [], length=3, scanner=None)
        await response.write(b"ab")
        await response.write(b"cdef")
        await response.end()

    async with connected(ResponseServer(script)) as client:
        for _ in range(2):
            client.send(request("/", {}))
            response = await client.response()

            assert (response.status, response.body) == (200, b"abc")


async def test_response_shorter_than_its_length_closes_the_connection() -> None:
    """The next response must not fill the gap."""

    async def script(response: Response) -> None:
        await response.begin_stream(200, [], length=9, scanner=None)
        await response.write(b"ab")
        await response.end()

    response = await fetch(script)

    assert (response.body, response.complete) == (b"ab", False)
