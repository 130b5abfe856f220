"""Every setting: its name, type and default, and what it does.

The gateway receives these frozen objects as they are. Times are seconds, sizes are bytes, and a
setting at "auto" is None.

The docstrings of a section and of its settings are the comments in ``config/gateway.toml``, word
for word; a test compares them. A new setting needs an attribute here, its lines in that file, and
its row in docs/settings.md.
"""

from collections import Counter
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from gateway.settings.types import (
    Address,
    AnyCase,
    Bytes,
    CountOrAuto,
    FilePath,
    HeaderName,
    HostName,
    ListenAddress,
    ModelPattern,
    Network,
    OllamaUrl,
    Seconds,
    SecondsOrAuto,
    SecondsOrZero,
    integer_between,
    parse_list,
)

_MIB: Final = 1 << 20
_ALL_INTERFACES: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  - recognised, not bound

_TUNNEL_IDLE_LIMITS: Final = MappingProxyType({"cloudflare": 100.0, "ngrok": 300.0})
"""Seconds without a byte of the body after which these tunnels abort a response, as measured."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _contradiction(why: str, **values: object) -> PydanticCustomError:
    """Return the error for settings of one section that are each valid but not together.

    Args:
        why: what is wrong with them, and what to do.
        values: the settings by name.
    """
    return PydanticCustomError("contradiction", "{why}", {"why": why, "values": values})


class ListenSettings(_Section):
    """The addresses of the two listeners: public for clients, admin for you."""

    public: ListenAddress = Address("127.0.0.1", 11_435)
    """The address, as host:port, that your tunnel and local programs connect to. 127.0.0.1 accepts
    connections from this machine only, which is all that a tunnel on the same machine needs.
    0.0.0.0 accepts connections from every network that this machine is in, which a container needs.
    Port 0 picks a free port."""

    admin: ListenAddress = Address("127.0.0.1", 11_436)
    """The address, as host:port, of the metrics, the health checks and the status page. Never point
    a tunnel at it. On any address other than 127.0.0.1 and ::1 it requires a key with the scope
    "admin"."""

    admin_hosts: Annotated[tuple[HostName, ...], BeforeValidator(parse_list)] = ()
    """Additional Host names that the admin listener accepts, for example ["gateway"] when a
    Prometheus in another container uses that name. Requests for any other name are refused, so that
    no web page in your browser can reach the admin listener (DNS rebinding)."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        public, admin = self.public, self.admin
        same_host = public.host == admin.host or _ALL_INTERFACES & {public.host, admin.host}
        if public.port and public.port == admin.port and same_host:
            raise _contradiction(
                "both listeners would use the same port: choose another one for one of them",
                public=str(public),
                admin=str(admin),
            )
        return self


class OllamaSettings(_Section):
    """The Ollama behind the gateway."""

    url: OllamaUrl = "http://127.0.0.1:11434"
    """The address of Ollama: http:// or https://, a host and a port, without a path. Change it when
    Ollama runs on another machine or in a container. Make sure that Ollama itself cannot be reached
    from outside: it has no authentication."""


class KeysSettings(_Section):
    """The keys of the clients."""

    file: FilePath = ""
    """The file that holds the keys: only their digests, from which no key can be recovered. Empty
    means keys.toml in the folder of the config file. A relative path starts at that folder, a path
    that begins with ~/ at your home folder. `ollama-gateway init` and `ollama-gateway keys create`
    create the file."""


