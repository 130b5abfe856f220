"""Bytes that are no HTTP request get a constant response, and no log repeats them."""

import asyncio
import io
import logging
from collections.abc import Iterator

import pytest

from gateway.simulator import Simulator
from gateway.telemetry.log import FOREIGN_LOGGERS, LineWriter, configure
from tests.behaviour.wire import TIMEOUT, RawResponse, raw_client
from tests.harness import Running

CHAT = b'{"model":"llama3.2:1b","messages":[{"role":"user","content":"the walrus is a secret"}]}'
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
HEAD = b"Host: gateway\r\nAuthorization: Bearer KEY\r\nCookie: KEY\r\nX-Api-Key: KEY\r\n"
GET = b"GET /k/LOOK/api/tags HTTP/1.1\r\n" + HEAD
POST = (
    b"POST /k/LOOK/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer KEY\r\n"
)
LENGTH = b"Content-Length: %d\r\n" % len(CHAT)

NONSENSE = {
    "control byte in the path": b"GET /k/LOOK\x01/api/tags HTTP/1.1\r\n" + HEAD + b"\r\n",
    "control byte inside the key": b"GET /k/LO\x7fOK/api/tags HTTP/1.1\r\n" + HEAD + b"\r\n",
    "null byte in the path": b"GET /k/LOOK/api\x00/tags HTTP/1.1\r\n" + HEAD + b"\r\n",
    "bytes beyond ASCII in the path": "GET /k/LOOK/api/täg HTTP/1.1\r\n".encode() + HEAD + b"\r\n",
    "version that is no number": b"GET /k/LOOK/api/tags HTTP/9.x\r\n" + HEAD + b"\r\n",
    "version to come": b"GET /k/LOOK/api/tags HTTP/1.2\r\n" + HEAD + b"\r\n",
    "version of frames": b"GET /k/LOOK/api/tags HTTP/2.0\r\n" + HEAD + b"\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nKEY",
    "HTTP/0.9": b"GET /k/LOOK/api/tags\r\n\r\n",
    "HTTP/0.9, said aloud": b"GET /k/LOOK/api/tags HTTP/0.9\r\n" + HEAD + b"\r\n",
    "other protocol": b"KEY LOOK\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03KEY",
    "method that is a key": b"KEY /api/tags HTTP/1.1\r\n" + HEAD + b"\r\n",
    "method in lower case": b"get /k/LOOK/api/tags HTTP/1.1\r\n" + HEAD + b"\r\n",
    "lines that end in LF": GET.replace(b"\r\n", b"\n") + b"\n",
    "target without a slash": b"GET k/LOOK/api/tags HTTP/1.1\r\n" + HEAD + b"\r\n",
    "URL of 100 KB": b"GET /k/LOOK/" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "query of 100 KB": b"GET /k/LOOK/?" + b"KEY" * 2_500 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "header of 100 KB": GET + b"X-Long: " + b"KEY" * 2_500 + b"\r\n\r\n",
    "name of 100 KB": GET + b"X-" + b"KEY" * 2_500 + b": 1\r\n\r\n",
    "a thousand headers": GET + b"X-Many: KEY\r\n" * 1_000 + b"\r\n",
    "folded Authorization": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n KEY\r\n\r\n",
    "folded header": GET + b"X-Folded: KEY\r\n\tKEY\r\n\r\n",
    "null byte in a header": GET + b"X-Null: KEY\x00KEY\r\n\r\n",
    "control byte in Authorization": GET.replace(b"Bearer KEY", b"Bearer KEY\x01") + b"\r\n",
    "space before the colon": GET + b"X-Api-Key : KEY\r\n\r\n",
    "header without a colon": GET + b"Authorization Bearer KEY\r\n\r\n",
    "header without a name": GET + b": KEY\r\n\r\n",
    "no Host": b"GET /k/LOOK/api/tags HTTP/1.1\r\nAuthorization: Bearer KEY\r\n\r\n",
    "two Hosts": GET + b"Host: KEY\r\n\r\n",
    "two lengths alike": POST + LENGTH + LENGTH + b"\r\n" + CHAT,
    "two lengths that differ": POST + LENGTH + b"Content-Length: 3\r\n\r\n" + CHAT,
    "list of lengths": POST + LENGTH.replace(b"\r", b", 3\r") + b"\r\n" + CHAT,
    "length with a sign": POST + LENGTH.replace(b": ", b": +") + b"\r\n" + CHAT,
    "length below zero": POST + b"Content-Length: -1\r\n\r\n" + CHAT,
    "length that is a key": POST + b"Content-Length: KEY\r\n\r\n" + CHAT,
    "length beyond all numbers": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + CHAT,
    "length and chunks": POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "chunks inside something": POST + b"Transfer-Encoding: chunked, KEY\r\n\r\n" + CHUNKED,
    "almost chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked behind a control byte": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKED,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKED,
    "chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\nKEY\r\n" + CHAT,
    "chunk with a negative size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + CHAT,
    "old websocket": GET + b"Sec-WebSocket-Key1: KEY\r\n\r\n",
}

