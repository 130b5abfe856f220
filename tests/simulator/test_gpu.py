"""Loading, unloading and waiting follow Ollama's rules."""

import asyncio
import json
from dataclasses import replace

from gateway.simulator import USUAL_MODELS, SimulatedModel, Simulator
from tests.simulator.calls import CHAT, MODEL, answer, begun, call, chat

HOUR = 3600.0
SMALL = USUAL_MODELS[0]
BIG = replace(SMALL, name="big:70b")


def slow(model: SimulatedModel) -> SimulatedModel:
    return replace(model, load_time=HOUR)


async def test_slots_bound_what_runs_at_once() -> None:
    """With two slots the third call of a model waits."""
    async with Simulator(num_parallel=2) as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(call(sim, CHAT, chat(str(number))))
                await sim.wait_for(lambda: sim.stats.active == 2 and sim.stats.queued == 1)
                hold.end()

    assert sim.stats.peak_active == 2
    assert sim.stats.generations_finished == 3
    assert sim.stats.loads == 1


async def test_waiters_of_a_model_are_served_in_order() -> None:
    """First come, first served, also when one in the middle leaves."""
    served: list[str] = []

    async def asked(name: str) -> None:
        await call(sim, CHAT, chat(name))
        served.append(name)

    async with Simulator() as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                group.create_task(asked("first"))
                await sim.wait_for(lambda: hold.waiting == 1)
                group.create_task(asked("second"))
                await sim.wait_for(lambda: sim.stats.queued == 1)
                async with begun(sim, CHAT, chat("leaves")):
                    await sim.wait_for(lambda: sim.stats.queued == 2)
                    group.create_task(asked("third"))
                    await sim.wait_for(lambda: sim.stats.queued == 3)
                await sim.wait_for(lambda: sim.stats.queued == 2)
                hold.end()

    assert served == ["first", "second", "third"]
    assert sim.stats.generations_started == 3


async def test_slot_of_one_who_leaves_is_handed_on() -> None:
    """A call that leaves in the middle frees its slot for the next at once."""
    async with Simulator() as sim, asyncio.TaskGroup() as group:
        with sim.hold() as hold:
            async with begun(sim, CHAT, chat("leaves")):
                await sim.wait_for(lambda: hold.waiting == 1)
                waits = group.create_task(call(sim, CHAT, chat("next")))
                await sim.wait_for(lambda: sim.stats.queued == 1)
            await sim.wait_for(lambda: sim.stats.queued == 0 and sim.stats.active == 1)
            hold.end()
        reply = await waits

    assert reply.status_line == "HTTP/1.1 200 OK"
    assert sim.stats.generations_abandoned == 1


async def test_room_is_made_by_unloading_the_one_idle_longest() -> None:
    """With two places the model that was not used for longest makes way for a third."""
    names = ["a:1b", "b:1b", "c:1b"]
    models = [replace(SMALL, name=name) for name in names]
    async with Simulator(models, max_loaded_models=2) as sim:
        for name in ("a:1b", "b:1b", "a:1b", "c:1b"):
            await call(sim, CHAT, chat(model=name))

        assert sorted(sim.loaded) == ["a:1b", "c:1b"]
        assert (sim.stats.loads, sim.stats.unloads) == (3, 1)


async def test_a_busy_model_is_not_unloaded_under_its_call() -> None:
    """Who needs the only place waits until the one who has it is done."""
    async with Simulator([SMALL, BIG], max_loaded_models=1) as sim:
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(call(sim, CHAT, chat()))
                await sim.wait_for(lambda: sim.stats.active == 1)
                second = group.create_task(call(sim, CHAT, chat(model="big:70b")))
                await sim.wait_for(lambda: sim.stats.queued == 1)
                loaded_meanwhile = sim.loaded
                hold.end()

        assert loaded_meanwhile == [MODEL]
        assert first.result().status_line == second.result().status_line == "HTTP/1.1 200 OK"
        assert sim.loaded == ["big:70b"]


async def test_lists_answer_while_a_model_loads() -> None:
    """Tags, show, ps and version do not wait for the GPU."""
    async with Simulator([slow(SMALL)]) as sim, begun(sim, CHAT, chat()):
        await sim.wait_for(lambda: sim.loading == MODEL)
        tags = await answer(sim, "/api/tags")
        shown = await answer(sim, "/api/show", {"name": MODEL})
        running = await answer(sim, "/api/ps")

    assert tags["models"][0]["name"] == MODEL
    assert shown["details"]["parameter_size"] == "1.2B"
    assert running == {"models": []}