class SchedulerSettings(_Section):
    """How many requests Ollama works on at once, and how many may wait in the queue."""

    max_active: Annotated[int, BeforeValidator(integer_between(1, 1024))] = 2
    """How many requests Ollama works on at once, for all models together. Further requests wait in
    the queue. Requests for two models run side by side only if both models fit into memory, so 2
    suits one GPU with a chat model and an embedding model. Raise it when Ollama serves requests in
    parallel (OLLAMA_NUM_PARALLEL)."""

    max_active_per_model: Annotated[int, BeforeValidator(integer_between(1, 1024))] = 1
    """How many requests Ollama works on at once for one model. Set it to the value of
    OLLAMA_NUM_PARALLEL, which is 1 unless you changed it. [[models]] can set it for a single
    model."""

    max_queued: Annotated[int, BeforeValidator(integer_between(0, 100_000))] = 64
    """How many requests may wait in the queue. When it is full, further requests are rejected with
    503 and a Retry-After. With 0 no request waits."""

    max_queued_per_key: Annotated[int, BeforeValidator(integer_between(0, 100_000))] = 16
    """How many requests of one key may wait in the queue, so that one program cannot fill it.
    Further requests of that key are rejected with 429. At most max_queued."""

    max_loaded_models: CountOrAuto = None
    """How many models Ollama keeps in memory at once. "auto" learns it from what Ollama reports.
    Set it if you know it, for example to 1 for a GPU that holds one model at a time."""

    max_affinity_delay: SecondsOrZero = 30.0
    """How long a request may be skipped in favour of requests whose model is already loaded.
    Loading a model takes long, so a longer delay means fewer model swaps. 0 gives no preference to
    loaded models."""

    @model_validator(mode="after")
    def _key_limit_within_queue(self) -> Self:
        if self.max_queued_per_key > self.max_queued:
            raise _contradiction(
                "one key cannot have more queued requests than the queue holds: lower the first or "
                "raise the second",
                max_queued_per_key=self.max_queued_per_key,
                max_queued=self.max_queued,
            )
        return self


class LimitsSettings(_Section):
    """Limits that protect the memory of this machine from large requests and many clients."""

    body_bytes: Bytes = 32 * _MIB
    """The largest request body that is accepted. Raise it to send large images or documents.
    Tunnels have limits of their own (Cloudflare: 100 MB)."""

    buffered_bytes: Bytes = 512 * _MIB
    """How much memory all request bodies together may use while they arrive and wait. Beyond it new
    requests are rejected with 503. Lower it on a machine with little memory, but not below
    body_bytes."""

    read_ahead_bytes: Bytes = 1 * _MIB
    """How much of a response is read from Ollama ahead of a client that reads slowly, so that the
    GPU is free for the next request while that client is still reading."""

    connections: Annotated[int, BeforeValidator(integer_between(1, 100_000))] = 512
    """How many connections clients may have open at once. It guards against denial of service.
    Raise it if you really have that many clients."""

    failures_per_minute: Annotated[int, BeforeValidator(integer_between(1, 100_000))] = 30
    """How many requests without a valid key one client address may make per minute. Further ones
    are rejected with 429. Requests with a valid key are never rejected for this reason."""

    @model_validator(mode="after")
    def _body_within_buffer(self) -> Self:
        if self.body_bytes > self.buffered_bytes:
            raise _contradiction(
                "the largest request would never fit: lower the first or raise the second",
                body_bytes=self.body_bytes,
                buffered_bytes=self.buffered_bytes,
            )
        return self


class TimeoutsSettings(_Section):
    """How long each step of a request may take. The error of a request that exceeds a timeout names
    the timeout.
    """

    head_timeout: Seconds = 15.0
    """From a new connection until the headers of its first request are complete. Then the
    connection is closed."""

    body_timeout: Seconds = 30.0
    """From the headers until the last byte of the request body. Then the response is 408. Raise it
    when large requests arrive over a slow connection."""

    queue_timeout: Seconds = 300.0
    """How long a request may wait in the queue. Then the response is 503 with a Retry-After. A
    request never waits longer than its client's own timeout, unless heartbeats extend that timeout;
    see [tunnel]."""

    connect_timeout: Seconds = 5.0
    """How long connecting to Ollama may take. Then the response is 502."""

    first_byte_timeout: SecondsOrAuto = None
    """For streaming responses: from sending the request to Ollama until the first byte of the
    response, which includes loading the model and processing the prompt. "auto" depends on the size
    of the model: 60 seconds up to 1.5B parameters, 90 up to 4B, 120 up to 9B, 180 up to 15B, 300 up
    to 34B, 600 up to 72B, 1800 above."""

    idle_timeout: SecondsOrAuto = None
    """For streaming responses: the longest time without a byte from Ollama. "auto" is the same as
    first_byte_timeout, because Ollama sends nothing while it assembles a tool call."""

    total_timeout: SecondsOrAuto = None
    """For non-streaming responses: from sending the request to Ollama until the response is
    complete. "auto" depends on the size of the model as above, or is the ceiling where heartbeats
    keep the connection open. Raise it (or use [[models]]) when long responses end with 504."""

    stream_total_timeout: Seconds = 1800.0
    """For streaming responses: from sending the request to Ollama until the last byte."""

    ceiling: Seconds = 1800.0
    """Clients can declare their own timeout, and get that much time when it is longer than "auto".
    This is the upper limit. Non-streaming responses that heartbeats keep alive may take this long;
    see [tunnel]."""

    adaptive_floor: SecondsOrAuto = None
    """The gateway measures how long each model takes on this machine, and gives a slow model more
    time than its size suggests. A number also lets it give a fast model less time, down to this
    many seconds. With "auto" no model gets less time than its size suggests."""

    write_timeout: Seconds = 30.0
    """How long a client may leave a response unread that is ready. Then the connection is
    closed."""

    keepalive_timeout: Seconds = 120.0
    """How long an idle connection of a client stays open. Keep it above 90 seconds: otherwise
    cloudflared sometimes uses a connection that has just been closed."""

    drain_timeout: Seconds = 120.0
    """How long running requests may continue after the gateway was told to stop. Whatever stops it
    (systemd, a container engine) must wait longer than this."""

    @model_validator(mode="after")
    def _first_byte_within_total(self) -> Self:
        first = self.first_byte_timeout
        if first is not None and first > self.stream_total_timeout:
            raise _contradiction(
                "the timeout of the complete stream would end before that of its first byte: lower "
                "the first or raise the second",
                first_byte_timeout=first,
                stream_total_timeout=self.stream_total_timeout,
            )
        return self


