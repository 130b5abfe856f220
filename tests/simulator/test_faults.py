"""What each fault sends."""

import asyncio
import json
from typing import Any

import pytest

from gateway.simulator import Fault, Simulator
from tests.simulator.calls import CHAT, chat, opened, request, request_json, stream_texts
from tests.simulator.replay import Reply

GONE = "model runner has unexpectedly stopped"
BROKE_OFF = "an error was encountered while running the model: unexpected EOF"


async def response_with(fault: Fault, path: str = CHAT, **more: Any) -> Reply:
    """Return the response to a chat with a fault; the next chat must succeed."""
    async with Simulator() as sim:
        sim.fault(fault)
        reply = await request(sim, path, chat(**more))
        after = await request(sim, CHAT, chat())

    assert after.status_line == "HTTP/1.1 200 OK"
    return reply


async def test_refuse_sends_nothing() -> None:
    reply = await response_with(Fault.refuse())

    assert (reply.status_line, reply.closed) == ("", True)


async def test_status_sends_the_given_response() -> None:
    reply = await response_with(Fault.status(503, b'{"error":"busy"}', [("Retry-After", "7")]))

    assert reply.status_line == "HTTP/1.1 503 Service Unavailable"
    assert (reply.body, reply.header("Retry-After")) == ('{"error":"busy"}', "7")


async def test_garbage_is_not_http() -> None:
    async with Simulator() as sim:
        sim.fault(Fault.garbage())
        async with opened(sim, CHAT, chat()) as reader:
            got = await reader.read()

    assert got
    assert not got.startswith(b"HTTP/")


async def test_garbage_in_a_stream_breaks_its_framing() -> None:
    """After the given tokens, something else follows in place of a chunk size."""
    async with Simulator() as sim:
        sim.fault(Fault.garbage(after_tokens=2))
        async with opened(sim, CHAT, chat(stream=True)) as reader:
            got = await reader.read()

    assert got.count(b"data: ") == 2
    assert got.endswith(b"chunk\r\n")


async def test_abort_closes_without_the_last_chunk() -> None:
    reply = await response_with(Fault.abort(after_tokens=3), stream=True)

    assert (len(reply.chunks or []), reply.terminated, reply.closed) == (3, False, True)


async def test_abort_after_0_tokens_sends_only_the_head() -> None:
    """A non-streaming response sends nothing."""
    streamed = await response_with(Fault.abort(after_tokens=0), stream=True)
    complete = await response_with(Fault.abort(after_tokens=0))

    assert (streamed.status_line, streamed.chunks) == ("HTTP/1.1 200 OK", [])
    assert (complete.status_line, complete.closed) == ("", True)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/api/chat"])
async def test_death_before_the_first_token_is_500(path: str) -> None:
    """Streaming or not."""
    complete = await response_with(Fault.die(), path, stream=False, max_tokens=9, input="x")
    streamed = await response_with(Fault.die(), path, stream=True, max_tokens=9, input="x")

    assert complete.status_line == streamed.status_line == "HTTP/1.1 500 Internal Server Error"
    assert GONE in (complete.body or "")
    assert GONE in "".join(streamed.chunks or [])
    assert streamed.terminated


async def test_death_in_a_native_stream_is_reported_in_the_last_line() -> None:
    """The status has been sent; the body ends properly."""
    reply = await response_with(Fault.die(after_tokens=2), "/api/chat")

    lines = [json.loads(chunk) for chunk in reply.chunks or []]
    assert lines[-1] == {"error": BROKE_OFF}
    assert (len(lines), reply.terminated) == (3, True)


async def test_death_fails_all_requests_of_the_runner() -> None:
    """The model is not loaded any more."""
    async with Simulator(num_parallel=2) as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(request(sim, CHAT, chat(str(n)))) for n in range(3)]
                await sim.wait_for(lambda: hold.waiting == 2 and sim.stats.queued == 1)
                sim.kill_runner("llama3.2:1b")
                hold.end()
        statuses = [done.result().status_line.split()[1] for done in tasks]

        assert statuses == ["500"] * 3
        assert sim.loaded == []
        assert (sim.stats.active, sim.stats.queued) == (0, 0)


