"""The simulated Ollama of one run, in a process of its own: one answer at a time on each model.

    python -m bench.goodput.gpu SPEC

``count`` tells the counters. ``freeze`` stops all generations where they stand first: answers that
are whole by then can still reach their callers, and no other comes after the count.
"""

import asyncio
import sys
from dataclasses import asdict

import msgspec

from bench.goodput.processes import commands, tell
from bench.goodput.world import TOKENS, Model, Spec
from gateway.simulator import SimulatedModel, Simulator


def _simulated(model: Model, load_seconds: float) -> SimulatedModel:
    return SimulatedModel(
        name=model.name,
        parameter_size=model.parameter_size,
        size=4_000_000_000,
        load_time=load_seconds,
        tokens_per_second=TOKENS / model.answer_seconds,
    )


async def _serve(spec: Spec) -> None:
    simulator = Simulator(
        [_simulated(model, spec.load_seconds) for model in spec.models],
        num_parallel=1,
        max_loaded_models=spec.max_loaded,
        time_scale=spec.scale,
        output_tokens=TOKENS,
        keep_requests=0,
    )
    async with simulator:
        tell(simulator.port)
        async for command in commands():
            assert command in ("count", "freeze")
            if command == "freeze":
                simulator.hold()
            tell({**asdict(simulator.stats), "requests": sum(simulator.stats.requests.values())})


if __name__ == "__main__":
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=Spec)))