class TunnelSettings(_Section):
    """How responses reach clients through a tunnel."""

    profile: Annotated[Literal["auto", "cloudflare", "ngrok", "tailscale", "none"], AnyCase] = (
        "auto"
    )
    """The tunnel between the clients and this gateway. Tunnels abort a response that sends no bytes
    for too long. The gateway therefore sends heartbeats: single bytes that clients ignore. "auto"
    recognises the tunnel of each request by the headers that it adds. "none" sends no heartbeats,
    unless commit_after is set."""

    commit_after: SecondsOrAuto = None
    """How long a response may send nothing before heartbeats start. Until then a failure has its
    own status. Afterwards the status, 200, has already been sent, and a failure aborts the
    response. "auto" depends on the profile: 20 seconds for Cloudflare and unknown tunnels, 90 for
    ngrok and Tailscale. At most half of the timeout that the client declares."""

    heartbeat_interval: SecondsOrAuto = None
    """The longest time without a byte after that. "auto" depends on the profile: 15 seconds for
    Cloudflare and unknown tunnels, 60 for ngrok and Tailscale. At most half of the timeout that the
    client declares."""

    client_timeout: Annotated[Literal["extend", "respect"], AnyCase] = "extend"
    """Heartbeats also keep the read timeout of a client from expiring. "extend": a request with
    heartbeats may wait for timeouts.queue_timeout and take timeouts.ceiling. "respect": a request
    that cannot be completed within the read timeout of its client is rejected at once."""

    late_error: Annotated[Literal["abort", "object"], AnyCase] = "abort"
    """How a non-streaming response fails after heartbeats have started. "abort" closes the
    connection, so that no client takes the response for a success, and replays the failure to the
    retry that follows. "object" sends the error as JSON with status 200, for clients that look for
    it there."""

    @model_validator(mode="after")
    def _within_idle_limit(self) -> Self:
        limit = _TUNNEL_IDLE_LIMITS.get(self.profile)
        for name in ("commit_after", "heartbeat_interval"):
            seconds = getattr(self, name)
            if limit is not None and seconds is not None and seconds >= limit:
                raise _contradiction(
                    f"{self.profile} aborts a response that sends nothing for {limit:g} s: "
                    f"set {name} well below it",
                    profile=self.profile,
                    **{name: seconds},
                )
        return self


class IntegritySettings(_Section):
    """What to do about failures that Ollama does not report."""

    incomplete: Annotated[Literal["pass", "error"], AnyCase] = "pass"
    """What to do with a non-streaming response that Ollama marks as broken off, which happens when
    a model repeats itself. "pass" sends it to the client and counts it. "error" responds with
    502."""

    truncated_prompt: Annotated[Literal["pass", "error"], AnyCase] = "pass"
    """What to do with a prompt that is longer than the context of the model, which Ollama silently
    truncates. "pass" lets it happen, and reports it in the response headers, the log, a metric and
    the status of the model. "error" responds with 400, before Ollama starts to work wherever that
    is certain."""


