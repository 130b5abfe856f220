"""What `init` finds where Ollama should be."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gateway.cli import init_ollama
from gateway.cli.init_ollama import Sight, look
from gateway.simulator import USUAL_MODELS, Simulator

SETTING = "`url` below [ollama] in FILE"


async def seen(url: str) -> Sight:
    return await asyncio.to_thread(look, url, setting=SETTING)


@asynccontextmanager
async def answering(said: bytes) -> AsyncIterator[str]:
    """Somebody who answers everything with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(said)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_one_with_models_is_well() -> None:
    """Nothing is to be done about it."""
    async with Simulator(USUAL_MODELS[:1]) as one, Simulator(USUAL_MODELS) as several:
        assert await seen(one.url) == Sight(f"Ollama answers at {one.url}, with 1 model.")
        assert await seen(several.url) == Sight(
            f"Ollama answers at {several.url}, with {len(USUAL_MODELS)} models."
        )


async def test_one_without_a_model_needs_one() -> None:
    """The command for it is there."""
    async with Simulator([]) as ollama:
        sight = await seen(ollama.url)

    assert sight.found == f"Ollama answers at {ollama.url}, and has no model."
    assert sight.missing is not None
    assert sight.missing.endswith("ollama pull llama3.2:1b")


async def test_no_models_can_be_written_in_two_ways() -> None:
    """Go writes an empty list as null where it was never made."""
    async with answering(http("200 OK", b'{"models":null}')) as url:
        sight = await seen(url)

    assert sight.found == f"Ollama answers at {url}, and has no model."


async def test_where_nobody_answers_it_is_to_be_started(nobody: str) -> None:
    """Or it is elsewhere; there is one place to say so."""
    assert await seen(nobody) == Sight(
        f"Ollama does not answer at {nobody}: connection refused.",
        f"Start Ollama: `ollama serve`. If it is elsewhere, correct {SETTING}.",
    )


async def test_one_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something takes connections, and that is all."""
    monkeypatch.setattr(init_ollama, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sight = await seen(f"http://127.0.0.1:{silent.getsockname()[1]}")

    assert sight.found.endswith(": no answer in time.")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (http("404 Not Found", b"404 page not found"), 404),
        (http("200 OK", b"<html>"), 200),
        (http("200 OK", b'{"models": 5}'), 200),
        (http("200 OK", b"[" * 100_000), 200),
        (http("200 OK", b'{"models":' + b"[" * 100_000), 200),
        (http("200 OK", b"\xff"), 200),
    ],
)
async def test_somebody_else_is_told_from_ollama(said: bytes, status: int) -> None:
    """A web server on a port that was mistyped, say."""
    async with answering(said) as url:
        sight = await seen(url)

    assert sight == Sight(
        f"What answers at {url} is not Ollama: it has no list of models (status {status}).",
        f"If Ollama is elsewhere, correct {SETTING}.",
    )


@pytest.mark.parametrize(
    "said",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    ],
)
async def test_what_speaks_no_http_is_no_traceback(said: bytes) -> None:
    """A mail server, one that hangs up, or one with chunks of less than nothing."""
    async with answering(said) as url:
        sight = await seen(url)

    assert sight.found.startswith(f"Ollama does not answer at {url}: ")
    assert sight.missing is not None


async def test_no_tls_where_tls_was_asked_for_is_said() -> None:
    """The address begins with https:// by mistake."""
    async with answering(http("400 Bad Request", b"")) as url:
        sight = await seen(url.replace("http://", "https://"))

    assert "it does not speak TLS" in sight.found


async def test_a_name_that_does_not_exist_is_said() -> None:
    """In one sentence."""
    url = "http://no-such-host.invalid"

    assert (await seen(url)).found.startswith(f"Ollama does not answer at {url}: ")
