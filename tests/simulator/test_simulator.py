"""The simulator as tests use it: time, counters, holds, and an Ollama that goes away."""

import asyncio
import json

import pytest

from gateway.simulator import USUAL_MODELS, Hold, SimulatedModel, Simulator
from tests.simulator.calls import CHAT, MODEL, answer, begun, call, chat, texts

NEW = SimulatedModel("new:1b", "1B", 1000)


async def test_same_prompt_same_words_on_every_route() -> None:
    """What is said depends on model and prompt alone, streamed or not, native or not."""
    async with Simulator() as sim:
        whole = await answer(sim, CHAT, chat())
        streamed = await call(sim, CHAT, chat(stream=True))
        native = await answer(sim, "/api/chat", chat(stream=False))
        other = await answer(sim, CHAT, chat("something else"))

    said = whole["choices"][0]["message"]["content"]
    assert said == "".join(texts(streamed)) == native["message"]["content"]
    assert said != other["choices"][0]["message"]["content"]


async def test_max_tokens_is_how_many_are_said() -> None:
    """A limit is used up, and is the reason for the end; without one the default is."""
    async with Simulator(answer_tokens=5) as sim:
        limited = await answer(sim, CHAT, chat(max_tokens=20))
        free = await answer(sim, CHAT, chat())

    assert limited["usage"]["completion_tokens"] == 20
    assert limited["choices"][0]["finish_reason"] == "length"
    assert free["usage"]["completion_tokens"] == 5
    assert free["choices"][0]["finish_reason"] == "stop"


async def test_say_chooses_the_words() -> None:
    """A message that begins with SAY: is answered with the rest of it, word by word."""
    async with Simulator() as sim:
        reply = await call(sim, CHAT, chat("SAY: one two  three", stream=True))
        cut = await answer(sim, CHAT, chat("SAY: one two three", max_tokens=2))

    assert texts(reply) == ["one", " two", "  three", ""]
    assert cut["choices"][0]["message"]["content"] == "one two"
    assert cut["choices"][0]["finish_reason"] == "length"


