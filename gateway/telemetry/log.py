"""The log: one line per event, as JSON for machines or as columns for people.

It goes to standard error, as a service's log does; standard output belongs to commands that print
an answer. Events are named ``noun.verb``. Every value passes ``harmless`` and every exception's
text ``redact``: what is logged can neither hold a key nor forge a second line.

A log that cannot be written (full disk, closed pipe) fails nothing: ``Lines`` counts what was lost.
One thing it cannot help: where the reader of a pipe stops reading without closing it, a write
blocks, as it does for every program that logs to a pipe.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from gateway.errors import Draining, InternalError, NoModelsPulled, Shutdown
from gateway.telemetry.record import OK, UPSTREAM_4XX, FinishedRequest
from gateway.telemetry.redaction import MAX_TRACEBACK, harmless, redact, redact_record

Logger: TypeAlias = FilteringBoundLogger
Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["json", "console"]

FINISHED: Final = "request.finished"

FOREIGN_LOGGERS: Final = (
    *("aiohttp.access", "aiohttp.client", "aiohttp.internal", "aiohttp.server", "aiohttp.web"),
    *("aiohttp.websocket", "asyncio"),
)
"""Loggers of the standard library whose records can hold what a caller sent."""

_WORDS: Final = ("method", "route", "key", "client", "model", "outcome", "phase")
"""Facts that are the same few words in request after request."""
_SAYINGS: Final = ("request_id", "error")
"""All other facts that are texts."""

_encode: Final = msgspec.json.Encoder().encode

_NO_FAULT_OF_OURS: Final = frozenset({OK, UPSTREAM_4XX, Draining.code})
_FOR_THE_OWNER: Final = frozenset({NoModelsPulled.code, Shutdown.code})


class Stream(Protocol):
    """Where bytes go: ``sys.stderr.buffer``, an open file, a buffer of a test."""

    def write(self, data: bytes, /) -> int | None: ...


class Lines:
    """Writes whole lines to a stream, and never raises: a line that cannot be written is counted.

    It writes past a stream's own buffer, which would keep the half of a line that a full disk
    refused and put it in front of a later one. After a torn line it starts a new one.
    """

    __slots__ = ("_stream", "_torn", "lost")

    def __init__(self, stream: Stream) -> None:
        self._stream: Stream = getattr(stream, "raw", stream)
        # All mutable state: lines lost so far, and whether the last one ended before its end.
        self.lost = 0
        self._torn = False

    def write(self, line: bytes) -> None:
        """Write one line, its newline included."""
        rest = b"\n" + line if self._torn else line
        try:
            while rest:
                taken = self._stream.write(rest)
                if not taken:
                    break
                self._torn = taken < len(rest)
                rest = rest[taken:]
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost += 1
        else:
            self.lost += bool(rest)

    # structlog calls the method that is named like the level.
    debug = info = warning = error = critical = write

    @property
    def to_terminal(self) -> bool:
        isatty: Callable[[], bool] | None = getattr(self._stream, "isatty", None)
        return isatty is not None and isatty()

    def __repr__(self) -> str:
        return f"<Lines {self.lost} lost>"


class RequestLog:
    """The sink that writes one ``request.finished`` per request, whatever its end."""

    __slots__ = ("_write",)

    def __init__(self, logger: Logger) -> None:
        self._write = {"info": logger.info, "warning": logger.warning, "error": logger.error}

    def observe(self, facts: FinishedRequest) -> None:
        self._write[severity(facts)](FINISHED, facts=facts)


def severity(facts: FinishedRequest) -> Literal["info", "warning", "error"]:
    """How loudly an ending is told.

    ``error`` is a bug; ``warning`` is what the owner should look at: Ollama failed, or there is
    too much to do; ``info`` is all else, the mistakes of callers and of strangers included.
    """
    outcome = facts.outcome
    if outcome in _NO_FAULT_OF_OURS:
        return "info"
    if outcome == InternalError.code:
        return "error"
    failed = facts.status is not None and facts.status >= 500
    # After the first byte the status is 200 whatever happens.
    if failed or outcome.startswith("upstream_") or outcome in _FOR_THE_OWNER:
        return "warning"
    return "info"


def configure(*, level: Level, log_format: LogFormat, lines: Lines | None = None) -> Logger:
    """Make the process's log: the logger for all of us, and the standard library's loggers to it.

    Lines go to standard error unless told otherwise. May be called again, which replaces what the
    call before installed.
    """
    logger = make_logger(lines or Lines(sys.stderr.buffer), level=level, log_format=log_format)
    _adopt_standard_loggers(logger, level)
    return logger


def make_logger(lines: Lines, *, level: Level, log_format: LogFormat) -> Logger:
    """A logger that stands for itself: nothing global is read or changed."""
    render = _as_json if log_format == "json" else _as_columns(colors=lines.to_terminal)
    logger: Logger = structlog.wrap_logger(
        lines,
        processors=[_in_order, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    ).bind()
    return logger


def _in_order(_logger: object, level: str, event: EventDict) -> EventDict:
    """When, how bad and what first; then the rest as it was given, made fit to be written."""
    told = str(event.pop("event"))
    line: dict[str, Any] = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "event": told if told == FINISHED else harmless(told),
    }
    facts = event.pop("facts", None)
    if isinstance(facts, FinishedRequest):
        line |= _fit_facts(facts.present())
    exception = event.pop("exception", None) or _text_of(event.pop("exc_info", None))
    for name, value in event.items():
        line[name] = _fit(value)
    if exception:
        line["exception"] = redact(exception)[-MAX_TRACEBACK:]
    return line


def _fit_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """With their texts made fit; the others are numbers."""
    for name in _WORDS:
        if name in facts:
            facts[name] = _fit_word(facts[name])
    for name in _SAYINGS:
        if name in facts:
            facts[name] = harmless(facts[name])
    return facts


@lru_cache(maxsize=512)
def _fit_word(word: str) -> str:
    return harmless(word)


def _fit(value: object) -> object:
    if isinstance(value, str):
        return harmless(value)
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping):
        return {harmless(str(name)): _fit(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_fit(each) for each in value]
    return harmless(str(value))


def _text_of(exc_info: object) -> str | None:
    """The traceback of ``exc_info=True``, of an exception, or of a triple of ``sys.exc_info``."""
    if not exc_info:
        return None
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    exception = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if exception is None:
        return None
    return "".join(traceback.format_exception(exception)).rstrip()


def _as_json(_logger: object, _level: str, event: EventDict) -> bytes:
    return _encode(event) + b"\n"


def _as_columns(*, colors: bool) -> Processor:
    renderer = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)

    def render(logger: object, level: str, event: EventDict) -> bytes:
        return (renderer(logger, level, event) + "\n").encode(errors="backslashreplace")

    return render


class _Bridge(logging.Handler):
    """Hands the standard library's records to our logger; ``logging`` asks for a subclass."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger
        self.addFilter(redact_record)

    def emit(self, record: logging.LogRecord) -> None:
        details = {"exception": record.exc_text} if record.exc_text else {}
        self._logger.log(
            _nearest(record.levelno), record.getMessage(), logger=record.name, **details
        )


def _nearest(level: int) -> int:
    """The known level at or below; structlog knows no others."""
    known = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
    return next((each for each in known if level >= each), logging.DEBUG)


def _adopt_standard_loggers(logger: Logger, level: Level) -> None:
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(logger))
    # Libraries say much at "info" that only their authors want to know.
    chosen = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(chosen if level == "debug" else max(chosen, logging.WARNING))
    for name in FOREIGN_LOGGERS:
        # On the logger itself it cleans the records for everybody's handlers, not for ours alone.
        logging.getLogger(name).addFilter(redact_record)
