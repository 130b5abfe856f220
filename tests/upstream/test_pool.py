"""Connections that are kept, looked at before they are used, and never shared."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from gateway.errors import UpstreamProtocolError, UpstreamUnreachable
from gateway.simulator import Simulator
from gateway.upstream import Upstream
from gateway.upstream.pool import MAX_IDLE

from .asking import GET, POST, ask, timeouts, upstream_at
from .scripted import OK, Line, Scripted


@pytest.fixture
async def upstream(server: Scripted) -> AsyncIterator[Upstream]:
    async with upstream_at(server.url) as upstream:
        yield upstream


async def unreachable(url: URL, *, connect_timeout: float = 5.0) -> str:
    """What a caller is told of an Ollama at ``url``."""
    async with upstream_at(url) as upstream:
        with pytest.raises(UpstreamUnreachable) as caught:
            await ask(upstream, connect_timeout=connect_timeout)
    return caught.value.message


# Reuse.


async def test_many_calls_share_one_connection(server: Scripted, upstream: Upstream) -> None:
    """One after another, each with its own request."""
    for _ in range(20):
        assert await ask(upstream) == (200, b"ok")

    assert (server.connections, len(server.requests)) == (1, 20)
    assert repr(upstream.pool) == "<Pool 0 lent, 1 idle>"


async def test_calls_at_once_never_share_a_connection(server: Scripted, upstream: Upstream) -> None:
    """As many connections as calls; they are kept for later, within bounds."""
    together = MAX_IDLE + 4
    barrier = asyncio.Barrier(together)

    async def script(line: Line) -> None:
        await server.heard(line)
        await barrier.wait()
        await line.send(OK)
        await line.gone()

    server.script = script
    answers = await asyncio.gather(*[ask(upstream) for _ in range(together)])

    assert answers == [(200, b"ok")] * together
    assert server.connections == together
    assert repr(upstream.pool) == f"<Pool 0 lent, {MAX_IDLE} idle>"


async def test_the_last_used_connection_is_used_first(server: Scripted, upstream: Upstream) -> None:
    """The others may close of old age."""
    async with upstream.open(POST, timeouts()) as one, upstream.open(POST, timeouts()) as other:
        await one.read()
        await other.read()
    for _ in range(3):
        await ask(upstream)

    assert (server.connections, len(server.requests)) == (2, 5)


async def test_leaving_the_pool_closes_everything(server: Scripted) -> None:
    """Idle and lent alike: Ollama does not work on for a gateway that has gone."""
    both = asyncio.Barrier(3)

    async def script(line: Line) -> None:
        head, _ = await line.request()
        await line.send(OK if head.startswith("GET") else b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await both.wait()
        await line.gone()
        await both.wait()

    server.script = script
    upstream = Upstream(server.url, version="test")
    async with upstream.pool:
        first, second = upstream.open(GET, timeouts()), upstream.open(POST, timeouts())
        await asyncio.gather(first.__aenter__(), second.__aenter__(), both.wait())
        await first.__aexit__(None, None, None)
        assert repr(upstream.pool) == "<Pool 1 lent, 1 idle>"
    async with asyncio.timeout(5):
        await both.wait()
    await second.__aexit__(None, None, None)

    assert repr(upstream.pool) == "<Pool 0 lent, 0 idle>"


# What Ollama closed meanwhile.


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("seen", [False, True])
async def test_a_connection_closed_meanwhile_is_noticed_before_it_is_used(
    server: Scripted, upstream: Upstream, reset: bool, seen: bool
) -> None:
    """Also when the event loop has not looked since: the kernel knows. No request is lost."""
    lines: list[Line] = []

    async def script(line: Line) -> None:
        lines.append(line)
        while True:
            await server.heard(line)
            await line.send(OK)

    server.script = script
    await ask(upstream)
    # Not through a transport, which would close it only in a later turn of the loop.
    fd = lines[0].writer.get_extra_info("socket").fileno()
    with socket.socket(fileno=socket.dup(fd)) as sock:
        if reset:
            sock.sendall(b"unasked")
        else:
            sock.shutdown(socket.SHUT_RDWR)
    if seen:
        await asyncio.sleep(0.01)

    assert await ask(upstream) == (200, b"ok")
    assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_restart_between_two_calls_is_noticed_by_neither() -> None:
    """Same port, new process: the second call gets a new connection and its answer."""
    async with Simulator(time_scale=0) as sim, upstream_at(URL(sim.url)) as upstream:
        first = await ask(upstream, GET)
        await sim.restart()
        second = await ask(upstream, GET)

        assert first == second
        assert sim.stats.connections == 2
        assert sim.stats.requests["/api/tags"] == 2


async def test_all_idle_connections_may_have_been_closed(
    server: Scripted, upstream: Upstream
) -> None:
    """They are thrown away one after another until none is left."""
    for _ in range(2):
        await asyncio.gather(*[ask(upstream) for _ in range(5)])
        await _close_all(server)

    assert await ask(upstream) == (200, b"ok")
    assert repr(upstream.pool) == "<Pool 0 lent, 1 idle>"


async def _close_all(server: Scripted) -> None:
    for task in list(server._tasks):
        task.cancel()
    await asyncio.gather(*server._tasks, return_exceptions=True)


async def test_a_request_is_never_sent_twice(server: Scripted, upstream: Upstream) -> None:
    """A connection that closes under a request fails it, new or reused: the work may have begun."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(OK)
        await server.heard(line)
        line.close()

    server.script = script
    await ask(upstream)
    with pytest.raises(UpstreamProtocolError):
        await ask(upstream)

    assert (server.connections, len(server.requests)) == (1, 2)


