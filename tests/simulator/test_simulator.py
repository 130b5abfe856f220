"""The simulator as tests use it: time, counters, holds, and an Ollama that goes away."""

import asyncio
import json

import pytest

from gateway.simulator import USUAL_MODELS, Hold, SimulatedModel, Simulator
from tests.simulator.calls import CHAT, MODEL, chat, opened, request, request_json, stream_texts

NEW = SimulatedModel("new:1b", "1B", 1000)


async def test_the_same_prompt_gives_the_same_text_on_every_route() -> None:
    """Streaming or not, native or not."""
    async with Simulator() as sim:
        complete = await request_json(sim, CHAT, chat())
        streamed = await request(sim, CHAT, chat(stream=True))
        native = await request_json(sim, "/api/chat", chat(stream=False))
        other = await request_json(sim, CHAT, chat("something else"))

    text = complete["choices"][0]["message"]["content"]
    assert text == "".join(stream_texts(streamed)) == native["message"]["content"]
    assert text != other["choices"][0]["message"]["content"]


async def test_max_tokens_are_generated() -> None:
    """Without a limit the default number is."""
    async with Simulator(output_tokens=5) as sim:
        limited = await request_json(sim, CHAT, chat(max_tokens=20))
        free = await request_json(sim, CHAT, chat())

    assert limited["usage"]["completion_tokens"] == 20
    assert limited["choices"][0]["finish_reason"] == "length"
    assert free["usage"]["completion_tokens"] == 5
    assert free["choices"][0]["finish_reason"] == "stop"


async def test_say_sets_the_text() -> None:
    async with Simulator() as sim:
        reply = await request(sim, CHAT, chat("SAY: one two  three", stream=True))
        limited = await request_json(sim, CHAT, chat("SAY: one two three", max_tokens=2))

    assert stream_texts(reply) == ["one", " two", "  three", ""]
    assert limited["choices"][0]["message"]["content"] == "one two"
    assert limited["choices"][0]["finish_reason"] == "length"


