"""Each fault does what it says, on the wire."""

import asyncio
import json
from typing import Any

import pytest

from gateway.simulator import Fault, Simulator
from tests.simulator.calls import CHAT, answer, begun, call, chat, texts
from tests.simulator.replay import Reply

GONE = "model runner has unexpectedly stopped"
BROKE_OFF = "an error was encountered while running the model: unexpected EOF"


async def met(fault: Fault, path: str = CHAT, **more: Any) -> Reply:
    """The answer to one chat that meets a fault; a further one must not."""
    async with Simulator() as sim:
        sim.fault(fault)
        reply = await call(sim, path, chat(**more))
        after = await call(sim, CHAT, chat())

    assert after.status_line == "HTTP/1.1 200 OK"
    return reply


async def test_refuse_sends_nothing() -> None:
    """The connection closes without a byte."""
    reply = await met(Fault.refuse())

    assert (reply.status_line, reply.closed) == ("", True)


async def test_status_is_answered_as_given() -> None:
    """Any status, body and header can be asked for."""
    reply = await met(Fault.status(503, b'{"error":"busy"}', [("Retry-After", "7")]))

    assert reply.status_line == "HTTP/1.1 503 Service Unavailable"
    assert (reply.body, reply.header("Retry-After")) == ('{"error":"busy"}', "7")


async def test_garbage_is_not_http() -> None:
    """What comes is no status line."""
    async with Simulator() as sim:
        sim.fault(Fault.garbage())
        async with begun(sim, CHAT, chat()) as reader:
            got = await reader.read()

    assert got
    assert not got.startswith(b"HTTP/")


async def test_garbage_in_a_stream_breaks_its_framing() -> None:
    """After some tokens there stands no chunk size where one belongs."""
    async with Simulator() as sim:
        sim.fault(Fault.garbage(after_tokens=2))
        async with begun(sim, CHAT, chat(stream=True)) as reader:
            got = await reader.read()

    assert got.count(b"data: ") == 2
    assert got.endswith(b"chunk\r\n")


async def test_cut_closes_without_an_end() -> None:
    """A stream ends after its tokens without the last chunk."""
    reply = await met(Fault.cut(after_tokens=3), stream=True)

    assert (len(reply.chunks or []), reply.terminated, reply.closed) == (3, False, True)


async def test_cut_at_once_leaves_the_head() -> None:
    """At 0 tokens a stream has a head and nothing else, a whole answer has nothing."""
    streamed = await met(Fault.cut(after_tokens=0), stream=True)
    whole = await met(Fault.cut(after_tokens=0))

    assert (streamed.status_line, streamed.chunks) == ("HTTP/1.1 200 OK", [])
    assert (whole.status_line, whole.closed) == ("", True)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/api/chat"])
async def test_death_before_the_first_token_is_an_honest_500(path: str) -> None:
    """Streamed or not, nothing was said, so the status can tell."""
    whole = await met(Fault.die(), path, stream=False, max_tokens=9, input="x")
    streamed = await met(Fault.die(), path, stream=True, max_tokens=9, input="x")

    assert whole.status_line == streamed.status_line == "HTTP/1.1 500 Internal Server Error"
    assert GONE in (whole.body or "")
    assert GONE in "".join(streamed.chunks or [])
    assert streamed.terminated


async def test_death_in_a_native_stream_is_told_in_a_line() -> None:
    """The status is gone, so the last line is the error, and the body ends properly."""
    reply = await met(Fault.die(after_tokens=2), "/api/chat")

    lines = [json.loads(chunk) for chunk in reply.chunks or []]
    assert lines[-1] == {"error": BROKE_OFF}
    assert (len(lines), reply.terminated) == (3, True)


async def test_death_takes_everybody_on_the_runner_along() -> None:
    """Two answers of one runner end together, and the model is not loaded any more."""
    async with Simulator(num_parallel=2) as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(call(sim, CHAT, chat(str(n)))) for n in range(3)]
                await sim.wait_for(lambda: hold.waiting == 2 and sim.stats.queued == 1)
                sim.kill_runner("llama3.2:1b")
                hold.end()
        statuses = [done.result().status_line.split()[1] for done in calls]

        assert statuses == ["500"] * 3
        assert sim.loaded == []
        assert (sim.stats.active, sim.stats.queued) == (0, 0)


