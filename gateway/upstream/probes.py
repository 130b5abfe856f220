"""Small requests to Ollama: which models there are, what one of them is, what is loaded."""

import json
from typing import Final

from gateway.errors import UpstreamProtocolError
from gateway.timeouts import Deadlines
from gateway.upstream.client import Outgoing, Upstream

_DEADLINES: Final = Deadlines(
    queue=0.0,
    connect=2.0,
    first_byte=10.0,
    first_byte_loaded=10.0,
    idle=10.0,
    total=30.0,
    write=10.0,
)
"""Ollama answers these within milliseconds, whatever else it does. Callers may bound it further."""


class Probes:
    """Reads Ollama's lists. Raises what ``Upstream.fetch`` raises."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def tags(self) -> bytes:
        """Return the body of ``GET /api/tags``."""
        return await self._get("/api/tags")

    async def version(self) -> bytes:
        """Return the body of ``GET /api/version``."""
        return await self._get("/api/version")

    async def ps(self) -> bytes:
        """Return the body of ``GET /api/ps``."""
        return await self._get("/api/ps")

    async def show(self, model: str, *, verbose: bool) -> tuple[int, bytes]:
        """Return status and body of ``POST /api/show``."""
        fields = {"model": model, "verbose": True} if verbose else {"model": model}
        request = Outgoing("POST", "/api/show", json.dumps(fields).encode())
        return await self._upstream.fetch(request, _DEADLINES)

    async def _get(self, path: str) -> bytes:
        status, body = await self._upstream.fetch(Outgoing("GET", path), _DEADLINES)
        if status != 200:
            raise UpstreamProtocolError(
                f"The server at `ollama.url` answered {status} to {path}. Check that it is Ollama "
                "and accepts requests from this machine."
            )
        return body
