"""Requests as Ollama sees them; connections that are kept, checked before use, never shared."""

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from yarl import URL

from gateway.errors import UpstreamProtocolError, UpstreamUnreachable
from gateway.simulator import Simulator
from gateway.upstream import Outgoing, Probes, Upstream, client
from gateway.upstream.client import MAX_IDLE

from .requests import GET, POST, deadlines, fetch, upstream_at
from .scripted import OK, ScriptedServer, ServerSide

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


# What is sent.


async def test_a_post_carries_our_headers_and_nothing_else(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """``Host`` is Ollama's own address: bound to loopback it refuses others."""
    await fetch(upstream, POST)

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


async def test_a_get_has_no_body(server: ScriptedServer, upstream: Upstream) -> None:
    """And says nothing about one."""
    await fetch(upstream, GET)
    head, body = server.requests[0]

    assert head.startswith("GET /api/tags HTTP/1.1\r\n")
    assert "Content-" not in head
    assert body == b""


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 5_000_000])
async def test_a_body_arrives_as_it_is(
    server: ScriptedServer, upstream: Upstream, size: int
) -> None:
    """Small ones travel with the head, large ones behind it."""
    body = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)
    await fetch(upstream, Outgoing("POST", "/api/chat", body[:size]))

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
    rendered = Upstream(URL(url), version="test").head(GET).decode()

    assert f"\r\nHost: {host}\r\n" in rendered


# What comes back.


@pytest.mark.parametrize("status", [301, 302, 304, 307])
async def test_a_redirect_is_an_error(
    server: ScriptedServer, upstream: Upstream, status: int
) -> None:
    """It is never followed, and its connection not used again."""
    server.respond_with(
        f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:1/\r\n"
        "Content-Length: 0\r\n\r\n".encode()
    )
    with pytest.raises(UpstreamProtocolError, match="redirects elsewhere"):
        await fetch(upstream)

    assert len(server.requests) == 1
    assert repr(upstream).startswith("<Upstream 0 in use")


