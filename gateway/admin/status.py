"""The status of a gateway: the content of ``/status.json``, as one typed tree.

The server builds it (`gateway.admin.builder`), the status page and `ollama-gateway models` read
it, and the tests assert on it. Everything here is plain data and safe to show to the owner: names
of keys, never a secret or its digest.

Units: durations are seconds, sizes are bytes, rates are tokens per second, moments are RFC 3339 in
UTC. A value that is not known is null.
"""

from msgspec import Struct

from gateway.models.statistics import ModelStats
from gateway.telemetry.record import FinishedRequest


class Problem(Struct, frozen=True, kw_only=True):
    """Something that is wrong now, and how the owner fixes it.

    ``code`` names the kind of problem and stays the same from version to version. ``urgent``
    problems already make requests fail. In ``message`` and ``remedy`` a part between backticks is
    a command, a setting or another literal text.
    """

    code: str
    message: str
    remedy: str
    urgent: bool = True


class Totals(Struct, frozen=True, kw_only=True):
    """Sums since the gateway was started, of one key or one model."""

    requests: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class OllamaStatus(Struct, frozen=True, kw_only=True):
    """Ollama as the gateway sees it.

    Attributes:
        up: The last request for the model list got a response.
        error: Why there is no model list, null if there is one.
        model_count: The number of models in the list, null without a list.
        list_age: Seconds since the list was requested, null without a list.
        stale: Ollama does not respond, so the list may be outdated.
        resident: The models that are loaded or being loaded.
        max_loaded: How many models may be loaded at once, null if the owner did not set it.
        coresident: Sets of models that were in memory at the same time.
    """

    url: str
    up: bool
    error: str | None
    model_count: int | None
    list_age: float | None
    stale: bool
    resident: list[str]
    max_loaded: int | None
    coresident: list[list[str]]


class QueueStatus(Struct, frozen=True, kw_only=True):
    """The queued requests of one key for one model.

    ``oldest_wait`` is how long the oldest of them has waited. ``expected_wait`` is how long the
    newest of them will probably wait from now on, null if that cannot be estimated.
    """

    key: str
    model: str
    queued: int
    oldest_wait: float
    expected_wait: float | None


class SchedulerStatus(Struct, frozen=True, kw_only=True):
    """Slots and queue. ``queues`` begins with the one whose oldest request has waited longest."""

    active: int
    max_active: int
    queued: int
    max_queued: int
    oldest_wait: float
    draining: bool
    queues: list[QueueStatus]


class RequestInFlight(Struct, frozen=True, kw_only=True):
    """A request that is being served. ``duration`` is for how long; ``phase`` is as in the log."""

    request_id: str
    route: str
    key: str | None
    model: str | None
    phase: str
    duration: float
    heartbeats: int


class Timeout(Struct, frozen=True):
    """A time limit, and where it comes from."""

    seconds: float
    reason: str


class ModelTimeouts(Struct, frozen=True, kw_only=True):
    """The limits of a request that is sent now by a client that declares no timeout of its own.

    ``total`` is for a complete (non-streaming) response. The others are for a stream.
    """

    total: Timeout
    first_byte: Timeout
    idle: Timeout
    stream_total: Timeout


class ContextStatus(Struct, frozen=True, kw_only=True):
    """How long a prompt one model reads, and the prompts that were too long.

    Attributes:
        window: The context in force, in tokens.
        max_window: The largest context that the model supports, in tokens.
        prompts_truncated: Prompts that Ollama truncated silently.
        prompts_rejected: Prompts that the gateway rejected because they do not fit.
        last_too_long_at: When the last of either came.
        longest_prompt: The length of the longest of them, in tokens; an upper bound.
        remedy: What the owner can do; null if no prompt was too long.
    """

    window: int | None = None
    max_window: int | None = None
    prompts_truncated: int = 0
    prompts_rejected: int = 0
    last_too_long_at: str | None = None
    longest_prompt: int | None = None
    remedy: str | None = None


class ModelStatus(Struct, frozen=True, kw_only=True):
    """One model.

    A model that is not ``listed`` is missing from Ollama's list, but is loaded or still has
    requests; then only its name, its residency and its counts are known.

    Attributes:
        parameter_size: Ollama's own wording, such as ``8.0B``.
        parameters_billions: The same as a number.
        modified_at: When the model was pulled or created.
        cloud: The model runs on ollama.com.
        resident: The model is loaded or being loaded.
        loaded: The model is known to be loaded: it responded, or Ollama listed it.
        statistics: What earlier requests showed; an estimate with count 0 is not known.
        max_active: How many requests to it may be at Ollama at once.
        active: How many are now.
        queued: How many wait for a slot.
    """

    name: str
    listed: bool
    parameter_size: str | None = None
    parameters_billions: float | None = None
    quantization: str | None = None
    size_bytes: int | None = None
    modified_at: str | None = None
    cloud: bool = False
    resident: bool = False
    loaded: bool = False
    timeouts: ModelTimeouts | None = None
    statistics: ModelStats = ModelStats()
    context: ContextStatus = ContextStatus()
    max_active: int | None = None
    active: int = 0
    queued: int = 0
    totals: Totals = Totals()


class KeyStatus(Struct, frozen=True, kw_only=True):
    """One key.

    ``state`` is ``active``, ``expired`` or ``revoked``. Null ``expires_at`` means never.
    """

    name: str
    state: str
    scopes: list[str]
    expires_at: str | None
    totals: Totals


class RecentRequest(FinishedRequest, frozen=True, kw_only=True):
    """A request that has ended: the fields of its log line (docs/log-and-metrics.md).

    As there, a field that is not known is left out.
    """

    ended_at: str


class FailedRequest(RecentRequest, frozen=True, kw_only=True):
    """A request that failed, with the meaning of its outcome and what the owner can do."""

    meaning: str
    remedy: str


class Status(Struct, frozen=True, kw_only=True):
    """The content of ``/status.json``.

    Attributes:
        uptime: Seconds since ``started_at``.
        ready: Requests can be served.
        reason: One line that says why not, null while ``ready``.
        problems: The worst first.
        models: In the order of Ollama's list, then those that are not listed.
        key_file_error: Why the key file cannot be read, null if it can.
        requests: The number of requests since the start.
        outcomes: How many of them ended in which way, the most frequent first.
        failures: The last failed requests, the newest first.
        recent: The last requests of any outcome, the newest first.
    """

    version: str
    now: str
    started_at: str
    uptime: float
    ready: bool
    reason: str | None
    problems: list[Problem]
    ollama: OllamaStatus
    scheduler: SchedulerStatus
    in_flight: list[RequestInFlight]
    models: list[ModelStatus]
    keys: list[KeyStatus]
    key_file_error: str | None
    requests: int
    outcomes: dict[str, int]
    failures: list[FailedRequest]
    recent: list[RecentRequest]


class ErrorInfo(Struct, frozen=True, kw_only=True):
    """Why a request to the admin listener failed, as in the bodies of its error responses."""

    message: str
    code: str


class RefreshResult(Struct, frozen=True, kw_only=True):
    """The response of ``POST /refresh``: the list that the gateway has now.

    ``error`` says why Ollama did not give a new one; then the list is ``stale``.
    """

    model_count: int | None
    list_age: float | None
    stale: bool
    error: ErrorInfo | None
