"""The behaviour of a simulated tunnel, seen by a client on one side and a target on the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from gateway.simulator import Simulator
from tests.behaviour.wire import RawClient, fetch, raw_client, request
from tests.simulated_tunnel import CALLER, Tunnel, TunnelBehaviour
from tests.simulator.calls import CHAT, chat, request_json
from tests.simulator.target import CHUNKED, END, ReceivedRequest, Target, chunk, head

TEXT = "Content-Type: text/plain"
STREAM = "Content-Type: text/event-stream; charset=utf-8"

SHORT = 0.3
"""Seconds of a timeout that is meant to expire."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A client, a tunnel and a target that has received the client's request."""

    tunnel: Tunnel
    target: Target
    one: RawClient
    asked: ReceivedRequest


@asynccontextmanager
async def connected_through(
    behaviour: TunnelBehaviour, sent: bytes = b""
) -> AsyncIterator[Connected]:
    """Connect client, tunnel and target. At the end no request is in flight in the tunnel."""
    async with Target() as target, Tunnel(target.port, behaviour) as tunnel:
        async with raw_client(tunnel.port) as one:
            one.send(sent or request("/x", b"{}"))
            yield Connected(tunnel, target, one, await target.next_request())
        await tunnel.wait_for(lambda: tunnel.stats.active == 0)


PLAIN = TunnelBehaviour()
REWRITES_HOST = TunnelBehaviour(host="")
"""Ollama refuses a ``Host`` that is not this machine's."""


# Transparent forwarding.


async def test_ollama_behaves_the_same_behind_a_tunnel() -> None:
    """Complete responses, streams, errors and lists are the same with and without the tunnel."""
    async with Simulator(time_scale=0) as sim, Tunnel(sim.url, REWRITES_HOST) as tunnel:
        whole = await fetch(tunnel.port, CHAT, chat("SAY: all is well"))
        stream = await fetch(tunnel.port, CHAT, chat("SAY: all is well", stream=True))
        wrong = await fetch(tunnel.port, CHAT, chat(model="nope"))
        listed = await fetch(tunnel.port, "/api/tags")
        direct = await request_json(sim, "/api/tags")

    assert whole.json()["choices"][0]["message"]["content"] == "all is well"
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert (stream.headers["transfer-encoding"], stream.complete) == ("chunked", True)
    assert wrong.status == 404
    assert listed.json() == direct
    assert repr(tunnel).startswith("<Tunnel 4 requests, 0 active, 4 passed, 0 aborted silent")


async def test_client_connection_is_reused() -> None:
    """Requests may be pipelined on one connection."""
    async with (
        Simulator(time_scale=0) as sim,
        Tunnel(sim.port, REWRITES_HOST) as tunnel,
        raw_client(tunnel.port) as one,
    ):
        one.send(request("/api/version") + request("/", method="HEAD"))
        first, second = await one.response(), await one.response("HEAD")
        one.send(request(CHAT, chat("SAY: yes")))
        third = await one.response()

    assert [first.status, second.status, third.status] == [200, 200, 200]
    assert tunnel.stats.passed == 3


async def test_chunks_are_forwarded_immediately() -> None:
    """Without buffering the head, each chunk and the end are forwarded as they arrive."""
    async with connected_through(PLAIN) as way:
        way.asked.send(head(TEXT, CHUNKED))
        status, headers = await way.one.head()
        seen = []
        for piece in (b"one", b"two"):
            way.asked.send(chunk(piece))
            seen.append(await way.one.chunk())
        way.asked.send(END)
        seen.append(await way.one.chunk())

    assert (status, headers["content-type"]) == (200, "text/plain")
    assert seen == [b"one", b"two", b""]


async def test_hop_by_hop_headers_are_not_forwarded() -> None:
    """This holds for requests and responses; a chunked request body gets a length."""
    sent = (
        b"POST /x HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b"Transfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n" + chunk(b"ab") + chunk(b"cd") + END
    )
    async with connected_through(PLAIN, sent) as way:
        way.asked.send(
            head("Connection: close, X-Hop", "X-Hop: 1", "X-Kept: 1", "Content-Length: 2")
        )
        way.asked.send(b"ok")
        told = await way.one.response()

    assert way.asked.headers == {"Host": "example.com", "X-Kept": "1", "Content-Length": "4"}
    assert way.asked.body == b"abcd"
    assert told.headers == {"x-kept": "1", "content-length": "2"}