ODD = {
    "two Authorizations": (401, GET + b"Authorization: Bearer KEY\r\n\r\n"),
    "Authorization without a scheme": (
        401,
        b"GET /api/tags HTTP/1.1\r\nHost: x\r\nAuthorization: KEY\r\n\r\n",
    ),
    "fragment": (404, b"GET /k/LOOK/api/tags#KEY HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "bad percent sign": (404, b"GET /k/LOOK/api/%zz%ff HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "asterisk": (404, b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "tunnel": (404, b"CONNECT 127.0.0.1:11434 HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "another scheme": (404, b"GET ftp://KEY/api/tags HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "token alone": (404, b"GET /k/KEY/x HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "compressed and chunked": (
        415,
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    ),
    "expects something else": (405, GET.replace(b"GET", b"PUT") + b"Expect: KEY\r\n\r\n"),
}


@pytest.fixture
def buffer() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def configured(buffer: io.BytesIO) -> Iterator[None]:
    """The standard library's loggers as the service sets them, at their most verbose level."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    filters = {name: list(logging.getLogger(name).filters) for name in FOREIGN_LOGGERS}
    configure(level="debug", log_format="json", lines=LineWriter(buffer))
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in filters.items():
        logging.getLogger(name).filters[:] = before


def filled(data: bytes, gateway: Running) -> bytes:
    return data.replace(b"KEY", gateway.key.encode()).replace(b"LOOK", gateway.discovery.encode())


async def read_until_closed(gateway: Running, data: bytes) -> bytes:
    """All that comes back; a connection that stays open fails the test."""
    async with raw_client(gateway.port) as client, asyncio.timeout(TIMEOUT):
        client.send(filled(data, gateway))
        return await client.read_until_closed()


async def exchange(gateway: Running, data: bytes) -> RawResponse:
    async with raw_client(gateway.port) as client:
        client.send(filled(data, gateway))
        return await client.response()


def assert_no_secret_in(text: str, gateway: Running) -> None:
    for secret in (gateway.key, gateway.discovery):
        assert secret.removeprefix("ogw_")[:20] not in text
        assert secret[-20:] not in text
    assert "walrus" not in text


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("what", NONSENSE)
async def test_invalid_http_is_400_and_leaks_no_secret(
    what: str,
    gateway: Running,
    sim: Simulator,
    buffer: io.BytesIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A constant response, one log line, and a closed connection."""
    before = len(sim.requests)

    response = await read_until_closed(gateway, NONSENSE[what])

    assert response.split(b"\r\n")[0].split()[1] == b"400"
    assert response.count(b"HTTP/") - response.count(b"HTTP/1.1. Check the client") == 1
    assert {"outcome": "bad_request", "status": 400}.items() <= (await gateway.finished())[
        0
    ].items()
    assert [r.path for r in list(sim.requests)[before:] if r.method == "POST"] == []
    for text in (
        response.decode("latin-1"),
        gateway.output.getvalue().decode(),
        buffer.getvalue().decode(),
        caplog.text,
    ):
        assert_no_secret_in(text, gateway)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("what", ODD)
async def test_odd_request_is_rejected_and_leaks_no_secret(
    what: str,
    gateway: Running,
    sim: Simulator,
    buffer: io.BytesIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What can be read as HTTP gets our text, with nothing of the client's."""
    before = len(sim.requests)
    status, data = ODD[what]

    response = await exchange(gateway, data)

    assert response.status == status
    assert [r.path for r in list(sim.requests)[before:] if r.method == "POST"] == []
    for text in (
        f"{response.headers}{response.body.decode()}",
        gateway.output.getvalue().decode(),
        buffer.getvalue().decode(),
        caplog.text,
    ):
        assert_no_secret_in(text, gateway)


async def test_invalid_bytes_after_a_request_are_no_second_request(gateway: Running) -> None:
    """At most the first is served, then comes a 400, and nothing more is read."""
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    response = await read_until_closed(gateway, first + b"\x00\r\n\r\n" + first)

    assert response.count(b" 200 OK\r\n") <= 1
    assert response.count(b" 400 Bad Request\r\n") == 1


async def test_body_with_broken_chunks_is_never_sent(gateway: Running, sim: Simulator) -> None:
    """After a valid chunk too: no part of the body reaches Ollama."""
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    async with raw_client(gateway.port) as client:
        client.send(filled(head + CHUNKED.removesuffix(b"0\r\n\r\n"), gateway))
        while not gateway.gateway.handler.active_requests():  # noqa: ASYNC110  - no event for tests
            await asyncio.sleep(0.002)
        client.send(b"KEY\r\n")
        client.writer.write_eof()
        response = await client.read_until_closed()

    assert b" 200 OK" not in response
    assert sim.stats.generations_started == 0


async def test_request_after_a_declined_upgrade_is_served(gateway: Running) -> None:
    """It is a request like any other, with its own credentials."""
    upgrade = GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with raw_client(gateway.port) as client:
        client.send(filled(upgrade, gateway) + b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
        first, second = await client.response(), await client.response()

    assert (first.status, second.status) == (200, 401)
    assert "upgrade" not in first.headers
