"""The simulated Ollama of one run, in a process of its own: one answer at a time.

    python -m bench.tunnel.ollama SPEC

``count`` tells the counters.
"""

import asyncio
import sys

import msgspec

from bench.goodput.processes import commands, tell
from bench.goodput.world import TOKENS
from bench.tunnel.world import Spec
from gateway.simulator import Simulator


async def _serve(spec: Spec) -> None:
    simulator = Simulator(
        [spec.simulated],
        num_parallel=1,
        time_scale=spec.scale,
        output_tokens=TOKENS,
        keep_requests=0,
    )
    async with simulator:
        tell(simulator.port)
        async for _ in commands():
            stats = simulator.stats
            tell(
                {
                    "begun": stats.generations_started,
                    "tokens": stats.tokens_generated,
                    "seconds": stats.generating_seconds,
                }
            )


if __name__ == "__main__":
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1], type=Spec)))