class CatalogSettings(_Section):
    """What clients can see of the models."""

    ttl: Seconds = 60.0
    """How long the list of models is cached. `ollama-gateway models --refresh` fetches it at
    once."""

    stale_limit: Seconds = 3600.0
    """How old a cached list may be that is served while Ollama is unreachable."""

    show: Annotated[Literal["safe", "full"], AnyCase] = "safe"
    """Which details of a model clients can see. "safe" hides those that reveal something about you
    or this machine: the Modelfile with its path, the template, the system prompt. "full" shows all
    of them."""

    @model_validator(mode="after")
    def _stale_limit_above_ttl(self) -> Self:
        if self.stale_limit < self.ttl:
            raise _contradiction(
                "a list would be too old before it is refreshed: raise the first or lower the "
                "second",
                stale_limit=self.stale_limit,
                ttl=self.ttl,
            )
        return self


class TrustedProxy(_Section):
    """A tunnel or proxy that is trusted to name the address of a client."""

    address: Network
    """The address of the proxy, or the network that it is in."""

    header: HeaderName
    """The header that holds the client's address: "CF-Connecting-IP", "X-Forwarded-For"."""


class ProxiesSettings(_Section):
    """Which proxies may say where a request came from."""

    trusted: Annotated[tuple[TrustedProxy, ...], BeforeValidator(parse_list)] = ()
    """Tunnels and proxies that are trusted to name the address of a client: the address that they
    connect from, and the header that holds the client's address. For cloudflared on this machine:
    [{ address = "127.0.0.1", header = "CF-Connecting-IP" }]. Without it, all clients that come
    through the tunnel count as one address."""


class StateSettings(_Section):
    """What the gateway remembers across restarts."""

    file: FilePath = ""
    """The file with the measured speed of each model. Empty means state.json in the folder of the
    config file. You can delete it at any time; the gateway measures again."""


class LogSettings(_Section):
    """What the gateway logs."""

    level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = "info"
    """How much is logged: "debug", "info" (one line per request), "warning" or "error". Prompts,
    generated text and keys are never logged."""

    format: Annotated[Literal["json", "console"], AnyCase] = "json"
    """"json" writes one object per line, for programs. "console" is for people."""


class ModelRule(_Section):
    """Settings for one model or a family of models. Add one [[models]] with its settings for each,
    here at the end of the file. This entry is an example: remove the # before [[models]], before
    match, and before the settings that you need.
    """

    match: ModelPattern
    """The models that this entry applies to: a name in which * and ? are wildcards, such as
    "llama3.3:70b" or "qwen*". If several entries match, the first one applies."""

    total_timeout: Seconds | None = None
    """As in [timeouts], for these models. It applies whatever timeout a client declares."""

    first_byte_timeout: Seconds | None = None
    """As in [timeouts], for these models. It applies whatever timeout a client declares."""

    max_active: Annotated[int, BeforeValidator(integer_between(1, 1024))] | None = None
    """How many requests Ollama works on at once for each of these models."""


def _unique_patterns(rules: tuple[ModelRule, ...]) -> tuple[ModelRule, ...]:
    pattern, times = Counter(rule.match for rule in rules).most_common(1)[0] if rules else ("", 0)
    if times > 1:
        raise _contradiction(
            f'has two entries with match = "{pattern}": only the first would apply'
        )
    return rules


class Settings(BaseModel):
    """All settings. ``gateway.settings.load`` reads them; made directly, they read nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: ListenSettings = ListenSettings()
    ollama: OllamaSettings = OllamaSettings()
    keys: KeysSettings = KeysSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    limits: LimitsSettings = LimitsSettings()
    timeouts: TimeoutsSettings = TimeoutsSettings()
    models: Annotated[tuple[ModelRule, ...], AfterValidator(_unique_patterns)] = ()
    tunnel: TunnelSettings = TunnelSettings()
    integrity: IntegritySettings = IntegritySettings()
    catalog: CatalogSettings = CatalogSettings()
    proxies: ProxiesSettings = ProxiesSettings()
    state: StateSettings = StateSettings()
    log: LogSettings = LogSettings()
