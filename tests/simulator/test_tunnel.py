"""Each habit of a simulated tunnel is seen by a caller on one side and a target on the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from gateway.simulator import CALLER, Simulator, Tunnel, TunnelHabits
from tests.behaviour.wire import Caller, ask, caller, request
from tests.simulator.calls import CHAT, answer, chat
from tests.simulator.target import CHUNKED, END, Asked, Target, chunk, head

TEXT = "Content-Type: text/plain"
STREAM = "Content-Type: text/event-stream; charset=utf-8"

SHORT = 0.3
"""Seconds of a clock that is meant to ring."""


@dataclass(frozen=True, slots=True)
class Way:
    """A caller, a tunnel and a target; the request was sent and has arrived."""

    tunnel: Tunnel
    target: Target
    one: Caller
    asked: Asked


@asynccontextmanager
async def a_way(habits: TunnelHabits, sent: bytes = b"") -> AsyncIterator[Way]:
    """What a test plays on. At its end nobody is left in the tunnel."""
    async with Target() as target, Tunnel(target.port, habits) as tunnel:
        async with caller(tunnel.port) as one:
            one.send(sent or request("/x", b"{}"))
            yield Way(tunnel, target, one, await target.asked())
        await tunnel.wait_for(lambda: tunnel.stats.active == 0)


PLAIN = TunnelHabits()
HERE = TunnelHabits(host="")
"""An Ollama refuses names that are not this machine's."""


# What passes as it is.


async def test_an_ollama_behind_a_tunnel_is_an_ollama() -> None:
    """Whole answers, streams, errors and lists are what they are without it."""
    async with Simulator(time_scale=0) as sim, Tunnel(sim.url, HERE) as tunnel:
        whole = await ask(tunnel.port, CHAT, chat("SAY: all is well"))
        stream = await ask(tunnel.port, CHAT, chat("SAY: all is well", stream=True))
        wrong = await ask(tunnel.port, CHAT, chat(model="nope"))
        listed = await ask(tunnel.port, "/api/tags")
        direct = await answer(sim, "/api/tags")

    assert whole.json()["choices"][0]["message"]["content"] == "all is well"
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert (stream.headers["transfer-encoding"], stream.whole) == ("chunked", True)
    assert wrong.status == 404
    assert listed.json() == direct
    assert repr(tunnel).startswith("<Tunnel 4 requests, 0 active, 4 passed, 0 cut silent")


async def test_callers_keep_their_connection() -> None:
    """After a proper answer the next request may come on it, even at once."""
    async with (
        Simulator(time_scale=0) as sim,
        Tunnel(sim.port, HERE) as tunnel,
        caller(tunnel.port) as one,
    ):
        one.send(request("/api/version") + request("/", method="HEAD"))
        first, second = await one.answer(), await one.answer("HEAD")
        one.send(request(CHAT, chat("SAY: yes")))
        third = await one.answer()

    assert [first.status, second.status, third.status] == [200, 200, 200]
    assert tunnel.stats.passed == 3


async def test_pieces_pass_when_they_come() -> None:
    """Without a habit of gathering nothing is held: head, each piece, the end."""
    async with a_way(PLAIN) as way:
        way.asked.says(head(TEXT, CHUNKED))
        status, headers = await way.one.head()
        seen = []
        for piece in (b"one", b"two"):
            way.asked.says(chunk(piece))
            seen.append(await way.one.chunk())
        way.asked.says(END)
        seen.append(await way.one.chunk())

    assert (status, headers["content-type"]) == (200, "text/plain")
    assert seen == [b"one", b"two", b""]


async def test_what_is_of_one_connection_is_not_passed_on() -> None:
    """Neither of the request nor of the answer; a body in chunks gets a length."""
    sent = (
        b"POST /x HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b"Transfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n" + chunk(b"ab") + chunk(b"cd") + END
    )
    async with a_way(PLAIN, sent) as way:
        way.asked.says(
            head("Connection: close, X-Hop", "X-Hop: 1", "X-Kept: 1", "Content-Length: 2")
        )
        way.asked.says(b"ok")
        told = await way.one.answer()

    assert way.asked.headers == {"Host": "example.com", "X-Kept": "1", "Content-Length": "4"}
    assert way.asked.body == b"abcd"
    assert told.headers == {"x-kept": "1", "content-length": "2"}


