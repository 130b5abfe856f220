"""How long a call may take: pure rules over sizes, patience and settings.

All times are seconds. Who decides, strongest first: what the owner sets for a model, what the owner
sets for all models, then the model's own timeout raised to the patience that the caller declares.
The model's own timeout comes from its size, and grows with what its calls were seen to take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.estimate import Estimate

_TIMEOUTS: Final = (
    (1.5, 60.0),
    (4.0, 90.0),
    (9.0, 120.0),
    (15.0, 180.0),
    (34.0, 300.0),
    (72.0, 600.0),
)
_LARGEST_TIMEOUT: Final = 1800.0
_UNKNOWN_TIMEOUT: Final = 300.0

_BYTES_PER_PARAMETER: Final = 0.6
"""What Q4_K_M, the usual quantization, takes on disk. A finer one (F16 takes 2) makes the model
look larger than it is, and its timeout longer: the harmless side to err on."""

_ENOUGH: Final = 5
"""Calls that must have been seen before a clock goes by them."""

_DEVIATIONS: Final = 4.0
"""Above the mean, as in RFC 6298, section 2. Of times that spread as widely as exponential ones,
two in a hundred are longer still."""

_FIRST_BYTE: Final = "timeouts.first_byte_timeout"
_TOTAL: Final = "timeouts.total_timeout"
_STREAM: Final = "timeouts.stream_total_timeout"
_FLOOR: Final = "timeouts.learned_floor"
_HELD: Final = "timeouts.ceiling: heartbeats keep the caller waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    """The owner's clocks for all models, in seconds; None leaves a clock to the model's size.

    ``total_timeout`` is for answers in one piece, ``stream_total_timeout`` for streams. ``ceiling``
    bounds how far a caller's patience, or what was learned, can raise a clock. ``learned_floor`` is
    how low what was learned can bring one; None is the timeout that the model has by its size.
    """

    queue_timeout: float
    connect_timeout: float
    first_byte_timeout: float | None
    idle_timeout: float | None
    total_timeout: float | None
    stream_total_timeout: float
    ceiling: float
    write_timeout: float
    learned_floor: float | None = None


class LearnedTimes(Struct, frozen=True):
    """What calls to one model took on this machine, in seconds from sent.

    ``first_byte`` (of a stream) and ``total`` are those of a loaded model; ``load`` comes on top.
    """

    load: Estimate = Estimate()
    first_byte: Estimate = Estimate()
    total: Estimate = Estimate()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverride:
    """What the owner sets for the models that ``match`` fits; None leaves it as it is.

    ``match`` is a glob over names as Ollama lists them, without regard to case; one without a tag
    also fits ``…:latest``, so ``llama3.2`` is ``llama3.2:latest`` and not ``llama3.2:1b``.
    ``total_timeout`` holds for streams too.
    """

    match: str
    total_timeout: float | None = None
    first_byte_timeout: float | None = None
    max_active: int | None = None


class Reasons(Struct, frozen=True):
    """Why the clocks of one call have their values: a short phrase for each."""

    first_byte: str = ""
    idle: str = ""
    total: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimeouts:
    """The clocks of one call, in seconds; ``why`` explains those that depend on the model."""

    queue_timeout: float
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    total_timeout: float
    write_timeout: float
    why: Reasons = field(default=Reasons(), compare=False, repr=False)


_NO_OVERRIDE: Final = ModelOverride(match="")


class _Timed(NamedTuple):
    seconds: float
    why: str


def model_timeout(parameters: float | None, size_bytes: int | None) -> float:
    """Seconds that a model of this size is given, cold load and prompt included.

    ``parameters`` are billions, ``size_bytes`` the size on disk, which counts when ``parameters``
    is unknown. With neither the answer is 300 s.
    """
    return _by_size(parameters, size_bytes).seconds


@lru_cache(maxsize=512)
def _by_size(parameters: float | None, size_bytes: int | None) -> _Timed:
    if parameters is not None and parameters > 0:
        count = f"{parameters:g}B" if parameters >= 1 else f"{parameters * 1000:g}M"
        return _Timed(_step(parameters), f"{count} parameters")
    if size_bytes is not None and size_bytes > 0:
        gigabytes = size_bytes / 1e9
        return _Timed(_step(gigabytes / _BYTES_PER_PARAMETER), f"{gigabytes:.2g} GB on disk")
    return _Timed(_UNKNOWN_TIMEOUT, "its size is unknown")


def _step(billions: float) -> float:
    return next((timeout for limit, timeout in _TIMEOUTS if billions <= limit), _LARGEST_TIMEOUT)


def timeouts_for(
    *,
    model: str,
    parameters: float | None,
    size_bytes: int | None,
    streaming: bool,
    client_timeout: float | None,
    settings: TimeoutSettings,
    overrides: Sequence[ModelOverride] = (),
    statistics: LearnedTimes | None = None,
    resident: bool = False,
    held: bool = False,
) -> RequestTimeouts:
    """The clocks of one call to ``model``, its name as Ollama lists it.

    ``held``: heartbeats renew the caller's patience, so it ends neither his wait nor his answer:
    one in one piece may take up to the ceiling, for slow is no longer too late.

    Patience below the model's timeout does not lower it: a caller who leaves is noticed anyway, and
    his retry finds the model loaded.

    ``resident``: the model is proven to be loaded, so the first byte of a stream need not wait for
    a load, and a runner that hangs is found early: after half of the size's timeout, or what was
    learned if that is more, but not before the patience that a caller declares: Ollama may be at
    work for somebody else. Answers in one piece keep their time, for nothing tells a hung runner
    from a long answer; so does a silent stream, for Ollama may be building a tool call.
    """
    row = _override_for(model, overrides)
    named = f'[[models]] match = "{row.match}"'
    times = statistics or LearnedTimes()
    size = _by_size(parameters, size_bytes)
    if streaming:
        cold = _grown(size, times.load, times.first_byte, settings)
        first_byte = _loaded(cold, size, times.first_byte, settings) if resident else cold
        wish = _set((row.first_byte_timeout, named), (settings.first_byte_timeout, _FIRST_BYTE))
        silence = wish or _raised(_longer(size, cold), client_timeout, settings)
        first_byte = wish or _raised(first_byte, client_timeout, settings)
        total = _set((row.total_timeout, named)) or _Timed(settings.stream_total_timeout, _STREAM)
    else:
        own = _raised(_grown(size, times.load, times.total, settings), client_timeout, settings)
        wish = _set((row.total_timeout, named), (settings.total_timeout, _TOTAL))
        # Ollama sends nothing of such an answer, not even a header, before all of it is there: so
        # whoever is held waits for its first byte, and no longer than before for those behind it.
        silence = wish or own
        if held:
            own = _longer(own, _Timed(settings.ceiling, _HELD))
        total = first_byte = wish or own
    idle = _set((settings.idle_timeout, "timeouts.idle_timeout")) or silence
    return RequestTimeouts(
        queue_timeout=queue_timeout_for(client_timeout, settings, held=held),
        connect_timeout=settings.connect_timeout,
        first_byte_timeout=first_byte.seconds,
        idle_timeout=idle.seconds,
        total_timeout=total.seconds,
        write_timeout=settings.write_timeout,
        why=Reasons(first_byte.why, idle.why, total.why),
    )


def _grown(size: _Timed, load: Estimate, rest: Estimate, settings: TimeoutSettings) -> _Timed:
    """The timeout by size, or what was learned of load and all the rest where that is more.

    The owner's floor takes the place of the size only when both were seen often enough.
    """
    if max(load.count, rest.count) < _ENOUGH:
        return size
    floor = size
    if settings.learned_floor is not None and min(load.count, rest.count) >= _ENOUGH:
        floor = _Timed(settings.learned_floor, _FLOOR)
    return _or_seen(floor, load.plus(rest), settings)


def _loaded(cold: _Timed, size: _Timed, first_byte: Estimate, settings: TimeoutSettings) -> _Timed:
    """The same without the load; never more than with it."""
    if first_byte.count < _ENOUGH:
        return cold
    floor = _Timed(size.seconds / 2, f"loaded: half of {size.seconds:g} s for {size.why}")
    if settings.learned_floor is not None:
        floor = _Timed(settings.learned_floor, _FLOOR)
    warm = _or_seen(floor, first_byte, settings, state="loaded, ")
    return warm if warm.seconds < cold.seconds else cold


def _or_seen(
    floor: _Timed, seen: Estimate, settings: TimeoutSettings, *, state: str = ""
) -> _Timed:
    """What was learned, up to the ceiling, where that is more."""
    seconds = seen.mean + _DEVIATIONS * seen.deviation
    if seconds <= floor.seconds:
        return floor
    mean, deviation = f"{seen.mean:.3g} s", f"{seen.deviation:.2g} s"
    why = f"{state}learned: {mean} + {_DEVIATIONS:g} x {deviation} over {seen.count} answers"
    return _longer(floor, _bounded(_Timed(seconds, why), settings))


def _raised(own: _Timed, client_timeout: float | None, settings: TimeoutSettings) -> _Timed:
    return _longer(own, _bounded(_Timed(client_timeout or 0.0, "patience of the caller"), settings))


def _bounded(timed: _Timed, settings: TimeoutSettings) -> _Timed:
    if timed.seconds <= settings.ceiling:
        return timed
    return _Timed(settings.ceiling, f"{timed.why}, up to timeouts.ceiling")


def _longer(one: _Timed, other: _Timed) -> _Timed:
    return other if other.seconds > one.seconds else one


def queue_timeout_for(
    client_timeout: float | None, settings: TimeoutSettings, *, held: bool
) -> float:
    """How long a call waits for its place, in seconds: never past a deadline of its caller's."""
    if held or client_timeout is None:
        return settings.queue_timeout
    return min(settings.queue_timeout, client_timeout)


def max_active_for(model: str, overrides: Sequence[ModelOverride], default: int) -> int:
    """How many calls to ``model`` may be at Ollama at once."""
    allowed = _override_for(model, overrides).max_active
    return default if allowed is None else allowed


def _override_for(model: str, overrides: Sequence[ModelOverride]) -> ModelOverride:
    """The first row that fits ``model``, whole; one that sets nothing if none does."""
    if not overrides:
        return _NO_OVERRIDE
    name = _with_tag(model.lower())
    return next((row for row in overrides if _fits(name, row.match.lower())), _NO_OVERRIDE)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, _with_tag(pattern))


def _with_tag(name: str) -> str:
    # A colon before a slash belongs to a registry's port.
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _set(*wishes: tuple[float | None, str]) -> _Timed | None:
    """The first of the owner's wishes that is set."""
    return next((_Timed(each, why) for each, why in wishes if each is not None), None)