async def test_expect_100_continue_is_answered_by_the_tunnel() -> None:
    """The tunnel sends ``100 Continue`` itself; the target's is not forwarded."""
    sent = request("/x", b"body", headers={"Expect": "100-continue"})
    async with connected_through(PLAIN, sent) as way:
        interim, _ = await way.one.head()
        way.asked.send(b"HTTP/1.1 100 Continue\r\n\r\n" + head("Content-Length: 0"))
        told = await way.one.response()

    assert (interim, told.status) == (100, 200)
    assert "Expect" not in way.asked.headers


async def test_response_delimited_by_close_is_complete() -> None:
    """The client of an HTTP/1.0 target gets a chunked, terminated response."""
    async with connected_through(replace(PLAIN, minor=0)) as way:
        way.asked.send(head(TEXT) + b"all of it")
        way.asked.close()
        told = await way.one.response()

    assert way.asked.line == "POST /x HTTP/1.0"
    assert way.asked.headers["Connection"] == "close"
    assert (told.body, told.complete) == (b"all of it", True)


async def test_responses_without_a_body() -> None:
    """HEAD with a length, and 204 without one, are complete after the head."""
    async with connected_through(PLAIN, request("/x", method="HEAD")) as way:
        way.asked.send(head("Content-Length: 17"))
        length = (await way.one.head())[1]["content-length"]
        way.one.send(request("/x"))
        (await way.target.next_request()).send(head(status="204 No Content"))
        status, headers = await way.one.head()

    assert (length, status) == ("17", 204)
    assert "transfer-encoding" not in headers


# Disconnects.


@pytest.mark.parametrize("begun", [False, True], ids=["silent", "begun"])
async def test_client_disconnect_closes_the_target_connection(begun: bool) -> None:
    """The close is immediate, before and after the first byte of the response."""
    async with connected_through(PLAIN) as way:
        if begun:
            way.asked.send(head(CHUNKED) + chunk(b"x"))
            await way.one.head()
        way.one.writer.close()
        await way.asked.wait_closed()

        await way.tunnel.wait_for(lambda: way.tunnel.stats.disconnected == 1)


async def test_client_disconnect_stops_the_generation() -> None:
    """The simulated Ollama sees the disconnect through the tunnel."""
    async with Simulator(time_scale=0) as sim, Tunnel(sim.url, REWRITES_HOST) as tunnel:
        with sim.hold() as hold:
            async with raw_client(tunnel.port) as one:
                one.send(request(CHAT, chat()))
                await sim.wait_for(lambda: hold.waiting == 1)
            await sim.wait_for(lambda: sim.stats.generations_abandoned == 1)


@pytest.mark.parametrize(
    ("said", "more"),
    [
        (head(CHUNKED) + chunk(b"half"), b""),
        (head("Content-Length: 10") + b"half", b""),
        (head(CHUNKED) + chunk(b"half"), b"!\r\n"),
    ],
    ids=["chunked", "length", "garbage"],
)
async def test_incomplete_response_is_not_terminated(said: bytes, more: bytes) -> None:
    """The client gets the bytes received so far, and no end of the body."""
    async with connected_through(PLAIN) as way:
        way.asked.send(said)
        status, headers = await way.one.head()
        chunked = "transfer-encoding" in headers
        first = await (way.one.chunk() if chunked else way.one.reader.read(4))
        way.asked.send(more)
        way.asked.close()
        rest = await way.one.read_until_closed()

    assert (status, first, rest) == (200, b"half", b"")
    assert way.tunnel.stats.broken == 1


@pytest.mark.parametrize(
    "said", [b"", b"\x16\x03\x01 not HTTP\r\n\r\n"], ids=["nothing", "garbage"]
)
async def test_target_without_a_response_gives_502(said: bytes) -> None:
    """The client's connection can be used again after the 502."""
    async with connected_through(PLAIN) as way:
        way.asked.send(said)
        way.asked.close()
        told = await way.one.response()
        way.one.send(request("/x"))
        (await way.target.next_request()).send(head("Content-Length: 0"))
        after = await way.one.response()

    assert (told.status, told.complete, after.status) == (502, True, 200)


async def test_unreachable_target_gives_502() -> None:
    """A stopped target is reported by a 502."""
    async with Simulator() as sim, Tunnel(sim.url) as tunnel:
        await sim.stop()
        told = await fetch(tunnel.port, "/api/tags")

    assert (told.status, tunnel.stats.broken) == (502, 1)


# Silence timeouts.

