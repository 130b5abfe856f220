"""Every table of settings but those of clocks: names, kinds, defaults, and what they mean to the
person who sets them.

The docstring below a setting is its description, word for word the comment above it in
``config/gateway.toml``; a test holds the two together.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, model_validator

from gateway.settings.table import TABLE, contradiction
from gateway.settings.values import (
    Address,
    Bytes,
    CountOrAuto,
    FilePath,
    HeaderName,
    HostName,
    ListenAddress,
    Network,
    OllamaUrl,
    Seconds,
    one_of,
    parse_list,
    parse_seconds_or_zero,
    whole_number,
)

MIB = 1 << 20

_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  - recognised, not bound to


class ListenSettings(BaseModel):
    model_config = TABLE

    public: ListenAddress = Address("127.0.0.1", 11_435)
    """What the tunnel and your own programs connect to, as host:port. 127.0.0.1 is this machine
    alone, which is all that a tunnel on the same machine needs; 0.0.0.0 is every network that this
    machine is in, and what a container needs. Port 0 takes any free port."""

    admin: ListenAddress = Address("127.0.0.1", 11_436)
    """Where metrics, health and the status page are, as host:port. Never point a tunnel at it. On
    any address but 127.0.0.1 and ::1 it asks for a key with the scope "admin"."""

    admin_hosts: Annotated[tuple[HostName, ...], BeforeValidator(parse_list)] = ()
    """Further host names by which the admin pages may be asked for, for example ["gateway"] when a
    Prometheus in another container uses that name. Other names are refused, so that no web page
    in your browser can reach them by a trick with names."""

    @model_validator(mode="after")
    def _two_places(self) -> Self:
        here, there = self.public, self.admin
        same_host = here.host == there.host or _ANYWHERE & {here.host, there.host}
        if here.port and here.port == there.port and same_host:
            raise contradiction(
                "two listeners cannot share a place: choose another port",
                public=str(here),
                admin=str(there),
            )
        return self


class OllamaSettings(BaseModel):
    model_config = TABLE

    url: OllamaUrl = "http://127.0.0.1:11434"
    """Where Ollama listens: http:// or https://, host and port, nothing behind it. Change it when
    Ollama runs on another machine or in a container. Ollama itself should not be reachable from
    outside: it asks nobody for a key."""


class KeysSettings(BaseModel):
    model_config = TABLE

    file: FilePath = ""
    """The file with the keys (their fingerprints, from which no key can be read). Empty means
    keys.toml beside this file; a path that begins with neither / nor ~/ starts at this file's
    folder. It is made by `ollama-gateway init` and `ollama-gateway keys create`."""


class SchedulerSettings(BaseModel):
    model_config = TABLE

    max_active: Annotated[int, whole_number(1, 1024)] = 2
    """How many requests Ollama works on at once, all models together; the others wait their turn
    here. A second model is only asked while the first one works if both fit into memory, so 2 is
    right for one GPU: a chat model and an embedding model. More helps when Ollama answers in
    parallel (OLLAMA_NUM_PARALLEL)."""

    max_active_per_model: Annotated[int, whole_number(1, 1024)] = 1
    """How many of them may use one model: the same number as OLLAMA_NUM_PARALLEL, which is 1
    unless you changed it. A single model can get its own number under [[models]]."""

    max_queued: Annotated[int, whole_number(0, 100_000)] = 64
    """How many requests may wait. When as many do, the next one is told to come back later (503).
    With 0 nobody waits."""

    max_queued_per_key: Annotated[int, whole_number(0, 100_000)] = 16
    """How many of those may have come with the same key, so that one program cannot take the whole
    queue. Beyond it that key is told to slow down (429). At most max_queued."""

    max_loaded_models: CountOrAuto = "auto"
    """How many models are in memory at once. "auto" learns it from what Ollama shows. Give the
    number where you know it better, such as 1 for a GPU that holds one model at a time."""

    max_affinity_delay: Annotated[float, BeforeValidator(parse_seconds_or_zero)] = 30.0
    """How long a request may be passed over by others whose model is loaded already, because
    loading takes long. 0 swaps models at every turn; longer swaps less often."""

    @model_validator(mode="after")
    def _one_key_within_all(self) -> Self:
        if self.max_queued_per_key > self.max_queued:
            raise contradiction(
                "one key cannot have more waiting than all together: lower the first or raise the "
                "second",
                max_queued_per_key=self.max_queued_per_key,
                max_queued=self.max_queued,
            )
        return self


class StateSettings(BaseModel):
    model_config = TABLE

    file: FilePath = ""
    """The file with what was learned about each model's speed. Empty means state.json beside the
    config file. It may be deleted at any time, and nothing but a little accuracy is lost."""


class LimitsSettings(BaseModel):
    model_config = TABLE

    body_bytes: Bytes = 32 * MIB
    """The largest request that is accepted. Raise it to send large pictures or documents; tunnels
    have limits of their own (Cloudflare's is 100 MB)."""

    buffered_bytes: Bytes = 512 * MIB
    """How much memory all requests together may take while they arrive and wait. Beyond it new
    ones are told to come back later (503). Lower it on a machine with little memory, but not below
    body_bytes."""

    answer_bytes: Bytes = 1 * MIB
    """How much of each answer is taken from Ollama ahead of a caller who reads slowly, so that the
    GPU is free for the next one while that caller is still reading."""

    connections: Annotated[int, whole_number(1, 100_000)] = 512
    """How many connections callers may have open at once. It is there against floods; raise it if
    you ever have that many callers."""

    failures_per_minute: Annotated[int, whole_number(1, 100_000)] = 30
    """How many requests without a valid key are answered per minute and address before that
    address is told to wait (429). A valid key is never refused for it."""

    @model_validator(mode="after")
    def _one_body_within_all(self) -> Self:
        if self.body_bytes > self.buffered_bytes:
            raise contradiction(
                "the largest request would never fit: lower the first or raise the second",
                body_bytes=self.body_bytes,
                buffered_bytes=self.buffered_bytes,
            )
        return self


class CatalogSettings(BaseModel):
    model_config = TABLE

    ttl: Seconds = 60.0
    """How long the list of models is served from memory before Ollama is asked again.
    `ollama-gateway models --refresh` asks at once."""

    stale_limit: Seconds = 3600.0
    """How old a list may be that is still served while Ollama does not answer."""

    show: Annotated[Literal["safe", "full"], one_of("safe", "full")] = "safe"
    """What callers are told about a model. "safe" leaves out what tells about you and this machine:
    the model's file with its path, its template, its system prompt. "full" passes all of it on."""

    @model_validator(mode="after")
    def _stale_is_older(self) -> Self:
        if self.stale_limit < self.ttl:
            raise contradiction(
                "a list would be too old before it is due to be renewed: raise the first or lower "
                "the second",
                stale_limit=self.stale_limit,
                ttl=self.ttl,
            )
        return self


class TrustedProxy(BaseModel):
    model_config = TABLE

    address: Network
    """The proxy's own address, or the network that it is in."""

    header: HeaderName
    """The header in which it names the caller, such as "CF-Connecting-IP" or "X-Forwarded-For"."""


class ProxiesSettings(BaseModel):
    model_config = TABLE

    trusted: Annotated[tuple[TrustedProxy, ...], BeforeValidator(parse_list)] = ()
    """Tunnels and proxies that are believed when they say whom a request came from: the address
    they connect from, and the header in which they say it. For cloudflared on this machine:
    [{ address = "127.0.0.1", header = "CF-Connecting-IP" }]. Without it, everybody who comes
    through the tunnel counts as one address."""


class LogSettings(BaseModel):
    model_config = TABLE

    level: Annotated[
        Literal["debug", "info", "warning", "error"], one_of("debug", "info", "warning", "error")
    ] = "info"
    """How much is logged: "debug", "info" (one line per request), "warning" or "error". Prompts,
    answers and keys never are."""

    format: Annotated[Literal["json", "console"], one_of("json", "console")] = "json"
    """"json" is one object per line, for programs; "console" is for reading along."""