# Not reachable.


async def test_a_refused_connection_is_told_with_what_to_do(server: Scripted) -> None:
    """Nothing was sent; and no address of the host is told."""
    await server.stop()
    message = await unreachable(server.url)

    assert "(connection refused)" in message
    assert "ollama serve" in message
    assert "127.0.0.1" not in message


async def test_a_host_that_does_not_answer_is_given_up_in_time() -> None:
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

    assert "(no answer within 0.2 s)" in message


async def test_a_name_that_does_not_resolve_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is unknown or cannot be a name at all."""

    async def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's cannot be replaced
        monkeypatch.setattr(loop, "getaddrinfo", nobody)

        assert "(its name does not resolve)" in await unreachable(URL("http://ollama.invalid:1"))

    assert "(its name does not resolve)" in await unreachable(URL("http://a..b:1"))


async def test_several_addresses_of_which_none_accepts_are_told_in_words(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
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


async def test_a_cancelled_connect_leaves_nothing_behind(server: Scripted) -> None:
    """The caller left before there was anything to leave."""
    async with upstream_at(server.url) as upstream:
        asking = asyncio.get_running_loop().create_task(ask(upstream))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        assert repr(upstream.pool) == "<Pool 0 lent, 0 idle>"


# Other ways to be there.


async def test_ipv6_works_and_says_so_in_its_host() -> None:
    """``[::1]`` is a host, too."""
    async with Scripted(host="::1") as server, upstream_at(server.url) as upstream:
        assert await ask(upstream) == (200, b"ok")
        assert f"Host: [::1]:{server.url.port}\r\n" in server.requests[0][0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody but itself has signed, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subprocess.run(
        ["openssl", "req", *options.split(), "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


async def test_a_certificate_that_nobody_vouches_for_is_refused_in_clear_words(
    certificate: Path,
) -> None:
    """Nothing is sent to whoever that is."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with Scripted(tls=tls) as server:
        message = await unreachable(server.url)

        assert "(its TLS certificate is not trusted on this machine)" in message
        assert server.requests == []


async def test_a_server_without_tls_is_told_apart(server: Scripted) -> None:
    """``https://`` in front of a plain Ollama."""

    async def script(line: Line) -> None:
        await line.reader.read(1)
        await line.send(b"HTTP/1.0 400 Bad Request\r\n\r\nthis is not TLS")
        await line.gone()

    server.script = script

    assert "(TLS failed)" in await unreachable(server.url.with_scheme("https"))
