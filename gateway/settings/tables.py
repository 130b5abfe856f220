"""Every table of settings: names, kinds, defaults, and what they mean to the person who sets them.

The docstring below a setting is its description, word for word the comment above it in
``config/gateway.toml``; a test holds the two together.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from gateway.settings.values import (
    Address,
    Bytes,
    FilePath,
    HeaderName,
    HostName,
    ListenAddress,
    Network,
    OllamaUrl,
    Pattern,
    Seconds,
    SecondsOrAuto,
    one_of,
    parse_list,
    whole_number,
)

MIB = 1 << 20

_TABLE = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  - recognised, not bound to


def contradiction(why: str, **values: object) -> PydanticCustomError:
    """Settings of one table, with their values, that are each fine and cannot hold together.

    ``why`` says so, and what to do.
    """
    return PydanticCustomError("contradiction", "{why}", {"why": why, "values": values})


class Listen(BaseModel):
    model_config = _TABLE

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


class Ollama(BaseModel):
    model_config = _TABLE

    url: OllamaUrl = "http://127.0.0.1:11434"
    """Where Ollama listens: http:// or https://, host and port, nothing behind it. Change it when
    Ollama runs on another machine or in a container. Ollama itself should not be reachable from
    outside: it asks nobody for a key."""


class Keys(BaseModel):
    model_config = _TABLE

    file: FilePath = ""
    """The file with the keys (their fingerprints, from which no key can be read). Empty means
    keys.toml beside this file; a path that begins with neither / nor ~/ starts at this file's
    folder. It is made by `ollama-gateway init` and `ollama-gateway keys create`."""


class Admission(BaseModel):
    model_config = _TABLE

    max_active: Annotated[int, whole_number(1, 1024)] = 1
    """How many requests Ollama works on at once, all models together; the others wait their turn
    here. 1 is right for one GPU that holds one model. More helps when Ollama answers in parallel
    (OLLAMA_NUM_PARALLEL) or keeps several models loaded (OLLAMA_MAX_LOADED_MODELS)."""

    max_active_per_model: Annotated[int, whole_number(1, 1024)] = 1
    """How many of them may use one model: the same number as OLLAMA_NUM_PARALLEL, which is 1
    unless you changed it. A single model can get its own number under [[models]]."""

    max_queued: Annotated[int, whole_number(0, 100_000)] = 64
    """How many requests may wait. When as many do, the next one is told to come back later (503).
    With 0 nobody waits."""

    max_queued_per_key: Annotated[int, whole_number(0, 100_000)] = 16
    """How many of those may have come with the same key, so that one program cannot take the whole
    queue. Beyond it that key is told to slow down (429). At most max_queued."""

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


class Limits(BaseModel):
    model_config = _TABLE

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


class Clocks(BaseModel):
    model_config = _TABLE

    head_timeout: Seconds = 15.0
    """From a new connection to the end of its first request's headers; then it is closed."""

    body_timeout: Seconds = 30.0
    """From the headers to the last byte of the request; then the answer is 408. Raise it when large
    requests come over a slow line."""

    queue_timeout: Seconds = 300.0
    """How long a request waits for its turn; then the answer is 503 with the advice to come back.
    Never longer than the caller itself is willing to wait."""

    connect_timeout: Seconds = 5.0
    """How long to try to connect to Ollama; then the answer is 502."""

    first_byte_timeout: SecondsOrAuto = "auto"
    """For streams: from the request to Ollama until its first byte, which includes loading the
    model and reading the prompt. "auto" goes by the model's size: 60 seconds up to 1.5B
    parameters, 90 up to 4B, 120 up to 9B, 180 up to 15B, 300 up to 34B, 600 up to 72B, 1800
    above."""

    idle_timeout: SecondsOrAuto = "auto"
    """For streams: the longest silence between two pieces of the answer. "auto" is the same as
    first_byte_timeout, for Ollama is silent while it puts a tool call together."""

    total_timeout: SecondsOrAuto = "auto"
    """For answers in one piece: from the request to Ollama until the answer is whole. "auto" goes
    by the model's size as above. Raise it (or use [[models]]) when long answers end in 504."""

    stream_total_timeout: Seconds = 1800.0
    """For streams: from the request to Ollama until the last byte."""

    ceiling: Seconds = 1800.0
    """Callers can say how long they will wait, and get that much when it is more than "auto" gives
    them; this is the most they get."""

    write_timeout: Seconds = 30.0
    """How long a caller may take nothing of an answer that is ready; then it is cut off."""

    keepalive_timeout: Seconds = 120.0
    """How long an idle connection of a caller stays open. Above 90 seconds, or cloudflared will at
    times use a connection that has just been closed."""

    drain_timeout: Seconds = 120.0
    """How long running answers may go on after the gateway was told to stop. What stops it
    (systemd, a container engine) must wait longer than this."""

    @model_validator(mode="after")
    def _first_byte_within_all(self) -> Self:
        first = self.first_byte_timeout
        if first != "auto" and first > self.stream_total_timeout:
            raise contradiction(
                "the whole stream would end before its first byte is late: lower the first or "
                "raise the second",
                first_byte_timeout=self.first_byte_timeout,
                stream_total_timeout=self.stream_total_timeout,
            )
        return self


class ModelRule(BaseModel):
    model_config = _TABLE

    match: Pattern
    """Which models: a name in which * and ? are wildcards, such as "llama3.3:70b" or "qwen*". Of
    several entries that match, the first counts."""

    total_timeout: Seconds | None = None
    """As in [clocks], for these models; it holds as it is, whatever a caller says."""

    first_byte_timeout: Seconds | None = None
    """As in [clocks], for these models; it holds as it is, whatever a caller says."""

    max_active: Annotated[int, whole_number(1, 1024)] | None = None
    """How many requests may use each of these models at once."""


class Catalog(BaseModel):
    model_config = _TABLE

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
    model_config = _TABLE

    address: Network
    """The proxy's own address, or the network that it is in."""

    header: HeaderName
    """The header in which it names the caller, such as "CF-Connecting-IP" or "X-Forwarded-For"."""


class Proxies(BaseModel):
    model_config = _TABLE

    trusted: Annotated[tuple[TrustedProxy, ...], BeforeValidator(parse_list)] = ()
    """Tunnels and proxies that are believed when they say whom a request came from: the address
    they connect from, and the header in which they say it. For cloudflared on this machine:
    [{ address = "127.0.0.1", header = "CF-Connecting-IP" }]. Without it, everybody who comes
    through the tunnel counts as one address."""


class Log(BaseModel):
    model_config = _TABLE

    level: Annotated[
        Literal["debug", "info", "warning", "error"], one_of("debug", "info", "warning", "error")
    ] = "info"
    """How much is logged: "debug", "info" (one line per request), "warning" or "error". Prompts,
    answers and keys never are."""

    format: Annotated[Literal["json", "console"], one_of("json", "console")] = "json"
    """"json" is one object per line, for programs; "console" is for reading along."""
