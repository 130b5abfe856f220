"""Small questions to Ollama: what models there are, what one is, what is loaded."""

import json

from gateway.errors import UpstreamProtocolError
from gateway.timeouts import Deadlines
from gateway.upstream.client import Outgoing, Upstream

_CLOCKS = Deadlines(
    queue=0.0,
    connect=2.0,
    first_byte=10.0,
    first_byte_loaded=10.0,
    idle=10.0,
    total=30.0,
    write=10.0,
)
"""Ollama answers these within milliseconds, whatever else it does; who asks bounds it further."""


class Probes:
    """Asks, and gives back whole bodies. Raises what ``Upstream.fetch`` raises."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def tags(self) -> bytes:
        """The body of ``GET /api/tags``."""
        return await self._good("/api/tags")

    async def version(self) -> bytes:
        """The body of ``GET /api/version``."""
        return await self._good("/api/version")

    async def ps(self) -> bytes:
        """The body of ``GET /api/ps``."""
        return await self._good("/api/ps")

    async def show(self, model: str, *, verbose: bool) -> tuple[int, bytes]:
        """Status and body of ``POST /api/show``."""
        asked = {"model": model, "verbose": True} if verbose else {"model": model}
        request = Outgoing("POST", "/api/show", json.dumps(asked).encode())
        return await self._upstream.fetch(request, _CLOCKS)

    async def _good(self, path: str) -> bytes:
        status, body = await self._upstream.fetch(Outgoing("GET", path), _CLOCKS)
        if status != 200:
            raise UpstreamProtocolError(
                f"What answers at `ollama.url` says {status} to {path}. Is it an Ollama, and does "
                "it accept requests from this machine?"
            )
        return body