TIMEOUT_PROFILES = {
    "cloudflare": (TunnelBehaviour.cloudflare().scaled(SHORT / 100), 524),
    "nginx": (TunnelBehaviour.nginx().scaled(SHORT / 60), 504),
    "haproxy": (TunnelBehaviour.haproxy().scaled(SHORT / 60), 504),
    "ngrok": (TunnelBehaviour.ngrok().scaled(SHORT / 300), 504),
}
every_product = pytest.mark.parametrize("name", TIMEOUT_PROFILES)


@every_product
async def test_silent_target_times_out(name: str) -> None:
    """The client gets a status and can send another request; the target's connection closes."""
    behaviour, status = TIMEOUT_PROFILES[name]
    async with connected_through(behaviour) as way:
        told = await way.one.response()
        await way.asked.wait_closed()
        way.one.send(request("/x"))
        (await way.target.next_request()).send(head("Content-Length: 2") + b"ok")
        after = await way.one.response()

    assert (told.status, told.complete) == (status, True)
    assert told.headers["content-type"].startswith("text/html")
    assert (after.body, way.tunnel.stats.aborted_silent) == (b"ok", 1)


@every_product
async def test_silence_after_the_head_times_out(name: str) -> None:
    """Cloudflare delays the head and can still answer 524. Others have sent the head."""
    behaviour, _ = TIMEOUT_PROFILES[name]
    async with connected_through(behaviour) as way:
        way.asked.send(head(STREAM, CHUNKED))
        status, _ = await way.one.head()
        if name == "cloudflare":
            assert status == 524
        else:
            assert status == 200
            assert await way.one.read_until_closed() == b""
        await way.asked.wait_closed()


@every_product
async def test_silence_in_the_body_aborts_the_response(name: str) -> None:
    """The client's connection closes without the end of the body."""
    behaviour, _ = TIMEOUT_PROFILES[name]
    async with connected_through(behaviour) as way:
        way.asked.send(head(STREAM, CHUNKED, "X-Accel-Buffering: no") + chunk(b"x"))
        status, headers = await way.one.head()
        body, whole = await way.one.rest()
        await way.asked.wait_closed()

    assert (status, body, whole) == (200, b"x", False)
    assert ("x-accel-buffering" in headers) == (name != "nginx")
    assert way.tunnel.stats.aborted_silent == 1


@pytest.mark.parametrize(
    ("behaviour", "said", "extended"),
    [
        (TunnelBehaviour(), head(CHUNKED), False),
        (TunnelBehaviour(head_counts=True), head(CHUNKED), True),
        (TunnelBehaviour(), head(CHUNKED) + chunk(b" "), True),
    ],
    ids=["head", "head that counts", "body"],
)
async def test_which_bytes_reset_the_silence_timeout(
    behaviour: TunnelBehaviour, said: bytes, extended: bool
) -> None:
    """A byte of the body does; the head only with ``head_counts``."""
    silence = 0.8
    async with connected_through(replace(behaviour, silence=silence)) as way:
        await asyncio.sleep(silence * 0.6)
        way.asked.send(said)
        # This timer was set after the tunnel's on the same loop, so it expires later.
        await asyncio.sleep(silence * 0.6)
        for _ in range(50):
            await asyncio.sleep(0)

        assert way.tunnel.stats.aborted_silent == (0 if extended else 1)


async def test_slow_reader_does_not_count_as_silence() -> None:
    """Time spent waiting for the client is not counted."""
    size = 20_000_000
    async with connected_through(replace(PLAIN, silence=SHORT)) as way:
        way.asked.send(head(f"Content-Length: {size}") + bytes(size))
        await asyncio.sleep(2 * SHORT)
        told = await way.one.response()

    assert (len(told.body), told.complete) == (size, True)


async def test_tunnel_timeout_stops_the_generation() -> None:
    """To the simulated Ollama a timeout of the tunnel is a disconnect."""
    behaviour = TunnelBehaviour.cloudflare().scaled(SHORT / 100)
    async with (
        Simulator(time_scale=0) as sim,
        Tunnel(sim.url, replace(behaviour, host="")) as tunnel,
    ):
        with sim.hold():
            told = await fetch(tunnel.port, CHAT, chat())
            await sim.wait_for(lambda: sim.stats.generations_abandoned == 1)

    assert told.status == 524


# Total limit.