async def test_repeat_ends_without_a_final_event() -> None:
    """The stream stops after its tokens, properly terminated, without [DONE]."""
    reply = await met(Fault.repeat(after_tokens=4), stream=True, max_tokens=50)

    assert (len(texts(reply)), reply.terminated) == (4, True)
    assert "[DONE]" not in "".join(reply.chunks or [])


async def test_stall_waits_until_it_is_released() -> None:
    """A stalled stream stands still in its middle and then goes on to its end."""
    async with Simulator() as sim:
        sim.fault(Fault.stall(after_tokens=2))
        async with begun(sim, CHAT, chat(stream=True, max_tokens=4)) as reader:
            await sim.wait_for(lambda: sim.stats.tokens_generated == 2)
            first = await reader.readuntil(b"}\n\n\r\n") + await reader.readuntil(b"}\n\n\r\n")
            sim.release()
            rest = await reader.readuntil(b"0\r\n\r\n")

    assert first.count(b"data: ") == 2
    assert b"[DONE]" in rest


async def test_slow_headers_hold_the_slot() -> None:
    """Whoever begins late has been working all the while."""
    async with Simulator() as sim:
        sim.fault(Fault.slow_headers())
        async with begun(sim, CHAT, chat()) as reader:
            await sim.wait_for(lambda: sim.stats.active == 1)
            sim.release()
            line = await reader.readline()

    assert line == b"HTTP/1.1 200 OK\r\n"


async def test_lists_are_slow_only_where_a_path_is_named() -> None:
    """A fault without a path is for inference alone."""
    async with Simulator() as sim:
        sim.fault(Fault.status(500))
        untouched = await call(sim, "/api/tags")
        sim.clear_faults()
        sim.fault(Fault.slow_headers(), path="/api/tags")
        async with begun(sim, "/api/tags") as reader:
            await sim.wait_for(lambda: sim.stats.requests["/api/tags"] == 2)
            sim.release()
            line = await reader.readline()

    assert untouched.status_line == line.decode().strip() == "HTTP/1.1 200 OK"


async def test_faults_choose_by_model_and_count() -> None:
    """A fault for one model, twice, leaves all others alone."""
    async with Simulator() as sim:
        sim.fault(Fault.status(418), times=2, model="llama3.3:70b")
        other = await call(sim, CHAT, chat())
        hit = [await call(sim, CHAT, chat(model="llama3.3:70b")) for _ in range(3)]

    assert "200" in other.status_line
    assert [reply.status_line.split()[1] for reply in hit] == ["418", "418", "200"]


async def test_huge_answers_are_as_long_as_asked() -> None:
    """Text, vectors and lists alike can be made too long for anybody."""
    async with Simulator() as sim:
        sim.fault(Fault.huge(3_000_000))
        body = await answer(sim, CHAT, chat())
        sim.fault(Fault.huge(100_000), path="/api/tags")
        tags = await call(sim, "/api/tags")

    assert len(body["choices"][0]["message"]["content"]) == 3_000_000
    assert len("".join(tags.chunks or [])) == 100_000


async def test_oversize_header_comes_with_the_answer() -> None:
    """One more header, as long as asked for."""
    reply = await met(Fault.oversize_header(20_000))

    assert len(reply.header("X-Padding")) == 20_000


async def test_short_body_promises_more_than_it_holds() -> None:
    """The length announced is never reached."""
    async with Simulator() as sim:
        sim.fault(Fault.short_body(10))
        async with begun(sim, CHAT, chat()) as reader:
            got = await reader.read()

    head, _, body = got.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body) + 10}".encode() in head


async def test_comments_only_never_says_anything() -> None:
    """Comments come and no event does, until it is released."""
    async with Simulator(time_scale=0.01) as sim:
        sim.fault(Fault.comments_only())
        async with begun(sim, CHAT, chat(stream=True)) as reader:
            got = [await reader.readuntil(b"\n\n") for _ in range(3)]
            sim.release()
            rest = await reader.readuntil(b"0\r\n\r\n")

    assert all(b": nothing to say" in part for part in got)
    assert b"data:" not in rest


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.die(), "500"), (Fault.cut(), ""), (Fault.stall(seconds=0), "200")],
)
async def test_embeddings_meet_faults_too(fault: Fault, status: str) -> None:
    """Faults that speak of tokens mean the whole of an embedding."""
    async with Simulator() as sim:
        sim.fault(fault)
        reply = await call(sim, "/api/embed", {"model": "nomic-embed-text", "input": "x"})

    assert reply.status_line.split()[1:2] == ([status] if status else [])