async def test_a_repeated_token_reaches_the_repeat_limit() -> None:
    """After 31 equal tokens Ollama gives up: no reason, no usage."""
    async with Simulator() as sim:
        body = await request_json(sim, CHAT, chat("SAY: " + "no " * 40))

    choice = body["choices"][0]
    assert choice["message"]["content"].split() == ["no"] * 31
    assert choice["finish_reason"] is None
    assert body["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert sim.stats.generations_failed == 1


async def test_json_formats_give_valid_json() -> None:
    """JSON mode and schemas."""
    schema = {"type": "object", "properties": {"score": {"type": "integer"}, "why": {}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with Simulator() as sim:
        free = await request_json(sim, CHAT, chat(response_format={"type": "json_object"}))
        fitted = await request_json(sim, CHAT, chat(response_format=wanted))

    assert list(json.loads(free["choices"][0]["message"]["content"])) == ["answer"]
    assert json.loads(fitted["choices"][0]["message"]["content"]) == {"score": 1, "why": "word"}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [("CALL_TOOL [DONE]", {"text": "[DONE]"}), ('CALL_TOOL {"done": true}', {"done": True})],
)
async def test_the_message_sets_the_arguments_of_a_tool_call(
    text: str, arguments: dict[str, object]
) -> None:
    """The tool call is in one event."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with Simulator() as sim:
        complete = await request_json(sim, CHAT, chat(text, tools=tools))
        reply = await request(sim, "/api/chat", chat(text, tools=tools))

    called = complete["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (called["name"], json.loads(called["arguments"])) == ("f", arguments)
    assert complete["choices"][0]["finish_reason"] == "tool_calls"
    lines = [json.loads(chunk) for chunk in reply.chunks or []]
    assert [line["done"] for line in lines] == [False, True]
    assert lines[0]["message"]["tool_calls"][0]["function"]["arguments"] == arguments


async def test_thinking_comes_first_and_can_be_disabled() -> None:
    body = {"model": "deepseek-r1:8b", "messages": [{"role": "user", "content": "SAY: yes"}]}
    async with Simulator() as sim:
        thought = await request_json(sim, "/api/chat", {**body, "stream": False})
        plain = await request_json(sim, "/api/chat", {**body, "stream": False, "think": False})
        openai = await request_json(sim, CHAT, body)

    assert len(thought["message"]["thinking"].split()) == 6
    assert thought["message"]["content"] == plain["message"]["content"] == "yes"
    assert "thinking" not in plain["message"]
    assert openai["choices"][0]["message"]["reasoning"] == thought["message"]["thinking"]


async def test_a_hold_permits_tokens_one_by_one() -> None:
    async with Simulator() as sim:
        with sim.hold() as hold:
            async with opened(sim, CHAT, chat(stream=True, max_tokens=5)) as reader:
                await sim.wait_for(lambda: hold.waiting == 1)
                before = sim.stats.tokens_generated
                hold.release(2)
                await sim.wait_for(lambda: sim.stats.tokens_generated == 2)
                await sim.wait_for(lambda: hold.waiting == 1)
                hold.end()
                rest = await reader.readuntil(b"0\r\n\r\n")

    assert before == 0
    assert rest.count(b"data: {") == 6
    assert sim.stats.generations_finished == 1


async def test_a_second_hold_is_refused() -> None:
    async with Simulator() as sim:
        with sim.hold() as hold, pytest.raises(RuntimeError, match="a hold already"):
            sim.hold()

        assert isinstance(hold, Hold)
        sim.hold().end()


async def test_a_disconnect_stops_the_generation() -> None:
    """It counts as abandoned."""
    async with Simulator() as sim:
        with sim.hold() as hold:
            async with opened(sim, CHAT, chat(max_tokens=1000)):
                hold.release(3)
                await sim.wait_for(lambda: sim.stats.tokens_generated == 3)
            await sim.wait_for(lambda: sim.stats.active == 0)

    assert sim.stats.tokens_generated == sim.stats.tokens_abandoned == 3
    assert sim.stats.generations_abandoned == 1
    assert sim.stats.tokens_delivered == 0


async def test_a_client_that_does_not_read_pauses_the_generation() -> None:
    body = chat(stream=True, max_tokens=10**5)
    async with Simulator() as sim, opened(sim, CHAT, body, limit=1024):
        await sim.wait_for(lambda: sim.stats.blocked == 1)

    assert sim.stats.tokens_generated < 10**5
    assert sim.stats.generations_failed == 1


async def test_stop_closes_connections_and_start_uses_the_same_port() -> None:
    """After it nothing is loaded."""
    async with Simulator() as sim:
        port = sim.port
        with sim.hold() as hold:
            async with opened(sim, CHAT, chat(stream=True)) as reader:
                hold.release(1)
                head = await reader.readuntil(b"\n\n\r\n")
                await sim.stop()
                rest = await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await request(sim, "/")
        away = sim.loaded
        await sim.start()
        back = await request(sim, "/api/version")

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert rest == b""
    assert away == []
    assert (sim.port, back.status_line) == (port, "HTTP/1.1 200 OK")
    assert (sim.stats.generations_failed, sim.stats.generations_abandoned) == (1, 0)


async def test_restart_closes_idle_connections() -> None:
    async with Simulator() as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        await sim.wait_for(lambda: sim.stats.connections == 1)
        await sim.restart()
        rest = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert rest == b""


async def test_pull_and_remove_change_the_lists() -> None:
    async with Simulator([USUAL_MODELS[0]]) as sim:
        sim.pull(NEW)
        with_new = [entry["name"] for entry in (await request_json(sim, "/api/tags"))["models"]]
        sim.remove("new:1b")
        without = [entry["id"] for entry in (await request_json(sim, "/v1/models"))["data"]]

    assert sorted(with_new) == [MODEL, "new:1b"]
    assert without == [MODEL]


async def test_an_empty_list_is_null_on_v1() -> None:
    """As Go writes it; the native list is empty."""
    async with Simulator([]) as sim:
        native, openai = await request_json(sim, "/api/tags"), await request_json(sim, "/v1/models")

    assert native == {"models": []}
    assert openai == {"object": "list", "data": None}


async def test_received_requests_are_kept() -> None:
    """Method, path, headers and body as sent."""
    async with Simulator(keep_requests=2) as sim:
        await request(sim, "/first")
        await request(sim, "/api%2fversion?x=1")
        await request(sim, CHAT, chat())

    version, chat_request = sim.requests
    assert (version.method, version.path) == ("GET", "/api%2fversion?x=1")
    assert json.loads(chat_request.body) == chat()
    assert chat_request.header("host") == "localhost"
    assert chat_request.header("authorization") is None
    assert sim.stats.requests == {"/first": 1, "/api/version": 1, CHAT: 1}


async def test_the_timeout_of_wait_for_shows_the_state() -> None:
    async with Simulator() as sim:
        with pytest.raises(TimeoutError, match="0 active, 0 queued"):
            await sim.wait_for(lambda: sim.stats.active == 1, timeout=0.01)


async def test_wait_for_raises_the_error_of_its_condition() -> None:

    def mistaken() -> bool:
        return bool(sim.stats.connections and 1 // 0)

    async with Simulator() as sim, asyncio.TaskGroup() as group:
        waiting = group.create_task(expects_division_error(sim, mistaken))
        await asyncio.sleep(0)
        reply = await request(sim, "/")
        await waiting

    assert reply.body == "Ollama is running"


async def expects_division_error(sim: Simulator, condition: object) -> None:
    assert callable(condition)
    with pytest.raises(ZeroDivisionError):
        await sim.wait_for(condition)


async def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.24\.0, 0\.33\.0"):
        Simulator(version="0.1.0")


async def test_a_port_in_use_is_an_os_error() -> None:
    async with Simulator() as sim:
        with pytest.raises(OSError, match="in use"):
            await Simulator(port=sim.port).start()