async def test_total_limit_aborts_an_active_response() -> None:
    """A response that never pauses is aborted, too."""
    async with connected_through(replace(PLAIN, silence=30.0, longest=2 * SHORT)) as way:
        way.asked.send(head(CHUNKED))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(way.one.response())
            while not reading.done():
                way.asked.send(chunk(b"x"))
                await asyncio.sleep(0.01)
        told = reading.result()

    assert (told.status, told.complete) == (200, False)
    assert (way.tunnel.stats.aborted_long, way.tunnel.stats.aborted_silent) == (1, 0)


async def test_total_limit_before_the_first_byte_gives_a_status() -> None:
    """Nothing was forwarded, so the client gets a status."""
    async with connected_through(replace(PLAIN, longest=SHORT, timeout_status=503)) as way:
        told = await way.one.response()

    assert (told.status, way.tunnel.stats.aborted_long) == (503, 1)


# Buffering.

BUFFERING = replace(PLAIN, buffer_bytes=10)


@pytest.mark.parametrize(
    ("behaviour", "fields", "said", "passed"),
    [
        (BUFFERING, [CHUNKED], b"few", False),
        (BUFFERING, [CHUNKED], b"enough of it", True),
        (BUFFERING, [CHUNKED, "X-Accel-Buffering: no"], b"few", False),
        (
            replace(BUFFERING, honours_x_accel=True),
            [CHUNKED, "x-accel-buffering: No"],
            b"few",
            True,
        ),
        (replace(BUFFERING, honours_x_accel=True), [CHUNKED, STREAM], b"few", False),
        (replace(BUFFERING, flushes_streams=True), [CHUNKED, STREAM], b"few", True),
        (replace(BUFFERING, flushes_streams=True), [CHUNKED, TEXT], b"few", False),
        (replace(BUFFERING, flushes_without_length=True), [CHUNKED, TEXT], b"few", True),
        (replace(BUFFERING, flushes_without_length=True), ["Content-Length: 99"], b"few", False),
    ],
)
async def test_buffered_bytes_are_lost_when_the_target_aborts(
    behaviour: TunnelBehaviour, fields: list[str], said: bytes, passed: bool
) -> None:
    """The head is forwarded, but buffered bytes of an aborted response are not."""
    async with connected_through(behaviour) as way:
        way.asked.send(head(*fields) + (chunk(said) if CHUNKED in fields else said))
        way.asked.close()
        status, _ = await way.one.head()
        rest = await way.one.read_until_closed()

    assert status == 200
    assert (said in rest) == passed
    assert passed or rest == b""


async def test_buffered_response_is_forwarded_at_its_end() -> None:
    """A complete response is forwarded even if it is shorter than the buffer."""
    async with connected_through(replace(PLAIN, buffer_bytes=4096)) as way:
        way.asked.send(head(CHUNKED) + chunk(b"all ") + chunk(b"of it"))
        way.asked.send(END)
        told = await way.one.response()

    assert (told.body, told.complete) == (b"all of it", True)


# Dropping.

ANSWER = head("Content-Length: 5") + b"hello"


@pytest.mark.parametrize("at", [0, 1, len(ANSWER) - 5, len(ANSWER) - 1, len(ANSWER)])
async def test_response_is_dropped_at_the_given_byte(at: int) -> None:
    """Exactly ``drop_at`` bytes reach the client, and then its connection closes."""
    async with connected_through(replace(PLAIN, drop_at=at)) as way:
        way.asked.send(ANSWER)
        got = await way.one.reader.read()
        await way.asked.wait_closed()

    assert got == ANSWER[:at]
    assert way.tunnel.stats.dropped == 1


async def test_drop_count_limits_the_dropped_responses() -> None:
    """Responses shorter than ``drop_at`` do not count."""
    async with (
        Target() as target,
        Tunnel(target.port, replace(PLAIN, drop_at=len(ANSWER) - 1, drop_count=2)) as tunnel,
    ):
        whole = []
        for said in (head("Content-Length: 0"), ANSWER, ANSWER, ANSWER):
            async with raw_client(tunnel.port) as one:
                one.send(request("/x"))
                (await target.next_request()).send(said)
                whole.append((await one.response()).complete)

    assert whole == [True, False, False, True]
    assert (tunnel.stats.dropped, tunnel.stats.passed) == (2, 2)


# Headers.

