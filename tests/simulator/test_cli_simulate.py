"""The command that runs a simulated Ollama."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.simulator.calls import chat, raw_request
from tests.simulator.replay import send

# Only this command: the others have their own tests.
PROGRAM = """
import argparse, sys
from gateway.cli import simulate
parser = argparse.ArgumentParser()
simulate.register(parser.add_subparsers())
arguments = parser.parse_args(sys.argv[1:])
sys.exit(arguments.run(arguments))
"""


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "simulate", *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    return (await process.stderr.readline()).decode().strip()


async def test_it_prints_its_address_and_stops_on_sigterm() -> None:
    """SIGTERM aborts running requests; the exit code is 0."""
    arguments = ("--listen", "127.0.0.1:0", "--version", "0.24.0", "--tokens-per-second", "5")
    async with started(*arguments) as process:
        printed = await line(process)
        port = int(printed.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = chat(stream=True, max_tokens=1000)
        writer.write(raw_request("/v1/chat/completions", body))
        first = await reader.readuntil(b"\n\n\r\n")
        os.kill(process.pid, signal.SIGTERM)
        rest = await reader.read()
        code = await process.wait()
        writer.close()
        await writer.wait_closed()

    assert re.fullmatch(r"Simulated Ollama 0\.24\.0 at http://127\.0\.0\.1:\d+", printed)
    assert b"data: {" in first
    assert not rest.endswith(b"0\r\n\r\n")
    assert code == 0


async def test_the_hardware_options_take_effect() -> None:
    """A load time in simulated seconds is part of the response, not of the test duration."""
    async with started(
        "--listen", "127.0.0.1:0", "--load-time", "60", "--time-scale", "0.001"
    ) as process:
        port = int((await line(process)).rpartition(":")[2])
        reply = await send(port, raw_request("/api/chat", chat(stream=False)), "POST")

    assert json.loads(reply.body or "")["load_duration"] >= 60e9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--listen", "nowhere"), "' must be HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "' must be HOST:PORT"),
        (("--version", "1.2.3"), "--version must be one of 0.24.0, 0.33.0"),
        (("--num-parallel", "0"), "at least 1"),
        (("--tokens-per-second", "0"), "not above 0"),
        (("--load-time", "-1"), "negative"),
        (("--time-scale", "nan"), "not a number"),
    ],
)
async def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], complaint: str) -> None:
    async with started(*arguments) as process:
        _, errors = await process.communicate()

    assert process.returncode == 2
    assert complaint in errors.decode()


async def test_a_port_in_use_exits_with_1() -> None:
    async with started("--listen", "127.0.0.1:0") as first:
        address = (await line(first)).rpartition("/")[2]
        async with started("--listen", address) as second:
            _, errors = await second.communicate()

    assert second.returncode == 1
    assert f"cannot listen on {address}" in errors.decode()
