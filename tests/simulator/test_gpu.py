"""Loading, unloading and waiting follow Ollama's rules."""

import asyncio
import json
from dataclasses import replace

from gateway.simulator import USUAL_MODELS, SimulatedModel, Simulator
from tests.simulator.calls import CHAT, MODEL, chat, opened, request, request_json

HOUR = 3600.0
SMALL = USUAL_MODELS[0]
BIG = replace(SMALL, name="big:70b")


def slow(model: SimulatedModel) -> SimulatedModel:
    return replace(model, load_time=HOUR)


async def test_slots_limit_concurrent_requests() -> None:
    """With two slots the third request for a model waits."""
    async with Simulator(num_parallel=2) as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(request(sim, CHAT, chat(str(number))))
                await sim.wait_for(lambda: sim.stats.active == 2 and sim.stats.queued == 1)
                hold.end()

    assert sim.stats.peak_active == 2
    assert sim.stats.generations_finished == 3
    assert sim.stats.loads == 1


async def test_queued_requests_of_a_model_run_in_order() -> None:
    """Also when one in the middle disconnects."""
    served: list[str] = []

    async def send(name: str) -> None:
        await request(sim, CHAT, chat(name))
        served.append(name)

    async with Simulator() as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                group.create_task(send("first"))
                await sim.wait_for(lambda: hold.waiting == 1)
                group.create_task(send("second"))
                await sim.wait_for(lambda: sim.stats.queued == 1)
                async with opened(sim, CHAT, chat("leaves")):
                    await sim.wait_for(lambda: sim.stats.queued == 2)
                    group.create_task(send("third"))
                    await sim.wait_for(lambda: sim.stats.queued == 3)
                await sim.wait_for(lambda: sim.stats.queued == 2)
                hold.end()

    assert served == ["first", "second", "third"]
    assert sim.stats.generations_started == 3


async def test_a_disconnect_frees_the_slot_for_the_next_request() -> None:
    async with Simulator() as sim, asyncio.TaskGroup() as group:
        with sim.hold() as hold:
            async with opened(sim, CHAT, chat("leaves")):
                await sim.wait_for(lambda: hold.waiting == 1)
                waits = group.create_task(request(sim, CHAT, chat("next")))
                await sim.wait_for(lambda: sim.stats.queued == 1)
            await sim.wait_for(lambda: sim.stats.queued == 0 and sim.stats.active == 1)
            hold.end()
        reply = await waits

    assert reply.status_line == "HTTP/1.1 200 OK"
    assert sim.stats.generations_abandoned == 1


async def test_the_model_idle_longest_is_unloaded_for_another() -> None:
    names = ["a:1b", "b:1b", "c:1b"]
    models = [replace(SMALL, name=name) for name in names]
    async with Simulator(models, max_loaded_models=2) as sim:
        for name in ("a:1b", "b:1b", "a:1b", "c:1b"):
            await request(sim, CHAT, chat(model=name))

        assert sorted(sim.loaded) == ["a:1b", "c:1b"]
        assert (sim.stats.loads, sim.stats.unloads) == (3, 1)


async def test_a_busy_model_is_not_unloaded() -> None:
    """A request that needs its memory waits until it is idle."""
    async with Simulator([SMALL, BIG], max_loaded_models=1) as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(request(sim, CHAT, chat()))
                await sim.wait_for(lambda: sim.stats.active == 1)
                second = group.create_task(request(sim, CHAT, chat(model="big:70b")))
                await sim.wait_for(lambda: sim.stats.queued == 1)
                loaded_meanwhile = sim.loaded
                hold.end()

        assert loaded_meanwhile == [MODEL]
        assert first.result().status_line == second.result().status_line == "HTTP/1.1 200 OK"
        assert sim.loaded == ["big:70b"]


async def test_lists_respond_while_a_model_loads() -> None:
    """Tags, show, ps and version do not wait for the GPU."""
    async with Simulator([slow(SMALL)]) as sim, opened(sim, CHAT, chat()):
        await sim.wait_for(lambda: sim.loading == MODEL)
        tags = await request_json(sim, "/api/tags")
        shown = await request_json(sim, "/api/show", {"name": MODEL})
        running = await request_json(sim, "/api/ps")

    assert tags["models"][0]["name"] == MODEL
    assert shown["details"]["parameter_size"] == "1.2B"
    assert running == {"models": []}