FORGED = {
    "CF-Connecting-IP": "1.2.3.4",
    "Tailscale-User-Login": "owner@example.com",
    "X-Forwarded-For": "1.2.3.4",
    "X-Forwarded-Proto": "http",
    "Authorization": "Bearer key",
}
UNCHANGED = {"Authorization": "Bearer key", "Content-Length": "2"}
FORGED_WITHOUT_KEY = {name: value for name, value in FORGED.items() if name != "Authorization"}


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (
            TunnelBehaviour.cloudflare(),
            {
                "Host": "ollama.example.com",
                "Cf-Connecting-Ip": CALLER,
                "Tailscale-User-Login": "owner@example.com",
                "X-Forwarded-For": f"1.2.3.4, {CALLER}",
                "X-Forwarded-Proto": "https",
            },
        ),
        (
            TunnelBehaviour.tailscale(),
            {
                "Host": "gpu.example.ts.net",
                "CF-Connecting-IP": "1.2.3.4",
                "Tailscale-User-Login": "someone@example.com",
                "X-Forwarded-For": CALLER,
                "X-Forwarded-Host": "gpu.example.ts.net",
            },
        ),
        (
            TunnelBehaviour.tailscale(user=None),
            {"Host": "gpu.example.ts.net", "Tailscale-Funnel-Request": "?1"},
        ),
        (
            TunnelBehaviour.ngrok(),
            {
                "Host": "something.ngrok-free.app",
                "X-Forwarded-For": f"1.2.3.4, {CALLER}",
                "X-Forwarded-Proto": "http, https",
                "X-Forwarded-Host": "something.ngrok-free.app",
            },
        ),
        (
            TunnelBehaviour.nginx(),
            {**FORGED_WITHOUT_KEY, "Host": "the target", "Connection": "close"},
        ),
        (TunnelBehaviour.haproxy(), {**FORGED_WITHOUT_KEY, "Host": "gateway"}),
    ],
    ids=["cloudflare", "tailscale", "funnel", "ngrok", "nginx", "haproxy"],
)
async def test_each_profile_sets_its_headers(
    behaviour: TunnelBehaviour, expected: dict[str, str]
) -> None:
    """Headers of the profile replace the client's or are appended; others are unchanged."""
    async with connected_through(behaviour, request("/x", b"{}", headers=FORGED)) as way:
        way.asked.send(head("Content-Length: 0"))
        await way.one.response()
        if expected["Host"] == "the target":
            expected = {**expected, "Host": f"127.0.0.1:{way.target.port}"}

    told = way.asked.headers
    assert {name: told.get(name) for name in expected} == expected
    assert {name: told.get(name) for name in UNCHANGED} == UNCHANGED
    assert ("Tailscale-User-Login" in told) == (behaviour != TunnelBehaviour.tailscale(user=None))


async def test_too_large_request_body_gives_413() -> None:
    """The tunnel refuses it, and the target does not receive it."""
    async with (
        Target() as target,
        Tunnel(target.port, replace(PLAIN, request_bytes=10)) as tunnel,
        raw_client(tunnel.port) as one,
    ):
        one.send(request("/x", bytes(11)) + request("/y", bytes(10)))
        told = await one.response()
        asked = await target.next_request()
        asked.send(head("Content-Length: 0"))
        after = await one.response()

    assert (told.status, after.status) == (413, 200)
    assert asked.line == "POST /y HTTP/1.1"
    assert tunnel.stats.refused == 1


# The behaviour object.


def test_scaled_changes_only_times() -> None:
    """100 s become half a second; other values stay."""
    behaviour = TunnelBehaviour.cloudflare()

    assert behaviour.scaled(0.005) == replace(behaviour, silence=0.5)
    assert replace(behaviour, silence=None, longest=60.0).scaled(0.5).longest == 30.0


@pytest.mark.parametrize(
    "target", ["https://127.0.0.1:1", "127.0.0.1:1", "http://a:1/v1", "http://a"]
)
def test_invalid_target_is_refused(target: str) -> None:
    """Only http://host:port is accepted."""
    with pytest.raises(ValueError, match="a target is http"):
        Tunnel(target)


async def test_wait_for_reports_the_state_on_timeout() -> None:
    """The TimeoutError contains the tunnel's counters."""
    async with Tunnel(1) as tunnel:
        with pytest.raises(TimeoutError, match="<Tunnel 0 requests"):
            await tunnel.wait_for(lambda: False, timeout=0.01)


async def test_close_closes_all_connections() -> None:
    """This holds on both sides, in every state."""
    async with Target() as target, AsyncExitStack() as later:
        tunnel = await later.enter_async_context(Tunnel(target.port))
        one = await later.enter_async_context(raw_client(tunnel.port))
        one.send(request("/x", b"{}"))
        asked = await target.next_request()
        await tunnel.__aexit__(None, None, None)

        assert await one.read_until_closed() == b""
        await asked.wait_closed()
