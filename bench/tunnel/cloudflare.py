"""The tunnel of one run, in a process of its own: it cuts what is silent for 100 s, with 524.

    python -m bench.tunnel.cloudflare TARGET_PORT SCALE [--rewrite-host]

``--rewrite-host`` is what an owner has to set in front of Ollama itself, which refuses names that
are not its machine's. ``count`` tells how many answers were cut.
"""

import asyncio
import sys
from dataclasses import replace

from bench.goodput.processes import commands, tell
from tests.simulated_tunnel import Tunnel, TunnelBehaviour


async def _serve(target: int, scale: float, *, rewrite_host: bool) -> None:
    behaviour = TunnelBehaviour.cloudflare().scaled(scale)
    if rewrite_host:
        behaviour = replace(behaviour, host="")
    async with Tunnel(target, behaviour) as tunnel:
        tell(tunnel.port)
        async for _ in commands():
            tell(tunnel.stats.aborted_silent)


if __name__ == "__main__":
    rewrite = "--rewrite-host" in sys.argv
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), rewrite_host=rewrite))