async def test_who_asks_before_he_sends_is_told_to_go_on() -> None:
    """The tunnel says ``100 Continue`` itself; the target's own is not passed on."""
    sent = request("/x", b"body", headers={"Expect": "100-continue"})
    async with a_way(PLAIN, sent) as way:
        interim, _ = await way.one.head()
        way.asked.says(b"HTTP/1.1 100 Continue\r\n\r\n" + head("Content-Length: 0"))
        told = await way.one.answer()

    assert (interim, told.status) == (100, 200)
    assert "Expect" not in way.asked.headers


async def test_an_answer_that_ends_by_closing_is_whole() -> None:
    """As an HTTP/1.0 answer is; the caller gets it in chunks, with an end."""
    async with a_way(replace(PLAIN, minor=0)) as way:
        way.asked.says(head(TEXT) + b"all of it")
        way.asked.hangs_up()
        told = await way.one.answer()

    assert way.asked.line == "POST /x HTTP/1.0"
    assert way.asked.headers["Connection"] == "close"
    assert (told.body, told.whole) == (b"all of it", True)


async def test_answers_without_a_body() -> None:
    """To HEAD with a length, and 204 without one: both are whole at once."""
    async with a_way(PLAIN, request("/x", method="HEAD")) as way:
        way.asked.says(head("Content-Length: 17"))
        length = (await way.one.head())[1]["content-length"]
        way.one.send(request("/x"))
        (await way.target.asked()).says(head(status="204 No Content"))
        status, headers = await way.one.head()

    assert (length, status) == ("17", 204)
    assert "transfer-encoding" not in headers


# Leaving.


@pytest.mark.parametrize("begun", [False, True], ids=["silent", "begun"])
async def test_a_caller_who_leaves_takes_the_targets_connection_along(begun: bool) -> None:
    """At once, and whether he had anything of the answer or not."""
    async with a_way(PLAIN) as way:
        if begun:
            way.asked.says(head(CHUNKED) + chunk(b"x"))
            await way.one.head()
        way.one.writer.close()
        await way.asked.is_gone()

        await way.tunnel.wait_for(lambda: way.tunnel.stats.left == 1)


async def test_a_simulated_ollama_stops_for_a_caller_who_leaves() -> None:
    """A tunnel does not keep a generation alive."""
    async with Simulator(time_scale=0) as sim, Tunnel(sim.url, HERE) as tunnel:
        with sim.hold() as hold:
            async with caller(tunnel.port) as one:
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
async def test_a_target_that_breaks_off(said: bytes, more: bytes) -> None:
    """The caller gets what there was, and no end."""
    async with a_way(PLAIN) as way:
        way.asked.says(said)
        status, headers = await way.one.head()
        chunked = "transfer-encoding" in headers
        first = await (way.one.chunk() if chunked else way.one.reader.read(4))
        way.asked.says(more)
        way.asked.hangs_up()
        rest = await way.one.hung_up()

    assert (status, first, rest) == (200, b"half", b"")
    assert way.tunnel.stats.broken == 1


@pytest.mark.parametrize(
    "said", [b"", b"\x16\x03\x01 not HTTP\r\n\r\n"], ids=["nothing", "garbage"]
)
async def test_a_target_that_gives_no_answer(said: bytes) -> None:
    """That is a 502, after which the caller's connection is as good as before."""
    async with a_way(PLAIN) as way:
        way.asked.says(said)
        way.asked.hangs_up()
        told = await way.one.answer()
        way.one.send(request("/x"))
        (await way.target.asked()).says(head("Content-Length: 0"))
        after = await way.one.answer()

    assert (told.status, told.whole, after.status) == (502, True, 200)


async def test_a_target_that_is_not_there() -> None:
    """A 502, too."""
    async with Simulator() as sim, Tunnel(sim.url) as tunnel:
        await sim.stop()
        told = await ask(tunnel.port, "/api/tags")

    assert (told.status, tunnel.stats.broken) == (502, 1)


# Silence.

