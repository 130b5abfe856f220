"""What `init` finds at the address of Ollama."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gateway.cli import initialize
from gateway.cli.initialize import ProbeResult, probe_ollama
from gateway.simulator import USUAL_MODELS, Simulator

SETTING = "`url` below [ollama] in FILE"


async def probe(url: str) -> ProbeResult:
    return await asyncio.to_thread(probe_ollama, url, setting=SETTING)


@asynccontextmanager
async def responding(sent: bytes) -> AsyncIterator[str]:
    """Run a server that responds with these bytes to everything."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(sent)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
def unused() -> Iterator[str]:
    """Return an address without a listener, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_an_ollama_with_models_needs_no_action() -> None:
    async with Simulator(USUAL_MODELS[:1]) as one, Simulator(USUAL_MODELS) as several:
        assert await probe(one.url) == ProbeResult(
            f"Ollama is reachable at {one.url} and has 1 model."
        )
        assert await probe(several.url) == ProbeResult(
            f"Ollama is reachable at {several.url} and has {len(USUAL_MODELS)} models."
        )


async def test_an_ollama_without_models_needs_a_download() -> None:
    async with Simulator([]) as ollama:
        result = await probe(ollama.url)

    assert result.finding == f"Ollama is reachable at {ollama.url} and has no models."
    assert result.action is not None
    assert result.action.endswith("ollama pull llama3.2:1b")


async def test_a_null_list_of_models_is_empty() -> None:
    """Go writes a nil slice as null."""
    async with responding(http("200 OK", b'{"models":null}')) as url:
        result = await probe(url)

    assert result.finding == f"Ollama is reachable at {url} and has no models."


async def test_an_unreachable_ollama_is_to_be_started(unused: str) -> None:
    assert await probe(unused) == ProbeResult(
        f"Ollama is not reachable at {unused}: connection refused.",
        f"Start Ollama: `ollama serve`. If it runs elsewhere, correct {SETTING}.",
    )


async def test_a_server_that_never_responds_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initialize, "PROBE_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = await probe(f"http://127.0.0.1:{silent.getsockname()[1]}")

    assert result.finding.endswith(": no response in time.")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (http("404 Not Found", b"404 page not found"), 404),
        (http("200 OK", b"<html>"), 200),
        (http("200 OK", b'{"models": 5}'), 200),
        (http("200 OK", b"[" * 100_000), 200),
        (http("200 OK", b'{"models":' + b"[" * 100_000), 200),
        (http("200 OK", b"\xff"), 200),
    ],
)
async def test_another_server_is_told_from_ollama(sent: bytes, status: int) -> None:
    """Such as a web server on a mistyped port."""
    async with responding(sent) as url:
        result = await probe(url)

    assert result == ProbeResult(
        f"The server at {url} does not look like Ollama: it has no list of models "
        f"(status {status}).",
        f"If Ollama runs elsewhere, correct {SETTING}.",
    )


@pytest.mark.parametrize(
    "sent",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    ],
)
async def test_a_server_without_http_is_reported(sent: bytes) -> None:
    """A mail server, one that hangs up, one with a chunk of negative size."""
    async with responding(sent) as url:
        result = await probe(url)

    assert result.finding.startswith(f"Ollama is not reachable at {url}: ")
    assert result.action is not None


async def test_missing_tls_is_reported() -> None:
    """The URL begins with https:// by mistake."""
    async with responding(http("400 Bad Request", b"")) as url:
        result = await probe(url.replace("http://", "https://"))

    assert "it does not support TLS" in result.finding


async def test_an_unknown_host_name_is_reported() -> None:
    url = "http://no-such-host.invalid"

    assert (await probe(url)).finding.startswith(f"Ollama is not reachable at {url}: ")
