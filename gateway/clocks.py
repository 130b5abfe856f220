"""How long a call may take: pure rules over sizes, patience and settings.

All times are seconds. Who decides, strongest first: what the owner sets for a model, what the owner
sets for all models, then the model's own timeout raised to the patience that the caller declares.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

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

_PATIENCE_HEADER: Final = "x-stainless-read-timeout"
_PATIENCE: Final = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,20})?")
_SHORTEST_PATIENCE: Final = 1.0
_LONGEST_PATIENCE: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSettings:
    """The owner's clocks for all models, in seconds; None leaves a clock to the model's size.

    ``total_timeout`` is for answers in one piece, ``stream_total_timeout`` for streams. ``ceiling``
    bounds how far a caller's patience can raise a clock.
    """

    queue_timeout: float
    connect_timeout: float
    first_byte_timeout: float | None
    idle_timeout: float | None
    total_timeout: float | None
    stream_total_timeout: float
    ceiling: float
    write_timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What the owner sets for the models that ``match`` fits; None leaves it as it is.

    ``match`` is a glob over names as Ollama lists them, without regard to case; one without a tag
    also fits ``…:latest``, so ``llama3.2`` is ``llama3.2:latest`` and not ``llama3.2:1b``.
    ``total_timeout`` holds for streams too.
    """

    match: str
    total_timeout: float | None = None
    first_byte_timeout: float | None = None
    max_active: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallClocks:
    """The clocks of one call, in seconds."""

    queue_timeout: float
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    total_timeout: float
    write_timeout: float


def model_timeout(parameters: float | None, size_bytes: int | None) -> float:
    """Seconds that a model of this size is given, cold load and prompt included.

    ``parameters`` are billions, ``size_bytes`` the size on disk, which counts when ``parameters``
    is unknown. With neither the answer is 300 s.
    """
    billions = _billions(parameters, size_bytes)
    if billions is None:
        return _UNKNOWN_TIMEOUT
    return next((timeout for limit, timeout in _TIMEOUTS if billions <= limit), _LARGEST_TIMEOUT)


def _billions(parameters: float | None, size_bytes: int | None) -> float | None:
    if parameters is not None and parameters > 0:
        return parameters
    if size_bytes is not None and size_bytes > 0:
        return size_bytes / _BYTES_PER_PARAMETER / 1e9
    return None


def declared_patience(headers: Mapping[str, str]) -> float | None:
    """Seconds that the caller says he will wait, or None.

    The OpenAI SDKs send their read timeout as a plain decimal number. Anything else, and anything
    outside 1 to 86,400, counts as absent: a caller cannot switch a clock off with ``inf``.
    ``headers`` ignores case or has lower-case names.
    """
    text = headers.get(_PATIENCE_HEADER, "")
    if not _PATIENCE.fullmatch(text):
        return None
    patience = float(text)
    return patience if _SHORTEST_PATIENCE <= patience <= _LONGEST_PATIENCE else None


def clocks_for(
    *,
    model: str,
    parameters: float | None,
    size_bytes: int | None,
    streaming: bool,
    patience: float | None,
    settings: ClockSettings,
    overrides: Sequence[Override] = (),
) -> CallClocks:
    """The clocks of one call to ``model``, its name as Ollama lists it.

    Patience below the model's timeout does not lower it: a caller who leaves is noticed anyway, and
    his retry finds the model loaded.
    """
    own = model_timeout(parameters, size_bytes)
    own = max(own, min(patience or 0.0, settings.ceiling))
    override = _override_for(model, overrides)
    if streaming:
        first_byte = _first(override.first_byte_timeout, settings.first_byte_timeout, own)
        total = _first(override.total_timeout, settings.stream_total_timeout)
    else:
        # Ollama sends nothing of such an answer, not even a header, before all of it is there.
        first_byte = total = _first(override.total_timeout, settings.total_timeout, own)
    return CallClocks(
        queue_timeout=min(settings.queue_timeout, patience or settings.queue_timeout),
        connect_timeout=settings.connect_timeout,
        first_byte_timeout=first_byte,
        idle_timeout=_first(settings.idle_timeout, first_byte),
        total_timeout=total,
        write_timeout=settings.write_timeout,
    )


def max_active_for(model: str, overrides: Sequence[Override], default: int) -> int:
    """How many calls to ``model`` may be at Ollama at once."""
    allowed = _override_for(model, overrides).max_active
    return default if allowed is None else allowed


def _override_for(model: str, overrides: Sequence[Override]) -> Override:
    """The first row that fits ``model``, whole; one that sets nothing if none does."""
    name = _with_tag(model.lower())
    nothing = Override(match="")
    return next((row for row in overrides if _fits(name, row.match.lower())), nothing)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, _with_tag(pattern))


def _with_tag(name: str) -> str:
    # A colon before a slash belongs to a registry's port.
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _first(*choices: float | None) -> float:
    """The first that is set; the last one always is."""
    return next(choice for choice in choices if choice is not None)