CUTTING = {
    "cloudflare": (TunnelHabits.cloudflare().scaled(SHORT / 100), 524),
    "nginx": (TunnelHabits.nginx().scaled(SHORT / 60), 504),
    "haproxy": (TunnelHabits.haproxy().scaled(SHORT / 60), 504),
    "ngrok": (TunnelHabits.ngrok().scaled(SHORT / 300), 504),
}
every_product = pytest.mark.parametrize("name", CUTTING)


@every_product
async def test_a_silent_target_is_cut(name: str) -> None:
    """The caller is told by a status, and may ask again; the target's connection closes."""
    habits, status = CUTTING[name]
    async with a_way(habits) as way:
        told = await way.one.answer()
        await way.asked.is_gone()
        way.one.send(request("/x"))
        (await way.target.asked()).says(head("Content-Length: 2") + b"ok")
        after = await way.one.answer()

    assert (told.status, told.whole) == (status, True)
    assert told.headers["content-type"].startswith("text/html")
    assert (after.body, way.tunnel.stats.cut_silent) == (b"ok", 1)


@every_product
async def test_silence_after_the_head(name: str) -> None:
    """Cloudflare has told nobody of the head, so that it still can tell 524. Others have."""
    habits, _ = CUTTING[name]
    async with a_way(habits) as way:
        way.asked.says(head(STREAM, CHUNKED))
        status, _ = await way.one.head()
        if name == "cloudflare":
            assert status == 524
        else:
            assert status == 200
            assert await way.one.hung_up() == b""
        await way.asked.is_gone()


@every_product
async def test_silence_in_the_body(name: str) -> None:
    """What was passed on was passed on: the caller's connection closes without an end."""
    habits, _ = CUTTING[name]
    async with a_way(habits) as way:
        way.asked.says(head(STREAM, CHUNKED, "X-Accel-Buffering: no") + chunk(b"x"))
        status, headers = await way.one.head()
        body, whole = await way.one.rest()
        await way.asked.is_gone()

    assert (status, body, whole) == (200, b"x", False)
    assert ("x-accel-buffering" in headers) == (name != "nginx")
    assert way.tunnel.stats.cut_silent == 1


@pytest.mark.parametrize(
    ("habits", "said", "goes_on"),
    [
        (TunnelHabits(), head(CHUNKED), False),
        (TunnelHabits(head_counts=True), head(CHUNKED), True),
        (TunnelHabits(), head(CHUNKED) + chunk(b" "), True),
    ],
    ids=["head", "head that counts", "body"],
)
async def test_what_ends_a_silence(habits: TunnelHabits, said: bytes, goes_on: bool) -> None:
    """A byte of the body does; a head only where it counts."""
    silence = 0.8
    async with a_way(replace(habits, silence=silence)) as way:
        await asyncio.sleep(silence * 0.6)
        way.asked.says(said)
        # This clock is set after the tunnel's, on the same loop: it rings after it.
        await asyncio.sleep(silence * 0.6)
        for _ in range(50):
            await asyncio.sleep(0)

        assert way.tunnel.stats.cut_silent == (0 if goes_on else 1)


async def test_a_slow_caller_is_not_the_targets_silence() -> None:
    """While he takes nothing, nobody waits for the target."""
    size = 20_000_000
    async with a_way(replace(PLAIN, silence=SHORT)) as way:
        way.asked.says(head(f"Content-Length: {size}") + bytes(size))
        await asyncio.sleep(2 * SHORT)
        told = await way.one.answer()

    assert (len(told.body), told.whole) == (size, True)


async def test_a_simulated_ollama_stops_when_a_tunnel_cuts() -> None:
    """Whoever is cut is gone for it."""
    habits = TunnelHabits.cloudflare().scaled(SHORT / 100)
    async with Simulator(time_scale=0) as sim, Tunnel(sim.url, replace(habits, host="")) as tunnel:
        with sim.hold():
            told = await ask(tunnel.port, CHAT, chat())
            await sim.wait_for(lambda: sim.stats.generations_abandoned == 1)

    assert told.status == 524


# The longest.


async def test_the_longest_cuts_whatever_comes() -> None:
    """An answer that never pauses is cut all the same."""
    async with a_way(replace(PLAIN, silence=30.0, longest=2 * SHORT)) as way:
        way.asked.says(head(CHUNKED))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(way.one.answer())
            while not reading.done():
                way.asked.says(chunk(b"x"))
                await asyncio.sleep(0.01)
        told = reading.result()

    assert (told.status, told.whole) == (200, False)
    assert (way.tunnel.stats.cut_long, way.tunnel.stats.cut_silent) == (1, 0)


