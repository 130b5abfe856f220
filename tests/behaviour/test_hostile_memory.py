"""Memory and slots: what clients can make the gateway keep is bounded, whatever they send."""

import asyncio
import contextlib
import resource
import socket
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from gateway.auth.keys import Principal, Scope
from gateway.dialects import OLLAMA
from gateway.errors import InvalidRequestBody, TuningNotAllowed
from gateway.proxy.request import parse_request
from gateway.simulator import Fault, SimulatedModel, Simulator
from tests.behaviour.process import Home
from tests.behaviour.raw_ollama import complete, raw_ollama
from tests.behaviour.wire import RawClient, request
from tests.conftest import left_empty
from tests.harness import Running, running

PATH = "/v1/chat/completions"
MODEL = "llama3.2:1b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": False}
PAGE = resource.getpagesize()
MIB = 1 << 20


@contextlib.asynccontextmanager
async def slow_client(port: int) -> AsyncIterator[RawClient]:
    """A client whose kernel buffers little and whose program takes what the test reads."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    reader, writer = await asyncio.open_connection(sock=sock, limit=8 * 1024)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


async def until_idle(gateway: Running) -> None:
    """Wait until no slot is used, whichever client still reads."""
    async with asyncio.timeout(5):
        while not gateway.gateway.host.scheduler.idle:  # noqa: ASYNC110  - no event for tests
            await asyncio.sleep(0.002)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def upload(port: int, key: str, size: int, chunked: bool, outcomes: list[bytes]) -> None:
    """One client with a large body, in its own thread; its status goes to ``outcomes``."""
    body = b'{"model":"%b","max_tokens":4,"messages":[{"role":"user",' % (MODEL.encode())
    body += b'"content":"' + b"x" * size + b'"}]}'
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        with contextlib.suppress(OSError):  # a rejected client may be disconnected in the middle
            sock.sendall(head % (PATH.encode(), key.encode(), framing))
            if chunked:
                for at in range(0, len(body), MIB // 4):
                    piece = body[at : at + MIB // 4]
                    sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                sock.sendall(b"0\r\n\r\n")
            else:
                sock.sendall(body)
        outcomes.append(_status(sock))


def _status(sock: socket.socket) -> bytes:
    """A rejected client that goes on sending may lose the response to TCP: ``aborted``."""
    try:
        return sock.recv(1 << 16).split()[1]
    except (ConnectionError, IndexError):
        return b"aborted"


@pytest.mark.parametrize("chunked", [False, True])
async def test_64_large_bodies_stay_within_the_memory_limit(
    sim: Simulator, tmp_path: Path, chunked: bool
) -> None:
    """Those that fit wait and are served, the others get 503, as with 20 MB each and 512 MiB."""
    clients, size, limit = 64, 4 * MIB, 100 * MIB
    home, outcomes = Home(tmp_path), list[bytes]()
    key = home.key("one")
    settings = {
        "GATEWAY_SCHEDULER__MAX_QUEUED_PER_KEY": str(clients),
        "GATEWAY_LIMITS__BODY_BYTES": str(2 * size),
        "GATEWAY_LIMITS__BUFFERED_BYTES": str(limit),
    }
    fit = limit // (size + 100)
    with home.serves(sim.url, **settings) as process, sim.hold() as hold:
        # The uploads keep this process busy, and the simulated Ollama with it.
        await process.until(lambda: bool(process.log("upstream.up")))
        before = resident(process.popen.pid)
        threads = [
            threading.Thread(target=upload, args=(process.port, key, size, chunked, outcomes))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        peak = 0

        def most_have_ended() -> bool:
            nonlocal peak
            peak = max(peak, resident(process.popen.pid))
            return len(outcomes) + fit >= clients

        await process.until(most_have_ended)
        hold.release(1_000_000)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        most_have_ended()

    counted = Counter(outcomes)
    assert set(counted) <= {b"200", b"503", b"aborted"}
    # Chunks declare no size, so some may reserve memory and lose it before they are complete.
    assert counted[b"200"] == fit or (chunked and 0 < counted[b"200"] <= fit)
    # Besides the limit: what each connection reads ahead, and one body while it is rebuilt.
    assert peak - before <= limit + clients * 3 * MIB // 4 + 3 * size


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_finished_response_frees_the_slot_while_a_slow_client_reads(
    tmp_path: Path, framing: str, loop: object
) -> None:
    """12 MB, of which the client has read a few KB when the next request is served; Ollama declares
    no length above 2 KB.
    """
    text = b'{"choices":[{"finish_reason":"stop","message":{"content":"%b"}}]}' % (
        b"x" * 12_000_000
    )
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunked = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)

    async def scene() -> None:
        first = complete(text) if framing == "length" else chunked
        async with (
            raw_ollama(first, complete()) as ollama,
            running(ollama.url, tmp_path) as gateway,
        ):
            async with slow_client(gateway.port) as slow:
                slow.send(request(PATH, CHAT, headers=gateway.bearer))
                head = await slow.head()
                await until_idle(gateway)
                reserved = gateway.gateway.handler.memory_budget.used
                async with slow_client(gateway.port) as next_one:
                    next_one.send(request(PATH, CHAT, headers=gateway.bearer))
                    assert (await next_one.response()).status == 200
                body, ended = await slow._body(head[1], "POST")

            assert (head[0], body == text, ended) == (200, True, True)
            assert reserved > 6_000_000  # unread bytes count, as bodies of requests do
            await left_empty(gateway)
            assert gateway.gateway.handler.memory_budget.used == 0

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]  # either factory
        runner.run(scene())


@pytest.mark.parametrize("room", [True, False])
async def test_without_memory_ollama_waits_for_a_slow_client(tmp_path: Path, room: bool) -> None:
    """Read-ahead ends at the memory limit; nothing is lost."""
    limits = {"body_bytes": 1 * MIB, "buffered_bytes": (20 if room else 2) * MIB}
    text = b'"' + b"x" * 12_000_000 + b'"'
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    first = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
    async with (
        raw_ollama(first) as ollama,
        running(ollama.url, tmp_path, limits=limits) as gateway,
        slow_client(gateway.port) as slow,
    ):
        slow.send(request(PATH, CHAT, headers=gateway.bearer))
        _, headers = await slow.head()
        if room:
            await until_idle(gateway)
        else:
            assert not gateway.gateway.host.scheduler.idle
        body, ended = await slow._body(headers, "POST")

    assert (body == text, ended) == (True, True)


async def test_client_that_reads_nothing_times_out_and_frees_its_memory(
    sim: Simulator, tmp_path: Path
) -> None:
    """After `write_timeout`; the slot was free long before."""
    async with running(sim.url, tmp_path, timeouts={"write_timeout": 0.3}) as gateway:
        sim.fault(Fault.huge(12_000_000))
        async with slow_client(gateway.port) as slow:
            slow.send(request(PATH, CHAT, headers=gateway.bearer))
            await slow.head()
            await until_idle(gateway)
            assert gateway.log("request.finished") == []
            (line,) = await gateway.finished()

        assert line["outcome"] == "client_write_timeout"
        assert gateway.gateway.handler.memory_budget.used == 0
        await left_empty(gateway)


async def test_large_discovery_responses_count_in_the_budget(tmp_path: Path) -> None:
    """A discovery key may be part of a URL: nothing large can pile up with it."""
    big = SimulatedModel(MODEL, "1.2B", 1, license="x" * (8 * MIB))
    limits = {"body_bytes": 8 * MIB, "buffered_bytes": 20 * MIB}
    async with (
        Simulator([big], time_scale=0) as sim,
        running(sim.url, tmp_path, limits=limits) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        show = request(f"/k/{gateway.discovery}/api/show", {"model": MODEL, "verbose": True})
        statuses = []
        for _ in range(10):
            client = await stack.enter_async_context(slow_client(gateway.port))
            client.send(show)
            statuses.append((await client.head())[0])

        assert statuses == [200, 200, *[503] * 8]
        assert gateway.gateway.handler.memory_budget.used <= limits["buffered_bytes"]


@pytest.mark.parametrize(
    ("path", "before", "piece", "after"),
    [
        ("/api/chat", b'{"model":"m","messages":[', b"0,", b"0]}"),
        ("/api/chat", b'{"model":"m","messages":[{}],"tools":[', b"{},", b"{}]}"),
        ("/api/chat", b'{"model":"m","messages":[{}],"tools":[', b"null,", b"null]}"),
        ("/api/chat", b'{"model":"m","messages":[{}],"options":{', b'"":0,', b'"":0}}'),
        ("/api/embed", b'{"model":"m","input":[', b'"",', b'""]}'),
        ("/api/generate", b'{"model":"m","prompt":', b" ", b'""}'),
        ("/api/chat", b'{"model":"m","messages":[', b" ", b"]}"),
    ],
)
def test_parsing_does_not_multiply_a_body(
    path: str, before: bytes, piece: bytes, after: bytes
) -> None:
    """Millions of small values are matched or rejected, not made into objects."""
    size = 4 * MIB
    body = before + piece * (size // len(piece)) + after
    principal = Principal(key="k", scopes=frozenset({Scope.INFERENCE}))
    tracemalloc.start()
    try:
        parsed = parse_request(body, path=path, dialect=OLLAMA, principal=principal)
        parsed.body_for("m")
    except (InvalidRequestBody, TuningNotAllowed):
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 2 * size
