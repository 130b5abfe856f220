"""What aiohttp logs of requests that it cannot read, seen at a real socket."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.telemetry.log import LineWriter, configure
from gateway.telemetry.redaction import UNREADABLE

BODY = "Zk3-93hfUe_77abcdefghijklmnopqrstuvwxyz01"
SECRET = f"ogw_{BODY}"
HEAD = f"Host: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
PROMPT = "a secret about the walrus"

UNPARSABLE = {
    "control byte in the path": f"GET /k/{SECRET}\x01/api/tags HTTP/1.1\r\n{HEAD}\r\n",
    "control byte in a key": f"GET /k/{SECRET[:20]}\x01{SECRET[20:]} HTTP/1.1\r\n{HEAD}\r\n",
    "bad version": f"GET /k/{SECRET}/api/tags HTTP/9.x\r\n{HEAD}\r\n",
    "URL of 100 KB": f"GET /k/{SECRET}/{'a' * 100_000} HTTP/1.1\r\n{HEAD}\r\n",
    "header of 100 KB": f"GET / HTTP/1.1\r\n{HEAD}X-Long: {SECRET * 2_500}\r\n\r\n",
    "control byte in Authorization": (
        f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\x01\r\n\r\n"
    ),
    "foreign credential": (
        f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {BODY}\x01{BODY}\r\n\r\n"
    ),
    "header without a name": f"GET / HTTP/1.1\r\n{HEAD}: {SECRET}\r\n\r\n",
    "header without a colon": f"GET / HTTP/1.1\r\n{HEAD}x-api-key {SECRET}\r\n\r\n",
    "two lengths": (
        f"POST /k/{SECRET} HTTP/1.1\r\n{HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\n{PROMPT}"
    ),
    "length that is no number": (
        f"POST / HTTP/1.1\r\n{HEAD}Content-Length: {SECRET}\r\n\r\n{PROMPT}"
    ),
    "percent-encoded key": (f"GET /k/{SECRET.replace('_', '%5F')}/api\x01 HTTP/1.1\r\n{HEAD}\r\n"),
}
ODD = {
    "no version, which is HTTP/0.9": f"GET /k/{SECRET}/api/tags\r\n{HEAD}\r\n",
    "method that is a key": f"{SECRET} / HTTP/1.1\r\n{HEAD}\r\n",
    "TLS on this port": "\x16\x03\x01\x02\x00\x01" + SECRET,
    "bad host": f"GET / HTTP/1.1\r\nHost: [::{SECRET}\r\nAuthorization: Bearer {SECRET}\r\n\r\n",
    "absolute URL with a bad port": f"GET http://a:{SECRET}/ HTTP/1.1\r\n{HEAD}\r\n",
    "bad percent encoding": f"GET /k/{SECRET}/%zz%ff HTTP/1.1\r\n{HEAD}\r\n",
    "broken chunk": (
        f"POST /k/{SECRET} HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n{SECRET}\r\n{PROMPT}"
    ),
    "handler that fails": f"GET /fails/{SECRET} HTTP/1.1\r\n{HEAD}\r\n",
}

Send = Callable[[str], Any]


@pytest.fixture
def configured(buffer: io.BytesIO, standard_loggers: None) -> None:
    """The log as the service has it, at its most talkative."""
    configure(level="debug", log_format="json", lines=LineWriter(buffer))


@pytest.fixture
async def send() -> AsyncIterator[Send]:
    """Sends raw bytes to a small aiohttp server and waits until it has closed the connection."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if request.path.startswith("/fails/"):
            raise ValueError(f"cannot serve {request.path} of {request.headers}")
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(app, debug=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def deliver(raw: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw.encode("latin-1"))
        writer.write_eof()
        completed = await reader.read()
        writer.close()
        return completed

    yield deliver
    await runner.cleanup()


def assert_no_secret_in(text: str) -> None:
    assert BODY not in text
    assert BODY[16:] not in text
    assert "walrus" not in text


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("what", UNPARSABLE)
async def test_an_unreadable_request_leaves_one_constant_line(
    what: str,
    send: Send,
    buffer: io.BytesIO,
    lines: Callable[[], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No bytes of it, no traceback, no address; and other handlers get no more than ours."""
    await send(UNPARSABLE[what])

    logged = [line for line in lines() if line["logger"] == "aiohttp.server"]
    assert [(line["level"], line["event"]) for line in logged] == [("warning", UNREADABLE)]
    assert "exception" not in logged[0]
    assert_no_secret_in(buffer.getvalue().decode())
    assert_no_secret_in(caplog.text)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("what", ODD)
async def test_an_odd_request_leaves_no_key_in_the_log(
    what: str,
    send: Send,
    buffer: io.BytesIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever aiohttp makes of it: a line, an access line, or nothing at all."""
    await send(ODD[what])

    assert_no_secret_in(buffer.getvalue().decode())
    assert_no_secret_in(caplog.text)


@pytest.mark.usefixtures("configured")
async def test_a_failing_handler_is_logged_with_its_traceback(
    send: Send, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    """Only what could not be read is replaced; a bug remains readable."""
    await send(ODD["handler that fails"])

    (logged,) = [line for line in lines() if line["level"] == "error"]
    assert "ValueError: cannot serve /fails/[key]" in logged["exception"]


async def test_without_the_filter_the_key_would_be_there(
    send: Send, caplog: pytest.LogCaptureFixture
) -> None:
    """This is why the filter exists: where it is not installed, aiohttp logs the key."""
    await send(UNPARSABLE["control byte in the path"])

    assert SECRET in caplog.text