async def test_the_longest_without_a_byte() -> None:
    """Nothing was passed on: a status."""
    async with a_way(replace(PLAIN, longest=SHORT, cut_status=503)) as way:
        told = await way.one.answer()

    assert (told.status, way.tunnel.stats.cut_long) == (503, 1)


# Gathering.

GATHERS = replace(PLAIN, buffer_bytes=10)


@pytest.mark.parametrize(
    ("habits", "fields", "said", "passed"),
    [
        (GATHERS, [CHUNKED], b"few", False),
        (GATHERS, [CHUNKED], b"enough of it", True),
        (GATHERS, [CHUNKED, "X-Accel-Buffering: no"], b"few", False),
        (replace(GATHERS, obeys_accel=True), [CHUNKED, "x-accel-buffering: No"], b"few", True),
        (replace(GATHERS, obeys_accel=True), [CHUNKED, STREAM], b"few", False),
        (replace(GATHERS, flushes_streams=True), [CHUNKED, STREAM], b"few", True),
        (replace(GATHERS, flushes_streams=True), [CHUNKED, TEXT], b"few", False),
        (replace(GATHERS, flushes_unmeasured=True), [CHUNKED, TEXT], b"few", True),
        (replace(GATHERS, flushes_unmeasured=True), ["Content-Length: 99"], b"few", False),
    ],
)
async def test_what_is_gathered(
    habits: TunnelHabits, fields: list[str], said: bytes, passed: bool
) -> None:
    """What was gathered when the target breaks off never reaches the caller; the head does."""
    async with a_way(habits) as way:
        way.asked.says(head(*fields) + (chunk(said) if CHUNKED in fields else said))
        way.asked.hangs_up()
        status, _ = await way.one.head()
        rest = await way.one.hung_up()

    assert status == 200
    assert (said in rest) == passed
    assert passed or rest == b""


async def test_what_is_gathered_comes_with_the_end() -> None:
    """A whole answer is passed whole, however few bytes it has."""
    async with a_way(replace(PLAIN, buffer_bytes=4096)) as way:
        way.asked.says(head(CHUNKED) + chunk(b"all ") + chunk(b"of it"))
        way.asked.says(END)
        told = await way.one.answer()

    assert (told.body, told.whole) == (b"all of it", True)


# Dropping.

ANSWER = head("Content-Length: 5") + b"hello"


@pytest.mark.parametrize("at", [0, 1, len(ANSWER) - 5, len(ANSWER) - 1, len(ANSWER)])
async def test_an_answer_is_dropped_at_its_byte(at: int) -> None:
    """Exactly so many bytes reach the caller, and then his connection closes."""
    async with a_way(replace(PLAIN, drop_at=at)) as way:
        way.asked.says(ANSWER)
        got = await way.one.reader.read()
        await way.asked.is_gone()

    assert got == ANSWER[:at]
    assert way.tunnel.stats.dropped == 1


async def test_only_the_first_answers_are_dropped() -> None:
    """``drop_times`` of them; those that are shorter do not count."""
    async with (
        Target() as target,
        Tunnel(target.port, replace(PLAIN, drop_at=len(ANSWER) - 1, drop_times=2)) as tunnel,
    ):
        whole = []
        for said in (head("Content-Length: 0"), ANSWER, ANSWER, ANSWER):
            async with caller(tunnel.port) as one:
                one.send(request("/x"))
                (await target.asked()).says(said)
                whole.append((await one.answer()).whole)

    assert whole == [True, False, False, True]
    assert (tunnel.stats.dropped, tunnel.stats.passed) == (2, 2)


# What the target is told.

FORGED = {
    "CF-Connecting-IP": "1.2.3.4",
    "Tailscale-User-Login": "owner@example.com",
    "X-Forwarded-For": "1.2.3.4",
    "X-Forwarded-Proto": "http",
    "Authorization": "Bearer key",
}
KEPT = {"Authorization": "Bearer key", "Content-Length": "2"}
SAID = {name: value for name, value in FORGED.items() if name != "Authorization"}


