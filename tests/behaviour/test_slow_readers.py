"""A client that reads slowly does not occupy the GPU, and one that reads nothing times out."""

import asyncio
from pathlib import Path
from typing import Any

from gateway.simulator import Fault

from .concurrent import MIB, in_set_up, say, set_up
from .dialect_specs import OPENAI
from .wire import raw_client, request


async def test_slow_client_does_not_occupy_the_gpu(tmp_path: Path) -> None:
    """Its complete response is read ahead: the next request is served meanwhile."""
    async with set_up(tmp_path) as (sim, gateway):
        sim.fault(Fault.huge(12 * MIB))
        async with raw_client(gateway.port, limit=1 << 16) as slow:
            slow.send(request(OPENAI.path, OPENAI.body(), headers=gateway.bearer))
            await sim.wait_for(lambda: sim.stats.generations_finished == 1)
            await in_set_up(gateway, 0, 0)
            next_one = await say(gateway)
            still = repr(gateway.gateway.handler)
            response = await slow.response()

        assert next_one.status == 200
        assert still == "<RequestHandler 1 active>"
        assert (response.complete, len(response.body) > 12 * MIB) == (True, True)


async def test_stream_is_read_ahead_within_the_limit(tmp_path: Path) -> None:
    """A stream below ``read_ahead_bytes`` is finished, whatever its client does."""
    async with set_up(tmp_path, limits={"read_ahead_bytes": 12 * MIB}) as (sim, gateway):
        sim.fault(Fault.huge(10 * MIB))
        async with raw_client(gateway.port, limit=1 << 16) as slow:
            body = OPENAI.body(stream=True)
            slow.send(request(OPENAI.path, body, headers=gateway.bearer))
            await sim.wait_for(lambda: sim.stats.generations_finished == 1)
            await in_set_up(gateway, 0, 0)
            status, _ = await slow.head()
            rest, complete = await slow.rest()

        assert (status, complete, rest.endswith(b"data: [DONE]\n\n")) == (200, True, True)


async def test_ollama_waits_beyond_the_read_ahead(tmp_path: Path) -> None:
    """No more is kept in memory; once the client reads on, Ollama goes on."""
    async with set_up(tmp_path, limits={"read_ahead_bytes": MIB}) as (sim, gateway):
        sim.fault(Fault.huge(64 * MIB))
        async with raw_client(gateway.port, limit=1 << 16) as slow:
            body = OPENAI.body(stream=True)
            slow.send(request(OPENAI.path, body, headers=gateway.bearer))
            await sim.wait_for(lambda: sim.stats.blocked == 1)
            (connection,) = gateway.gateway.host.upstream._in_use
            unread = int(repr(connection._reply).split(", ")[1].split()[0])
            await slow.head()
            size = 0
            async with asyncio.timeout(20):
                while data := await slow.reader.read(MIB):
                    size += len(data)
                    if data.endswith(b"0\r\n\r\n"):
                        break

        assert unread <= MIB
        assert size > 64 * MIB
        assert (await gateway.finished())[0]["outcome"] == "ok"


async def test_client_that_reads_nothing_times_out(tmp_path: Path) -> None:
    """``write_timeout``: the slot is free, and Ollama stops."""
    tables: dict[str, Any] = {
        "limits": {"read_ahead_bytes": 64 * 1024},
        "timeouts": {"write_timeout": 0.3},
    }
    async with set_up(tmp_path, **tables) as (sim, gateway):
        sim.fault(Fault.huge(64 * MIB))
        async with raw_client(gateway.port, limit=1 << 16) as slow:
            body = OPENAI.body(stream=True)
            slow.send(request(OPENAI.path, body, headers=gateway.bearer))
            await sim.wait_for(lambda: sim.stats.blocked == 1)
            next_one = await say(gateway)
            line = (await gateway.finished(2))[0]

        assert next_one.status == 200
        assert (line["outcome"], line["status"], line["phase"]) == (
            "client_write_timeout",
            499,
            "relay",
        )
        assert sim.stats.generations_abandoned == 1