async def test_a_load_goes_on_without_who_asked_for_it() -> None:
    """The next call finds the model loaded that the one before had not waited for."""
    async with Simulator([replace(SMALL, load_time=0.05)]) as sim:
        async with begun(sim, CHAT, chat()):
            await sim.wait_for(lambda: sim.loading == MODEL)
        await sim.wait_for(lambda: sim.loaded == [MODEL])
        await call(sim, CHAT, chat())

    assert sim.stats.loads == 1
    assert sim.stats.generations_started == 1


async def test_too_many_for_models_not_loaded_are_refused() -> None:
    """One loads, as many as the queue holds wait, the next is told to come back."""
    models = [SMALL, slow(BIG)]
    asked = chat(model="big:70b")
    async with Simulator(models, max_queue=1) as sim, begun(sim, CHAT, asked):
        await sim.wait_for(lambda: sim.loading == "big:70b")
        async with begun(sim, CHAT, asked):
            await sim.wait_for(lambda: sim.stats.queued == 2)
            refused = await call(sim, CHAT, asked)

    assert refused.status_line == "HTTP/1.1 503 Service Unavailable"
    assert "maximum pending requests exceeded" in (refused.body or "")
    assert sim.stats.refused == 1


async def test_the_queue_of_a_loaded_model_has_no_bound() -> None:
    """With a queue of one, twenty calls at once to a loaded model are all answered."""
    async with Simulator(max_queue=1) as sim:
        await call(sim, CHAT, chat())
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(call(sim, CHAT, chat(str(n)))) for n in range(20)]

    assert {done.result().status_line for done in calls} == {"HTTP/1.1 200 OK"}


async def test_another_context_reloads() -> None:
    """A model loaded with one num_ctx is loaded again for a call that has another, or none."""
    async with Simulator() as sim:
        await call(sim, "/api/chat", chat(options={"num_ctx": 8192}))
        wide = (await answer(sim, "/api/ps"))["models"][0]["context_length"]
        await call(sim, CHAT, chat())
        usual = (await answer(sim, "/api/ps"))["models"][0]["context_length"]

    assert (wide, usual) == (8192, 4096)
    assert (sim.stats.loads, sim.stats.unloads) == (2, 1)


async def test_keep_alive_unloads_or_pins() -> None:
    """0 without a prompt unloads; negative is for ever, far beyond the default."""
    async with Simulator() as sim:
        await call(sim, "/api/generate", {"model": MODEL, "keep_alive": -1})
        pinned = (await answer(sim, "/api/ps"))["models"][0]["expires_at"]
        unloaded = await answer(sim, "/api/generate", {"model": MODEL, "keep_alive": 0})

        assert pinned > "2200"
        assert unloaded["done_reason"] == "unload"
        assert sim.loaded == []


async def test_models_expire() -> None:
    """What nobody uses for its keep-alive is unloaded."""
    async with Simulator(keep_alive=0.01) as sim:
        await call(sim, CHAT, chat())
        await sim.wait_for(lambda: sim.loaded == [])

    assert sim.stats.unloads == 1


async def test_loading_and_speaking_take_their_time() -> None:
    """Simulated seconds are counted and told, whatever they took in reality."""
    model = replace(SMALL, load_time=20.0, tokens_per_second=10.0, prompt_tokens_per_second=10.0)
    async with Simulator([model], time_scale=0.001) as sim:
        body = await answer(sim, "/api/chat", chat(stream=False, options={"num_predict": 50}))

    assert body["load_duration"] >= 20e9
    assert body["eval_duration"] >= 5e9
    assert body["prompt_eval_duration"] >= 1e9
    assert body["total_duration"] >= body["load_duration"] + body["eval_duration"]
    assert sim.stats.loading_seconds >= 20.0
    assert sim.stats.generating_seconds >= 5.0


async def test_what_was_generated_for_nobody_is_counted() -> None:
    """Seconds of a slot that went to a client who left are told apart."""
    model = replace(SMALL, tokens_per_second=1000.0)
    async with Simulator([model]) as sim:
        async with begun(sim, CHAT, chat(stream=True, max_tokens=10**5)) as reader:
            await reader.readuntil(b"\n\n")
        await sim.wait_for(lambda: sim.stats.active == 0)

    assert sim.stats.abandoned_seconds > 0
    assert 0 < sim.stats.tokens_abandoned == sim.stats.tokens_generated < 10**5


async def test_repr_tells_the_state() -> None:
    """A failing test shows what the simulator was doing."""
    async with Simulator() as sim:
        await call(sim, CHAT, chat())

        assert repr(sim) == (
            "<Simulator 0 active, 0 queued, 8 tokens, 1 finished, 0 abandoned, 0 failed, "
            "<Gpu [llama3.2:1b 0 users], 0 pending>>"
        )
        assert json.dumps(sim.loaded) == '["llama3.2:1b"]'