@pytest.mark.parametrize(
    ("habits", "expected"),
    [
        (
            TunnelHabits.cloudflare(),
            {
                "Host": "ollama.example.com",
                "Cf-Connecting-Ip": CALLER,
                "Tailscale-User-Login": "owner@example.com",
                "X-Forwarded-For": f"1.2.3.4, {CALLER}",
                "X-Forwarded-Proto": "https",
            },
        ),
        (
            TunnelHabits.tailscale(),
            {
                "Host": "gpu.example.ts.net",
                "CF-Connecting-IP": "1.2.3.4",
                "Tailscale-User-Login": "someone@example.com",
                "X-Forwarded-For": CALLER,
                "X-Forwarded-Host": "gpu.example.ts.net",
            },
        ),
        (
            TunnelHabits.tailscale(user=None),
            {"Host": "gpu.example.ts.net", "Tailscale-Funnel-Request": "?1"},
        ),
        (
            TunnelHabits.ngrok(),
            {
                "Host": "something.ngrok-free.app",
                "X-Forwarded-For": f"1.2.3.4, {CALLER}",
                "X-Forwarded-Proto": "http, https",
                "X-Forwarded-Host": "something.ngrok-free.app",
            },
        ),
        (TunnelHabits.nginx(), {**SAID, "Host": "the target", "Connection": "close"}),
        (TunnelHabits.haproxy(), {**SAID, "Host": "gateway"}),
    ],
    ids=["cloudflare", "tailscale", "funnel", "ngrok", "nginx", "haproxy"],
)
async def test_what_each_product_says(habits: TunnelHabits, expected: dict[str, str]) -> None:
    """Its own word replaces the caller's, or stands behind it; the rest passes as it is."""
    async with a_way(habits, request("/x", b"{}", headers=FORGED)) as way:
        way.asked.says(head("Content-Length: 0"))
        await way.one.answer()
        if expected["Host"] == "the target":
            expected = {**expected, "Host": f"127.0.0.1:{way.target.port}"}

    told = way.asked.headers
    assert {name: told.get(name) for name in expected} == expected
    assert {name: told.get(name) for name in KEPT} == KEPT
    assert ("Tailscale-User-Login" in told) == (habits != TunnelHabits.tailscale(user=None))


async def test_a_body_that_is_too_long() -> None:
    """The tunnel refuses it, and the target never hears of it."""
    async with (
        Target() as target,
        Tunnel(target.port, replace(PLAIN, request_bytes=10)) as tunnel,
        caller(tunnel.port) as one,
    ):
        one.send(request("/x", bytes(11)) + request("/y", bytes(10)))
        told = await one.answer()
        asked = await target.asked()
        asked.says(head("Content-Length: 0"))
        after = await one.answer()

    assert (told.status, after.status) == (413, 200)
    assert asked.line == "POST /y HTTP/1.1"
    assert tunnel.stats.refused == 1


# The habits themselves.


def test_time_can_be_scaled() -> None:
    """Only what is a time: 100 s become half a second."""
    habits = TunnelHabits.cloudflare()

    assert habits.scaled(0.005) == replace(habits, silence=0.5)
    assert replace(habits, silence=None, longest=60.0).scaled(0.5).longest == 30.0


@pytest.mark.parametrize(
    "target", ["https://127.0.0.1:1", "127.0.0.1:1", "http://a:1/v1", "http://a"]
)
def test_a_target_is_an_address(target: str) -> None:
    """Anything else is a mistake of the test's."""
    with pytest.raises(ValueError, match="a target is http"):
        Tunnel(target)


async def test_waiting_in_vain_tells_the_state() -> None:
    """A condition that does not come true fails with what there was."""
    async with Tunnel(1) as tunnel:
        with pytest.raises(TimeoutError, match="<Tunnel 0 requests"):
            await tunnel.wait_for(lambda: False, timeout=0.01)


async def test_a_tunnel_that_closes_takes_all_connections_along() -> None:
    """On both sides, wherever they stand."""
    async with Target() as target, AsyncExitStack() as later:
        tunnel = await later.enter_async_context(Tunnel(target.port))
        one = await later.enter_async_context(caller(tunnel.port))
        one.send(request("/x", b"{}"))
        asked = await target.asked()
        await tunnel.__aexit__(None, None, None)

        assert await one.hung_up() == b""
        await asked.is_gone()
