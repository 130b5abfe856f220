"""A fake Ollama: responds from its attributes after ``latency`` seconds of virtual time."""

import asyncio

import msgspec

from gateway.models.catalog import ShowReply
from gateway.models.listing import Model, parse_listing


def tags_of(*names: str, digest: str = "d1") -> bytes:
    entries = [
        {
            "name": name,
            "model": name,
            "modified_at": "2026-11-22T12:08:13.079932305Z",
            "size": 4_000_000_000,
            "digest": digest,
            "details": {"parameter_size": "8.0B"},
        }
        for name in names
    ]
    return msgspec.json.encode({"models": entries})


def model_of(name: str = "tiny:latest", digest: str = "d1") -> Model:
    return parse_listing(tags_of(name, digest=digest), fetched_at=0.0).models[0]


class FakeProbes:
    """``error`` is raised by every method while it is set; ``asked`` records the questions."""

    def __init__(self, *names: str) -> None:
        self.tags_body = tags_of(*names)
        self.show_reply = ShowReply(200, b'{"license":"MIT"}')
        self.version_body = b'{"version":"0.33.0"}'
        self.ps_body = b'{"models":[]}'
        self.latency = 0.0
        self.error: Exception | None = None
        self.asked: list[str] = []

    def asked_for(self, what: str) -> int:
        return self.asked.count(what)

    async def tags(self) -> bytes:
        return await self._answer("tags", self.tags_body)

    async def show(self, model: str, *, verbose: bool) -> ShowReply:
        reply = self.show_reply
        await self._answer(f"show {model}{' verbose' * verbose}", reply.body)
        return reply

    async def version(self) -> bytes:
        return await self._answer("version", self.version_body)

    async def ps(self) -> bytes:
        return await self._answer("ps", self.ps_body)

    async def _answer(self, what: str, body: bytes) -> bytes:
        self.asked.append(what)
        await asyncio.sleep(self.latency)
        if self.error is not None:
            raise self.error
        return body