async def test_repeat_ends_without_a_final_event() -> None:
    """The body ends properly, without [DONE]."""
    reply = await response_with(Fault.repeat(after_tokens=4), stream=True, max_tokens=50)

    assert (len(stream_texts(reply)), reply.terminated) == (4, True)
    assert "[DONE]" not in "".join(reply.chunks or [])


async def test_stall_continues_when_released() -> None:
    async with Simulator() as sim:
        sim.fault(Fault.stall(after_tokens=2))
        async with opened(sim, CHAT, chat(stream=True, max_tokens=4)) as reader:
            await sim.wait_for(lambda: sim.stats.tokens_generated == 2)
            first = await reader.readuntil(b"}\n\n\r\n") + await reader.readuntil(b"}\n\n\r\n")
            sim.release()
            rest = await reader.readuntil(b"0\r\n\r\n")

    assert first.count(b"data: ") == 2
    assert b"[DONE]" in rest


async def test_slow_headers_occupy_the_slot() -> None:
    async with Simulator() as sim:
        sim.fault(Fault.slow_headers())
        async with opened(sim, CHAT, chat()) as reader:
            await sim.wait_for(lambda: sim.stats.active == 1)
            sim.release()
            line = await reader.readline()

    assert line == b"HTTP/1.1 200 OK\r\n"


async def test_a_fault_without_a_path_applies_to_inference_only() -> None:
    async with Simulator() as sim:
        sim.fault(Fault.status(500))
        untouched = await request(sim, "/api/tags")
        sim.clear_faults()
        sim.fault(Fault.slow_headers(), path="/api/tags")
        async with opened(sim, "/api/tags") as reader:
            await sim.wait_for(lambda: sim.stats.requests["/api/tags"] == 2)
            sim.release()
            line = await reader.readline()

    assert untouched.status_line == line.decode().strip() == "HTTP/1.1 200 OK"


async def test_a_fault_applies_to_its_model_and_as_often_as_given() -> None:
    async with Simulator() as sim:
        sim.fault(Fault.status(418), times=2, model="llama3.3:70b")
        other = await request(sim, CHAT, chat())
        hit = [await request(sim, CHAT, chat(model="llama3.3:70b")) for _ in range(3)]

    assert "200" in other.status_line
    assert [reply.status_line.split()[1] for reply in hit] == ["418", "418", "200"]


async def test_huge_responses_have_the_given_size() -> None:
    """Text and lists."""
    async with Simulator() as sim:
        sim.fault(Fault.huge(3_000_000))
        body = await request_json(sim, CHAT, chat())
        sim.fault(Fault.huge(100_000), path="/api/tags")
        tags = await request(sim, "/api/tags")

    assert len(body["choices"][0]["message"]["content"]) == 3_000_000
    assert len("".join(tags.chunks or [])) == 100_000


async def test_oversize_header_is_added_to_the_response() -> None:
    reply = await response_with(Fault.oversize_header(20_000))

    assert len(reply.header("X-Padding")) == 20_000


async def test_short_body_announces_more_than_it_sends() -> None:
    async with Simulator() as sim:
        sim.fault(Fault.short_body(10))
        async with opened(sim, CHAT, chat()) as reader:
            got = await reader.read()

    head, _, body = got.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body) + 10}".encode() in head


async def test_comments_only_sends_no_event() -> None:
    """Until it is released."""
    async with Simulator(time_scale=0.01) as sim:
        sim.fault(Fault.comments_only())
        async with opened(sim, CHAT, chat(stream=True)) as reader:
            got = [await reader.readuntil(b"\n\n") for _ in range(3)]
            sim.release()
            rest = await reader.readuntil(b"0\r\n\r\n")

    assert all(b": nothing to say" in part for part in got)
    assert b"data:" not in rest


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.die(), "500"), (Fault.abort(), ""), (Fault.stall(seconds=0), "200")],
)
async def test_faults_apply_to_embeddings(fault: Fault, status: str) -> None:
    """Faults with tokens apply to the complete request."""
    async with Simulator() as sim:
        sim.fault(fault)
        reply = await request(sim, "/api/embed", {"model": "nomic-embed-text", "input": "x"})

    assert reply.status_line.split()[1:2] == ([status] if status else [])