async def test_the_head_is_available_before_the_body(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """A stream begins when it begins."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(STREAM.replace(b"\r\n\r\n", b"\r\nContent-Type: text/x\r\n\r\n"))
        await opened.wait()
        await side.send(b"2\r\nok\r\n0\r\n\r\n")
        await side.closed()

    opened = asyncio.Event()
    server.script = script
    async with upstream.open(POST, deadlines()) as reply:
        assert (reply.status, reply.header("content-type")) == (200, "text/x")
        assert (reply.first_byte_at, reply.content_length) == (None, None)

        opened.set()
        assert await reply.read() == b"ok"


async def test_every_chunk_can_be_read_at_once(server: ScriptedServer, upstream: Upstream) -> None:
    """The server sends the next one only when the last one was read here."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(STREAM)
        for number in range(5):
            await side.send(b"1\r\n%d\r\n" % number)
            await read.wait()
            read.clear()
        await side.send(b"0\r\n\r\n")
        await side.closed()

    read = asyncio.Event()
    server.script = script
    async with upstream.open(POST, deadlines()) as reply:
        for number in range(5):
            assert await reply.read() == b"%d" % number
            read.set()

        assert await reply.read() == b""


async def test_a_list_that_is_far_too_long_is_an_error(
    server: ScriptedServer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes are small; they cannot fill the memory."""
    monkeypatch.setattr(client, "MAX_FETCH_BYTES", 1000)
    server.respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))
    with pytest.raises(UpstreamProtocolError, match="far too long"):
        await fetch(upstream)


async def test_a_failed_probe_names_its_status_and_path(server: ScriptedServer) -> None:
    """The owner reads in it what is wrong with ``ollama.url``."""
    server.respond_with(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    async with upstream_at(server.url) as upstream:
        with pytest.raises(UpstreamProtocolError, match="answered 403 to /api/tags"):
            await Probes(upstream).tags()


# Leaving.


async def test_leaving_an_incomplete_response_closes_the_connection(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """Ollama stops generating when its client's connection goes."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(STREAM + b"4\r\nhalf\r\n")
        await side.closed()
        gone.set()

    gone = asyncio.Event()
    server.script = script
    async with upstream.open(POST, deadlines()) as reply:
        await reply.read()
    async with asyncio.timeout(1):
        await gone.wait()

    assert repr(upstream) == "<Upstream 0 in use, 0 idle>"


@pytest.mark.parametrize("moment", ["sent", "headed", "streaming", "flooding"])
async def test_a_cancellation_closes_the_connection_at_any_moment(
    server: ScriptedServer, upstream: Upstream, moment: str
) -> None:
    """Before the head, before the first byte, between two, and while we hold Ollama back."""
    responses = {
        "sent": b"",
        "headed": STREAM,
        "streaming": STREAM + b"4\r\nhalf\r\n",
        "flooding": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(1 << 20),
    }

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        side.writer.write(responses[moment])
        there.set()
        await side.closed()
        gone.set()

    there, gone = asyncio.Event(), asyncio.Event()
    server.script = script
    fetching = asyncio.get_running_loop().create_task(fetch(upstream))
    async with asyncio.timeout(5):
        await there.wait()
        await asyncio.sleep(0.01)  # let it get as far as it can
        fetching.cancel()
        await gone.wait()

    assert isinstance((await asyncio.gather(fetching, return_exceptions=True))[0], BaseException)
    assert repr(upstream) == "<Upstream 0 in use, 0 idle>"


async def test_leaving_a_complete_response_keeps_the_connection(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """A complete response is complete even if it was not read."""
    async with upstream.open(POST, deadlines()) as reply:
        await reply.read()
    async with upstream.open(POST, deadlines()) as reply:
        assert reply.complete

    assert server.connections == 1


async def unreachable(url: URL, *, connect_timeout: float = 5.0) -> str:
    """Return the message about an Ollama at ``url``."""
    async with upstream_at(url) as upstream:
        with pytest.raises(UpstreamUnreachable) as caught:
            await fetch(upstream, connect=connect_timeout)
    return caught.value.message


# Reuse.


async def test_requests_one_after_another_share_one_connection(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """One after another, each with its own request."""
    for _ in range(20):
        assert await fetch(upstream) == (200, b"ok")

    assert (server.connections, len(server.requests)) == (1, 20)
    assert repr(upstream) == "<Upstream 0 in use, 1 idle>"


async def test_concurrent_requests_never_share_a_connection(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """As many connections as calls; they are kept for later, within bounds."""
    together = MAX_IDLE + 4
    barrier = asyncio.Barrier(together)

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await barrier.wait()
        await side.send(OK)
        await side.closed()

    server.script = script
    responses = await asyncio.gather(*[fetch(upstream) for _ in range(together)])

    assert responses == [(200, b"ok")] * together
    assert server.connections == together
    assert repr(upstream) == f"<Upstream 0 in use, {MAX_IDLE} idle>"


async def test_the_last_used_connection_is_used_first(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """The others may close of old age."""
    async with upstream.open(POST, deadlines()) as one, upstream.open(POST, deadlines()) as other:
        await one.read()
        await other.read()
    for _ in range(3):
        await fetch(upstream)

    assert (server.connections, len(server.requests)) == (2, 5)


async def test_closing_the_client_closes_all_connections(server: ScriptedServer) -> None:
    """Idle or in use: Ollama must not work on for a gateway that has gone."""
    both = asyncio.Barrier(3)

    async def script(side: ServerSide) -> None:
        head, _ = await side.request()
        await side.send(OK if head.startswith("GET") else b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await both.wait()
        await side.closed()
        await both.wait()

    server.script = script
    upstream = Upstream(server.url, version="test")
    async with upstream:
        first, second = upstream.open(GET, deadlines()), upstream.open(POST, deadlines())
        await asyncio.gather(first.__aenter__(), second.__aenter__(), both.wait())
        await first.__aexit__(None, None, None)
        assert repr(upstream) == "<Upstream 1 in use, 1 idle>"
    async with asyncio.timeout(5):
        await both.wait()
    await second.__aexit__(None, None, None)

    assert repr(upstream) == "<Upstream 0 in use, 0 idle>"


# What Ollama closed meanwhile.


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("seen", [False, True])
async def test_a_connection_closed_meanwhile_is_noticed_before_it_is_used(
    server: ScriptedServer, upstream: Upstream, reset: bool, seen: bool
) -> None:
    """Also when the event loop has not looked since: the kernel knows. No request is lost."""
    lines: list[ServerSide] = []

    async def script(side: ServerSide) -> None:
        lines.append(side)
        while True:
            await server.receive(side)
            await side.send(OK)

    server.script = script
    await fetch(upstream)
    # Not through a transport, which would close it only in a later turn of the loop.
    fd = lines[0].writer.get_extra_info("socket").fileno()
    with socket.socket(fileno=socket.dup(fd)) as sock:
        if reset:
            sock.sendall(b"unasked")
        else:
            sock.shutdown(socket.SHUT_RDWR)
    if seen:
        await asyncio.sleep(0.01)

    assert await fetch(upstream) == (200, b"ok")
    assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_restart_of_ollama_between_two_requests_fails_neither() -> None:
    """Same port, new process: the second request gets a new connection and its response."""
    async with Simulator(time_scale=0) as sim, upstream_at(URL(sim.url)) as upstream:
        first = await fetch(upstream, GET)
        await sim.restart()
        second = await fetch(upstream, GET)

        assert first == second
        assert sim.stats.connections == 2
        assert sim.stats.requests["/api/tags"] == 2


async def test_a_new_connection_is_made_if_all_idle_ones_were_closed(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """They are thrown away one after another until none is left."""
    for _ in range(2):
        await asyncio.gather(*[fetch(upstream) for _ in range(5)])
        await _close_all(server)

    assert await fetch(upstream) == (200, b"ok")
    assert repr(upstream) == "<Upstream 0 in use, 1 idle>"


async def _close_all(server: ScriptedServer) -> None:
    for task in list(server._tasks):
        task.cancel()
    await asyncio.gather(*server._tasks, return_exceptions=True)


async def test_a_request_is_never_sent_twice(server: ScriptedServer, upstream: Upstream) -> None:
    """A connection that closes during a request fails it: the work may have begun."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(OK)
        await server.receive(side)
        side.close()

    server.script = script
    await fetch(upstream)
    with pytest.raises(UpstreamProtocolError):
        await fetch(upstream)

    assert (server.connections, len(server.requests)) == (1, 2)


# Not reachable.


async def test_a_refused_connection_is_reported_with_a_remedy(server: ScriptedServer) -> None:
    """Nothing was sent, and the message names no address of the host."""
    await server.stop()
    message = await unreachable(server.url)

    assert "(connection refused)" in message
    assert "ollama serve" in message
    assert "127.0.0.1" not in message


async def test_a_silent_host_is_unreachable_after_the_connect_timeout() -> None:
    """A full backlog is how a loopback port is silent."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        address = silent.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        message = await unreachable(URL(f"http://127.0.0.1:{address[1]}"), connect_timeout=0.2)
        for one in waiting:
            one.close()

    assert "(no response within 0.2 s)" in message


async def test_a_name_that_does_not_resolve_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is unknown or cannot be a name at all."""

    async def unresolvable(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's cannot be replaced
        monkeypatch.setattr(loop, "getaddrinfo", unresolvable)

        assert "(its name does not resolve)" in await unreachable(URL("http://ollama.invalid:1"))

    assert "(its name does not resolve)" in await unreachable(URL("http://a..b:1"))


async def test_several_refusing_addresses_are_reported_in_words(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``localhost`` is two addresses, each of which fails in its own way."""
    await server.stop()
    port = server.url.port

    async def two(*_: object, **__: object) -> list[object]:
        kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET, *kind, ("127.0.0.1", port)),
            (socket.AF_INET, *kind, ("127.0.0.2", port)),
        ]

    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):
        monkeypatch.setattr(loop, "getaddrinfo", two)
    message = await unreachable(URL(f"http://localhost:{port}"))

    assert "(it accepts no connection)" in message or "(connection refused)" in message
    assert "127.0.0" not in message


async def test_a_cancelled_connect_leaves_no_connection(server: ScriptedServer) -> None:
    """The client left before there was a connection."""
    async with upstream_at(server.url) as upstream:
        fetching = asyncio.get_running_loop().create_task(fetch(upstream))
        await asyncio.sleep(0)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)

        assert repr(upstream) == "<Upstream 0 in use, 0 idle>"


# Other ways to be there.


async def test_ipv6_addresses_work() -> None:
    """``[::1]`` is a host, too."""
    async with ScriptedServer(host="::1") as server, upstream_at(server.url) as upstream:
        assert await fetch(upstream) == (200, b"ok")
        assert f"Host: [::1]:{server.url.port}\r\n" in server.requests[0][0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subprocess.run(
        ["openssl", "req", *options.split(), "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


async def test_an_untrusted_certificate_is_refused(
    certificate: Path,
) -> None:
    """Nothing is sent to such a server."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with ScriptedServer(tls=tls) as server:
        message = await unreachable(server.url)

        assert "(its TLS certificate is not trusted on this machine)" in message
        assert server.requests == []


async def test_a_server_without_tls_is_reported_as_such(server: ScriptedServer) -> None:
    """``https://`` in front of a plain Ollama."""

    async def script(side: ServerSide) -> None:
        await side.reader.read(1)
        await side.send(b"HTTP/1.0 400 Bad Request\r\n\r\nthis is not TLS")
        await side.closed()

    server.script = script

    assert "(TLS failed)" in await unreachable(server.url.with_scheme("https"))
