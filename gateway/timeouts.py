"""The timeouts of one inference request: pure rules over settings, model size and statistics.

All times are seconds. From strongest to weakest, a timeout comes from

1. the first ``[[models]]`` rule that matches the model,
2. a number under ``[timeouts]`` in the settings,
3. the model's size, or what its requests were measured to take if that is more, raised to the
   timeout that the client declares.

``timeouts.ceiling`` bounds what the client or the statistics can add to the time by size.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from gateway.estimate import Estimate
from gateway.models.names import matches_any
from gateway.settings import ModelRule, TimeoutsSettings

# The client's own timeout.

_MIN_CLIENT_TIMEOUT: Final = 1.0
_MAX_CLIENT_TIMEOUT: Final = 86_400.0
_DECIMAL: Final = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,20})?")


class ClientTimeout(Struct, frozen=True):
    """How long a client waits, in seconds.

    ``per_read``: for each read, so that every byte restarts it; otherwise for the full response.
    """

    seconds: float
    per_read: bool


def declared_client_timeout(headers: Mapping[str, str]) -> ClientTimeout | None:
    """Return the timeout that the client declares in its request headers, or None.

    The OpenAI SDKs send their read timeout as ``x-stainless-read-timeout``. Every other client can
    send ``X-Request-Timeout``, for the full response; it counts where the first is absent.

    Anything but a plain decimal number from 1 to 86,400 counts as absent: a client cannot switch
    off a timeout with ``inf``. ``headers`` ignores case or has lower-case names.
    """
    seconds = _declared_seconds(headers.get("x-stainless-read-timeout", ""))
    if seconds is not None:
        return ClientTimeout(seconds, per_read=True)
    seconds = _declared_seconds(headers.get("x-request-timeout", ""))
    return None if seconds is None else ClientTimeout(seconds, per_read=False)


def _declared_seconds(text: str) -> float | None:
    if not _DECIMAL.fullmatch(text):
        return None
    seconds = float(text)
    return seconds if _MIN_CLIENT_TIMEOUT <= seconds <= _MAX_CLIENT_TIMEOUT else None


# What was measured.


class MeasuredTimes(Struct, frozen=True, kw_only=True):
    """What requests to one model took on this machine, in seconds.

    Args:
        load: loading the model, which comes on top of the others.
        first_byte: from sent to the first byte of a stream, without the load.
        service: from sent to the last byte, without the load.
    """

    load: Estimate = Estimate()
    first_byte: Estimate = Estimate()
    service: Estimate = Estimate()


_NOT_MEASURED: Final = MeasuredTimes()
_NO_RULE: Final = ModelRule(match="*")

_MIN_OBSERVATIONS: Final = 5
"""Observations before a measured time decides a timeout."""

_DEVIATIONS: Final = 4.0
"""Above the mean, as in RFC 6298, section 2. Of exponentially distributed times, two in a hundred
are longer still."""


# The time that a model has by its size.

_STEPS: Final = (
    (1.5, 60.0),
    (4.0, 90.0),
    (9.0, 120.0),
    (15.0, 180.0),
    (34.0, 300.0),
    (72.0, 600.0),
)
"""Billions of parameters up to which a model has so many seconds."""

_LARGEST_MODEL_TIMEOUT: Final = 1800.0
_UNKNOWN_SIZE_TIMEOUT: Final = 300.0

_BYTES_PER_PARAMETER: Final = 0.6
"""On disk, for Q4_K_M, the usual quantization. A finer one (F16 has 2) makes the model look larger
than it is and its timeout longer, which is the harmless error."""


class Timeout(NamedTuple):
    """Seconds, and the reason for them in a short phrase for the status page."""

    seconds: float
    reason: str


@lru_cache(maxsize=512)
def model_timeout(parameters: float | None, size_bytes: int | None) -> Timeout:
    """Return the time that a model of this size has, with a cold load and the prompt included.

    Args:
        parameters: billions of parameters.
        size_bytes: size on disk, used where ``parameters`` is unknown.
    """
    if parameters is not None and parameters > 0:
        count = f"{parameters:g}B" if parameters >= 1 else f"{parameters * 1000:g}M"
        return Timeout(_seconds_for(parameters), f"{count} parameters")
    if size_bytes is not None and size_bytes > 0:
        gigabytes = size_bytes / 1e9
        return Timeout(
            _seconds_for(gigabytes / _BYTES_PER_PARAMETER), f"{gigabytes:.2g} GB on disk"
        )
    return Timeout(_UNKNOWN_SIZE_TIMEOUT, "its size is unknown")


def _seconds_for(billions: float) -> float:
    for limit, seconds in _STEPS:
        if billions <= limit:
            return seconds
    return _LARGEST_MODEL_TIMEOUT


# All timeouts of one request.


class Reasons(Struct, frozen=True):
    """Why the timeouts of one request have their values: a short phrase for each."""

    first_byte: str = ""
    first_byte_loaded: str = ""
    idle: str = ""
    total: str = ""


class Deadlines(Struct, frozen=True, kw_only=True):
    """Every timeout of one request, in seconds.

    ``queue`` starts when the request enters the queue, ``connect`` with the connection to Ollama;
    ``first_byte`` and ``total`` start when the request was sent, ``idle`` with each byte of the
    response, ``write`` with each write to a client that takes nothing.

    ``first_byte_loaded`` replaces ``first_byte`` if the model is known to be loaded.
    It depends on the settings, the model with its rule and statistics, the client's timeout,
    whether heartbeats extend it, and whether the response streams.
    """

    queue: float
    connect: float
    first_byte: float
    first_byte_loaded: float
    idle: float
    total: float
    write: float
    reasons: Reasons = Reasons()

    def when_loaded(self) -> "Deadlines":
        """Return the same deadlines for a model that is known to be loaded."""
        if self.first_byte_loaded == self.first_byte:
            return self
        return replace(
            self,
            first_byte=self.first_byte_loaded,
            reasons=replace(self.reasons, first_byte=self.reasons.first_byte_loaded),
        )


def rule_for(model: str, rules: Iterable[ModelRule]) -> ModelRule | None:
    """Return the first ``[[models]]`` rule that matches this model, None if none does."""
    return next((rule for rule in rules if matches_any((rule.match,), model)), None)


def deadlines_for(
    settings: TimeoutsSettings,
    rule: ModelRule | None,
    *,
    parameters: float | None,
    size_bytes: int | None,
    streaming: bool,
    client_timeout: float | None = None,
    extended: bool = False,
    measured: MeasuredTimes | None = None,
) -> Deadlines:
    """Compute all timeouts of one request.

    Args:
        settings: the ``[timeouts]`` table.
        rule: the ``[[models]]`` rule for the model, if one matches.
        parameters: the model's billions of parameters.
        size_bytes: the model's size on disk.
        streaming: whether the request asks for a stream.
        client_timeout: seconds that the client declares.
        extended: heartbeats restart the client's timeout, so that it limits neither the wait nor
            the response: a complete response may take up to the ceiling.
        measured: what requests to the model took so far.
    """
    measured = measured or _NOT_MEASURED
    rule = rule or _NO_RULE
    in_rule = f'[[models]] match = "{rule.match}"'
    by_size = model_timeout(parameters, size_bytes)
    ceiling = settings.ceiling

    # A client timeout below the model's own time does not lower a timeout: the gateway notices a
    # client that disconnects anyway, and its retry finds the model loaded.
    client = Timeout(0.0, "")
    if client_timeout is not None:
        client = _bounded(client_timeout, "the client's timeout", ceiling)

    if streaming:
        fixed = _first_set(
            (rule.first_byte_timeout, in_rule),
            (settings.first_byte_timeout, "timeouts.first_byte_timeout"),
        )
        cold = _measured_or(by_size, measured.load, measured.first_byte, settings)
        loaded = _loaded(cold, by_size, measured.first_byte, settings)
        # The silence within a stream keeps the time by size whatever was learned of first bytes:
        # Ollama may be building a tool call, and sends nothing meanwhile.
        silence = fixed or _longest(by_size, cold, client)
        # Even of a loaded model the first byte is not due before the client's timeout: Ollama may
        # be at work for a client that does not come through the gateway.
        first_byte = fixed or _longest(cold, client)
        first_byte_loaded = fixed or _longest(loaded, client)
        total = _first_set((rule.total_timeout, in_rule)) or Timeout(
            settings.stream_total_timeout, "timeouts.stream_total_timeout"
        )
    else:
        # Ollama sends not even a header of a non-streaming response before all of it is there, so
        # the first byte comes with the last, loaded or not: nothing tells a hung runner from a
        # long generation.
        fixed = _first_set(
            (rule.total_timeout, in_rule),
            (settings.total_timeout, "timeouts.total_timeout"),
        )
        usual = _longest(_measured_or(by_size, measured.load, measured.service, settings), client)
        silence = fixed or usual
        total = silence
        if extended and fixed is None and ceiling > usual.seconds:
            total = Timeout(ceiling, "timeouts.ceiling: heartbeats keep the connection open")
        first_byte = first_byte_loaded = total

    idle = _first_set((settings.idle_timeout, "timeouts.idle_timeout")) or silence
    queue = settings.queue_timeout
    if client_timeout is not None and not extended:
        # No request waits in the queue past its client's timeout.
        queue = min(queue, client_timeout)
    return Deadlines(
        queue=queue,
        connect=settings.connect_timeout,
        first_byte=first_byte.seconds,
        first_byte_loaded=first_byte_loaded.seconds,
        idle=idle.seconds,
        total=total.seconds,
        write=settings.write_timeout,
        reasons=Reasons(first_byte.reason, first_byte_loaded.reason, idle.reason, total.reason),
    )


def _first_set(*fixed: tuple[float | None, str]) -> Timeout | None:
    """Return the first value that the settings fix, with its name; None if they leave it open."""
    for seconds, name in fixed:
        if seconds is not None:
            return Timeout(seconds, name)
    return None


def _measured_or(
    by_size: Timeout, load: Estimate, rest: Estimate, settings: TimeoutsSettings
) -> Timeout:
    """Return the time by size, or what a load and the rest were measured to take if that is more.

    ``timeouts.adaptive_floor`` replaces the time by size once both were measured often enough.
    """
    if max(load.count, rest.count) < _MIN_OBSERVATIONS:
        return by_size
    floor = by_size
    if settings.adaptive_floor is not None and min(load.count, rest.count) >= _MIN_OBSERVATIONS:
        floor = Timeout(settings.adaptive_floor, "timeouts.adaptive_floor")
    return _at_least(floor, load.plus(rest), settings.ceiling)


def _loaded(
    cold: Timeout, by_size: Timeout, first_byte: Estimate, settings: TimeoutsSettings
) -> Timeout:
    """Return the same without the load, never more than with it.

    A runner that hangs is found early: after half of the time by size, or after what was measured.
    """
    if first_byte.count < _MIN_OBSERVATIONS:
        return cold
    floor = Timeout(
        by_size.seconds / 2, f"loaded: half of {by_size.seconds:g} s for {by_size.reason}"
    )
    if settings.adaptive_floor is not None:
        floor = Timeout(settings.adaptive_floor, "timeouts.adaptive_floor")
    loaded = _at_least(floor, first_byte, settings.ceiling, state="loaded, ")
    return loaded if loaded.seconds < cold.seconds else cold


def _at_least(floor: Timeout, measured: Estimate, ceiling: float, *, state: str = "") -> Timeout:
    """Return ``floor``, or the measured time, up to the ceiling, if that is more."""
    seconds = measured.mean + _DEVIATIONS * measured.deviation
    if seconds <= floor.seconds:
        return floor
    reason = (
        f"{state}learned: {measured.mean:.3g} s + {_DEVIATIONS:g} x {measured.deviation:.2g} s "
        f"over {measured.count} responses"
    )
    return _longest(floor, _bounded(seconds, reason, ceiling))


def _bounded(seconds: float, reason: str, ceiling: float) -> Timeout:
    if seconds <= ceiling:
        return Timeout(seconds, reason)
    return Timeout(ceiling, f"{reason}, up to timeouts.ceiling")


def _longest(first: Timeout, *others: Timeout) -> Timeout:
    """Return the longest; of equal ones the first, whose reason is the more basic one."""
    longest = first
    for other in others:
        if other.seconds > longest.seconds:
            longest = other
    return longest
