"""How often prompts near the context window are reported wrongly: `python -m bench.truncated`.

A thousand prompts of each route and version, a tenth longer or shorter than the window, through a
complete gateway in front of the simulated Ollama. The simulator's rule tells which were truncated.
"""

import argparse
import asyncio
import json
import random
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from gateway.admin.app import admin_app
from gateway.app import build
from gateway.auth.keyfile import create_key
from gateway.auth.keys import KeySpec
from gateway.server import serving
from gateway.settings import Settings
from gateway.simulator import Simulator
from gateway.simulator.params import Message
from gateway.simulator.text import TEMPLATE_TOKENS, prompt_tokens

CONTEXT = 4096
VERSIONS = ("0.24.0", "0.33.0")
ALPHABETS = (
    "the of and water Wasser \n \t {} [] () == def return 1234567 \u00e4\u00f6\u00fc\u00df",
    "the of and to in is you that it he was for on are as with his they be at",
    "\u4f60\u597d \u4e16\u754c \u6c34 \u0434\u043e\u043c \u05d1\u05d9\u05ea \U0001f40e",
    'C:\\temp "quoted" <b>bold</b> &amp; \\\\ /path/to/file',
)
"""Plain words, and what is escaped in JSON in one way or another."""

Found = Counter[tuple[str, bool]]
"""Counts by `truncated`, `complete`, or `exactly` the window, and by whether it was reported."""


def text_of(rng: random.Random, size: int) -> str:
    """About ``size`` bytes of text."""
    words, made = rng.choice(ALPHABETS).split(" "), ""
    while len(made.encode()) < size:
        made += " ".join(rng.choices(words, k=20)) + " "
    return made.encode()[:size].decode(errors="ignore")


def messages_of(path: str, text: str) -> list[Message]:
    """Return what the model is given: one text, or a conversation."""
    if path == "/v1/completions":
        return [Message("user", text)]
    half = len(text) // 2
    first = Message("system", "Be brief.")
    return [first, Message("user", text[:half]), Message("assistant", text[half:])]


def body_of(path: str, messages: list[Message]) -> dict[str, Any]:
    if path == "/v1/completions":
        return {"prompt": messages[0].text}
    return {"messages": [{"role": one.role, "content": one.text} for one in messages]}


def tokens_of(messages: list[Message]) -> int:
    """Count by the simulator's rule, before anything is truncated."""
    return TEMPLATE_TOKENS + prompt_tokens("".join(f"{one.role} {one.text} " for one in messages))


async def count(version: str, path: str, number: int, folder: Path) -> Found:
    """Count prompts by what became of them."""
    found: Found = Counter()
    rng = random.Random(3)
    async with Simulator(version=version, time_scale=0, context=CONTEXT) as ollama:
        listen = {"public": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        settings = Settings.model_validate({"listen": listen, "ollama": {"url": ollama.url}})
        keys = folder / f"{version}{path.replace('/', '-')}.toml"
        key = create_key(keys, KeySpec(name="bench"), datetime.now(UTC))
        gateway = build(settings, keys_file=keys, version="bench")
        async with (
            serving(gateway, admin_app(gateway)) as listening,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as client,
        ):
            for _ in range(number):
                size = int(4 * CONTEXT * rng.uniform(0.9, 1.1))
                messages = messages_of(path, text_of(rng, size))
                body = {"model": "llama3.2:1b", **body_of(path, messages)}
                data = json.dumps(body, ensure_ascii=rng.random() < 0.5)
                url = f"http://{listening.public}{path}"
                async with client.post(url, data=data.encode()) as response:
                    await response.read()
                    reported = "x-gateway-prompt-truncated" in response.headers
                tokens = tokens_of(messages)
                was = "truncated" if tokens > CONTEXT else "exactly"
                if tokens < CONTEXT:
                    was = "complete"
                found[was, reported] += 1
    return found


async def main(number: int) -> None:
    with tempfile.TemporaryDirectory(prefix="truncated-") as folder:
        for version in VERSIONS:
            for path in ("/v1/chat/completions", "/v1/completions"):
                found = await count(version, path, number, Path(folder))
                print(
                    f"{version} {path}: {number} prompts, {found['truncated', True]} truncated and "
                    f"reported, {found['truncated', False]} truncated and not reported, "
                    f"{found['complete', True]} false alarms, "
                    f"and {found['exactly', True]} of exactly {CONTEXT} tokens"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="bench.truncated", description="How often prompts near the limit are reported wrongly."
    )
    parser.add_argument("number", nargs="?", type=int, default=1000, help="prompts of each kind")
    asyncio.run(main(parser.parse_args().number))