async def test_a_load_continues_after_its_client_disconnects() -> None:
    """The next request finds the model loaded."""
    async with Simulator([replace(SMALL, load_time=0.05)]) as sim:
        async with opened(sim, CHAT, chat()):
            await sim.wait_for(lambda: sim.loading == MODEL)
        await sim.wait_for(lambda: sim.loaded == [MODEL])
        await request(sim, CHAT, chat())

    assert sim.stats.loads == 1
    assert sim.stats.generations_started == 1


async def test_a_full_loading_queue_rejects_requests() -> None:
    models = [SMALL, slow(BIG)]
    body = chat(model="big:70b")
    async with Simulator(models, max_queue=1) as sim, opened(sim, CHAT, body):
        await sim.wait_for(lambda: sim.loading == "big:70b")
        async with opened(sim, CHAT, body):
            await sim.wait_for(lambda: sim.stats.queued == 2)
            refused = await request(sim, CHAT, body)

    assert refused.status_line == "HTTP/1.1 503 Service Unavailable"
    assert "maximum pending requests exceeded" in (refused.body or "")
    assert sim.stats.refused == 1


async def test_the_queue_of_a_loaded_model_is_unbounded() -> None:
    async with Simulator(max_queue=1) as sim:
        await request(sim, CHAT, chat())
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(request(sim, CHAT, chat(str(n)))) for n in range(20)]

    assert {done.result().status_line for done in calls} == {"HTTP/1.1 200 OK"}


async def test_another_context_reloads_the_model() -> None:
    async with Simulator() as sim:
        await request(sim, "/api/chat", chat(options={"num_ctx": 8192}))
        wide = (await request_json(sim, "/api/ps"))["models"][0]["context_length"]
        await request(sim, CHAT, chat())
        usual = (await request_json(sim, "/api/ps"))["models"][0]["context_length"]

    assert (wide, usual) == (8192, 4096)
    assert (sim.stats.loads, sim.stats.unloads) == (2, 1)


async def test_keep_alive_unloads_or_pins_a_model() -> None:
    """0 without a prompt unloads; a negative number keeps it loaded for ever."""
    async with Simulator() as sim:
        await request(sim, "/api/generate", {"model": MODEL, "keep_alive": -1})
        pinned = (await request_json(sim, "/api/ps"))["models"][0]["expires_at"]
        unloaded = await request_json(sim, "/api/generate", {"model": MODEL, "keep_alive": 0})

        assert pinned > "2200"
        assert unloaded["done_reason"] == "unload"
        assert sim.loaded == []


async def test_idle_models_expire() -> None:
    async with Simulator(keep_alive=0.01) as sim:
        await request(sim, CHAT, chat())
        await sim.wait_for(lambda: sim.loaded == [])

    assert sim.stats.unloads == 1


async def test_durations_are_simulated_seconds() -> None:
    """Whatever they take in real time."""
    model = replace(SMALL, load_time=20.0, tokens_per_second=10.0, prompt_tokens_per_second=10.0)
    async with Simulator([model], time_scale=0.001) as sim:
        body = await request_json(sim, "/api/chat", chat(stream=False, options={"num_predict": 50}))

    assert body["load_duration"] >= 20e9
    assert body["eval_duration"] >= 5e9
    assert body["prompt_eval_duration"] >= 1e9
    assert body["total_duration"] >= body["load_duration"] + body["eval_duration"]
    assert sim.stats.loading_seconds >= 20.0
    assert sim.stats.generating_seconds >= 5.0


async def test_abandoned_seconds_are_counted() -> None:
    model = replace(SMALL, tokens_per_second=1000.0)
    async with Simulator([model]) as sim:
        async with opened(sim, CHAT, chat(stream=True, max_tokens=10**5)) as reader:
            await reader.readuntil(b"\n\n")
        await sim.wait_for(lambda: sim.stats.active == 0)

    assert sim.stats.abandoned_seconds > 0
    assert 0 < sim.stats.tokens_abandoned == sim.stats.tokens_generated < 10**5


async def test_repr_shows_the_state() -> None:
    async with Simulator() as sim:
        await request(sim, CHAT, chat())

        assert repr(sim) == (
            "<Simulator 0 active, 0 queued, 8 tokens, 1 finished, 0 abandoned, 0 failed, "
            "<Gpu [llama3.2:1b 0 users], 0 pending>>"
        )
        assert json.dumps(sim.loaded) == '["llama3.2:1b"]'
