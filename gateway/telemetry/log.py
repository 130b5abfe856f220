"""The log: one line per event, as JSON for machines or as columns for people.

It goes to standard error, as a service's log does; standard output belongs to commands that print a
result. Events are named ``noun.verb``. Every value passes ``sanitize`` and every exception's text
``redact``: no line can contain a key or forge a second line.

A log that cannot be written (full disk, closed pipe) fails nothing: ``LineWriter`` counts the lines
that were lost. One thing it cannot help: where the reader of a pipe stops reading without closing
it, a write blocks, as it does for every program that logs to a pipe.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from gateway.errors import Draining, InternalError, NoModelsPulled, Shutdown
from gateway.telemetry.record import OK, UPSTREAM_4XX, FinishedRequest
from gateway.telemetry.redaction import MAX_TRACEBACK, redact, redact_record, sanitize

Logger: TypeAlias = FilteringBoundLogger
Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["json", "console"]

FINISHED: Final = "request.finished"

FOREIGN_LOGGERS: Final = (
    *("aiohttp.access", "aiohttp.client", "aiohttp.internal", "aiohttp.server", "aiohttp.web"),
    *("aiohttp.websocket", "asyncio"),
)
"""Loggers of the standard library whose records can contain what a client sent."""

_LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_encode: Final = msgspec.json.Encoder().encode

_NOT_OUR_FAULT: Final = frozenset({OK, UPSTREAM_4XX, Draining.code})
_FOR_THE_OWNER: Final = frozenset({NoModelsPulled.code, Shutdown.code})


class Stream(Protocol):
    """Where bytes go: ``sys.stderr.buffer``, an open file, a buffer of a test."""

    def write(self, data: bytes, /) -> int | None: ...


class LineWriter:
    """Writes complete lines to a stream. Never raises: a line that cannot be written is counted.

    It writes past a stream's own buffer, which would keep the half of a line that a full disk
    refused and put it in front of a later one. After a torn line it starts a new one.
    """

    __slots__ = ("_stream", "_torn", "lost")

    def __init__(self, stream: Stream) -> None:
        self._stream: Stream = getattr(stream, "raw", stream)
        # All mutable state: lines lost so far, and whether only a part of the last one was written.
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
        return f"<LineWriter {self.lost} lost>"


class RequestLog:
    """The sink that writes one ``request.finished`` per request, whatever its end.

    It writes past structlog, which costs several times as much as the line itself.
    """

    __slots__ = ("_least", "_lines", "_render")

    def __init__(self, lines: LineWriter, *, level: Level, log_format: LogFormat) -> None:
        self._lines = lines
        self._least = _LEVELS[level]
        self._render = None if log_format == "json" else _console_renderer(colors=lines.to_terminal)

    def observe(self, finished: FinishedRequest) -> None:
        level = severity(finished)
        if _LEVELS[level] < self._least:
            return
        if self._render is None:
            # One encoding of the frozen value, whose texts are sanitized already.
            head = f'{{"timestamp":"{_timestamp()}","level":"{level}","event":"{FINISHED}",'
            self._lines.write(head.encode() + _encode(finished)[1:] + b"\n")
        else:
            self._lines.write(self._render(self, level, {"event": FINISHED, **finished.present()}))


def severity(finished: FinishedRequest) -> Level:
    """Return the level of a request's line.

    ``error`` is a bug; ``warning`` is what the owner should look at: Ollama failed, or there is too
    much load; ``info`` is all else, including the mistakes of clients and strangers.
    """
    outcome = finished.outcome
    if outcome in _NOT_OUR_FAULT:
        return "info"
    if outcome == InternalError.code:
        return "error"
    failed = finished.status is not None and finished.status >= 500
    # After the first byte the status is 200 whatever happens, so the outcome counts too.
    if failed or outcome.startswith("upstream_") or outcome in _FOR_THE_OWNER:
        return "warning"
    return "info"


def configure(*, level: Level, log_format: LogFormat, lines: LineWriter | None = None) -> Logger:
    """Set up the process's log: the gateway's logger, and the standard library's loggers into it.

    Lines go to standard error unless ``lines`` is given. May be called again, which replaces what
    the call before installed.
    """
    logger = make_logger(lines or LineWriter(sys.stderr.buffer), level=level, log_format=log_format)
    _adopt_standard_loggers(logger, level)
    return logger


def make_logger(lines: LineWriter, *, level: Level, log_format: LogFormat) -> Logger:
    """Make an independent logger: nothing global is read or changed."""
    render = _render_json if log_format == "json" else _console_renderer(colors=lines.to_terminal)
    logger: Logger = structlog.wrap_logger(
        lines,
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    ).bind()
    return logger


def _render_json(_logger: object, level: str, event: EventDict) -> bytes:
    return _encode(_fields(level, event)) + b"\n"


def _console_renderer(*, colors: bool) -> Callable[[object, str, EventDict], bytes]:
    renderer = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)

    def render(logger: object, level: str, event: EventDict) -> bytes:
        text = renderer(logger, level, _fields(level, event))
        return (text + "\n").encode(errors="backslashreplace")

    return render


def _fields(level: str, event: EventDict) -> dict[str, Any]:
    """Return the fields of a line: time, level and event first, then the rest, sanitized."""
    line: dict[str, Any] = {
        "timestamp": _timestamp(),
        "level": level,
        "event": sanitize(str(event.pop("event"))),
    }
    exception = event.pop("exception", None) or _traceback_of(event.pop("exc_info", None))
    for name, value in event.items():
        line[name] = _sanitized(value)
    if exception:
        line["exception"] = redact(exception)[-MAX_TRACEBACK:]
    return line


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _sanitized(value: object) -> object:
    if isinstance(value, str):
        return sanitize(value)
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping):
        return {sanitize(str(name)): _sanitized(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_sanitized(each) for each in value]
    return sanitize(str(value))


def _traceback_of(exc_info: object) -> str | None:
    """Format ``exc_info=True``, an exception, or a triple of ``sys.exc_info``."""
    if not exc_info:
        return None
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    exception = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if exception is None:
        return None
    return "".join(traceback.format_exception(exception)).rstrip()


class _StandardLogHandler(logging.Handler):
    """Hands the standard library's records to the gateway's logger."""

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
    """Return the known level at or below ``level``: structlog takes no others."""
    known = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
    return next((each for each in known if level >= each), logging.DEBUG)


def _adopt_standard_loggers(logger: Logger, level: Level) -> None:
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _StandardLogHandler)]:
        root.removeHandler(handler)
    root.addHandler(_StandardLogHandler(logger))
    # Libraries log much at "info" that concerns only their authors.
    chosen = _LEVELS[level]
    root.setLevel(chosen if level == "debug" else max(chosen, logging.WARNING))
    for name in FOREIGN_LOGGERS:
        # On the logger itself the filter cleans the records for all handlers, not only for ours.
        logging.getLogger(name).addFilter(redact_record)