async def test_one_word_too_often_is_the_repeat_limit() -> None:
    """Thirty-one times the same, then Ollama gives up: no reason, no usage."""
    async with Simulator() as sim:
        body = await answer(sim, CHAT, chat("SAY: " + "no " * 40))

    choice = body["choices"][0]
    assert choice["message"]["content"].split() == ["no"] * 31
    assert choice["finish_reason"] is None
    assert body["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert sim.stats.generations_failed == 1


async def test_json_where_json_is_asked_for() -> None:
    """JSON mode and schemas give JSON that parses and fits."""
    schema = {"type": "object", "properties": {"score": {"type": "integer"}, "why": {}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with Simulator() as sim:
        free = await answer(sim, CHAT, chat(response_format={"type": "json_object"}))
        fitted = await answer(sim, CHAT, chat(response_format=wanted))

    assert list(json.loads(free["choices"][0]["message"]["content"])) == ["answer"]
    assert json.loads(fitted["choices"][0]["message"]["content"]) == {"score": 1, "why": "word"}


@pytest.mark.parametrize(
    ("said", "arguments"),
    [("CALL_TOOL [DONE]", {"text": "[DONE]"}), ('CALL_TOOL {"done": true}', {"done": True})],
)
async def test_tool_calls_carry_what_the_message_says(
    said: str, arguments: dict[str, object]
) -> None:
    """A tool call comes in one event, and its arguments are the test's own."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with Simulator() as sim:
        whole = await answer(sim, CHAT, chat(said, tools=tools))
        reply = await call(sim, "/api/chat", chat(said, tools=tools))

    called = whole["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (called["name"], json.loads(called["arguments"])) == ("f", arguments)
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    lines = [json.loads(chunk) for chunk in reply.chunks or []]
    assert [line["done"] for line in lines] == [False, True]
    assert lines[0]["message"]["tool_calls"][0]["function"]["arguments"] == arguments


async def test_thinking_comes_first_and_can_be_switched_off() -> None:
    """A reasoning model thinks before it speaks, unless it is told not to."""
    asked = {"model": "deepseek-r1:8b", "messages": [{"role": "user", "content": "SAY: yes"}]}
    async with Simulator() as sim:
        thought = await answer(sim, "/api/chat", {**asked, "stream": False})
        plain = await answer(sim, "/api/chat", {**asked, "stream": False, "think": False})
        openai = await answer(sim, CHAT, asked)

    assert len(thought["message"]["thinking"].split()) == 6
    assert thought["message"]["content"] == plain["message"]["content"] == "yes"
    assert "thinking" not in plain["message"]
    assert openai["choices"][0]["message"]["reasoning"] == thought["message"]["thinking"]


async def test_hold_lets_tokens_pass_one_by_one() -> None:
    """Under a hold a stream stands still before each token until that is released."""
    async with Simulator() as sim:
        with sim.hold() as hold:
            async with begun(sim, CHAT, chat(stream=True, max_tokens=5)) as reader:
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


async def test_only_one_hold_at_a_time() -> None:
    """A second hold is a mistake of the test."""
    async with Simulator() as sim:
        with sim.hold() as hold, pytest.raises(RuntimeError, match="held already"):
            sim.hold()

        assert isinstance(hold, Hold)
        sim.hold().end()


async def test_client_that_leaves_is_noticed() -> None:
    """A generation whose client left stops before its next token and counts as abandoned."""
    async with Simulator() as sim:
        with sim.hold() as hold:
            async with begun(sim, CHAT, chat(max_tokens=1000)):
                hold.release(3)
                await sim.wait_for(lambda: sim.stats.tokens_generated == 3)
            await sim.wait_for(lambda: sim.stats.active == 0)

    assert sim.stats.tokens_generated == sim.stats.tokens_abandoned == 3
    assert sim.stats.generations_abandoned == 1
    assert sim.stats.tokens_delivered == 0


async def test_client_that_reads_nothing_stops_the_generation() -> None:
    """What nobody takes is not generated for long."""
    asked = chat(stream=True, max_tokens=10**5)
    async with Simulator() as sim, begun(sim, CHAT, asked, limit=1024):
        await sim.wait_for(lambda: sim.stats.blocked == 1)

    assert sim.stats.tokens_generated < 10**5
    assert sim.stats.generations_failed == 1


async def test_stop_cuts_and_start_returns_to_the_same_port() -> None:
    """Away, connections are refused; back, everything works and nothing is loaded."""
    async with Simulator() as sim:
        port = sim.port
        with sim.hold() as hold:
            async with begun(sim, CHAT, chat(stream=True)) as reader:
                hold.release(1)
                head = await reader.readuntil(b"\n\n\r\n")
                await sim.stop()
                rest = await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await call(sim, "/")
        away = sim.loaded
        await sim.start()
        back = await call(sim, "/api/version")

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert rest == b""
    assert away == []
    assert (sim.port, back.status_line) == (port, "HTTP/1.1 200 OK")
    assert (sim.stats.generations_failed, sim.stats.generations_abandoned) == (1, 0)


async def test_restart_drops_idle_connections() -> None:
    """A kept-alive connection does not survive a restart."""
    async with Simulator() as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        await sim.wait_for(lambda: sim.stats.connections == 1)
        await sim.restart()
        rest = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert rest == b""


async def test_pull_and_remove_change_the_lists() -> None:
    """Lists show at once what was pulled and what was removed."""
    async with Simulator([USUAL_MODELS[0]]) as sim:
        sim.pull(NEW)
        with_new = [entry["name"] for entry in (await answer(sim, "/api/tags"))["models"]]
        sim.remove("new:1b")
        without = [entry["id"] for entry in (await answer(sim, "/v1/models"))["data"]]

    assert sorted(with_new) == [MODEL, "new:1b"]
    assert without == [MODEL]


async def test_nothing_pulled_is_null_on_v1() -> None:
    """Without models the native list is empty and the OpenAI one is null, as Go writes it."""
    async with Simulator([]) as sim:
        native, openai = await answer(sim, "/api/tags"), await answer(sim, "/v1/models")

    assert native == {"models": []}
    assert openai == {"object": "list", "data": None}


async def test_requests_are_remembered_as_they_came() -> None:
    """A test can see method, path, headers and body of what went upstream."""
    async with Simulator(keep_requests=2) as sim:
        await call(sim, "/first")
        await call(sim, "/api%2fversion?x=1")
        await call(sim, CHAT, chat())

    version, asked = sim.requests
    assert (version.method, version.path) == ("GET", "/api%2fversion?x=1")
    assert json.loads(asked.body) == chat()
    assert asked.header("host") == "localhost"
    assert asked.header("authorization") is None
    assert sim.stats.requests == {"/first": 1, "/api/version": 1, CHAT: 1}


async def test_wait_for_tells_the_state_when_it_gives_up() -> None:
    """The error of a condition that never came says what there is instead."""
    async with Simulator() as sim:
        with pytest.raises(TimeoutError, match="0 active, 0 queued"):
            await sim.wait_for(lambda: sim.stats.active == 1, timeout=0.01)


async def test_wait_for_passes_on_what_a_condition_raises() -> None:
    """A mistake in a condition ends up with who waits, not inside of the simulator."""

    def mistaken() -> bool:
        return bool(sim.stats.connections and 1 // 0)

    async with Simulator() as sim, asyncio.TaskGroup() as group:
        waiting = group.create_task(expects_division_error(sim, mistaken))
        await asyncio.sleep(0)
        reply = await call(sim, "/")
        await waiting

    assert reply.body == "Ollama is running"


async def expects_division_error(sim: Simulator, condition: object) -> None:
    assert callable(condition)
    with pytest.raises(ZeroDivisionError):
        await sim.wait_for(condition)


async def test_unknown_version_is_refused() -> None:
    """Only what was recorded can be simulated."""
    with pytest.raises(ValueError, match=r"0\.24\.0, 0\.33\.0"):
        Simulator(version="0.1.0")


async def test_port_in_use_is_an_os_error() -> None:
    """Whoever starts it on a taken port learns why."""
    async with Simulator() as sim:
        with pytest.raises(OSError, match="in use"):
            await Simulator(port=sim.port).start()
