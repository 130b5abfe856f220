"""What was asked, frozen: everything the pipeline needs to know of a request."""

import hashlib

from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.dialects import Dialect
from gateway.models.listing import Model
from gateway.proxy.prompt import UNKNOWN, Prompt


class Target(Struct, frozen=True):
    """Where a route leads: Ollama's own path, a constant, and how that family speaks."""

    path: str
    dialect: Dialect
    can_stream: bool = True


class Call(Struct, frozen=True, kw_only=True):
    """One call. ``body`` is what goes to Ollama, built by us; ``patience`` is in seconds.

    ``held``: heartbeats renew the caller's patience, so it is no deadline.
    """

    request_id: str
    principal: Principal
    target: Target
    model: Model
    streaming: bool
    client_timeout: float | None
    body: bytes
    prompt: Prompt = UNKNOWN
    held: bool = False
    dropped: tuple[str, ...] = ()

    def fingerprint(self) -> bytes:
        """The same for two calls exactly when key, route and body are."""
        digest = hashlib.sha256(f"{self.principal.key}\n{self.target.path}\n".encode())
        digest.update(self.body)
        return digest.digest()
