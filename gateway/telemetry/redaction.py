"""What may be written down: no secret, no control character, nothing without a bound.

Secrets get into text in two ways. Clients put a key into a path, an ``Authorization`` line or a
body, and whatever reports those bytes repeats it: as it is, percent-encoded, or as the ``repr`` of
bytes. And aiohttp logs the offending bytes of every request that it cannot parse, before any code
of ours runs. So all text for a log passes ``sanitize``, and all records of the standard library's
loggers pass ``redact_record``.
"""

import logging
import re
import traceback
from typing import Final

CONCEALED: Final = "[key]"
"""Replaces a secret."""

UNREADABLE: Final = "request.unreadable"
"""The constant message for whatever could not be read as HTTP."""

MAX_MESSAGE: Final = 2_000
"""Characters of a message that are kept."""

MAX_TRACEBACK: Final = 16_000
"""Characters of a traceback that are kept, from its end: the failure itself comes last."""

_ESCAPE: Final = r"%(?:25){0,3}[0-9a-f]{2}|\\{1,4}(?:x[0-9a-f]{2}|u[0-9a-f]{4})"
"""One character in a URL, in the repr of bytes, in JSON; each of them perhaps escaped again."""


def _any_spelling(character: str) -> str:
    code = f"{ord(character):02x}"
    return rf"(?:{character}|%(?:25){{0,3}}{code}|\\{{1,4}}(?:x|u00){code})"


_KEY: Final = re.compile(
    "".join(map(_any_spelling, "ogw_")) + rf"(?:[\w\-\x00-\x08\x0e-\x1f\x7f]|{_ESCAPE})+",
    re.IGNORECASE,
)
_HEADER_LINE: Final = re.compile(
    r"((?:authorization|x-api-key|cookie|cf-access-jwt-assertion|cf-access-client-secret)"
    # Our own messages name a scheme between backticks, without a key after it.
    r"""(?:\s*[:=]\s*|['"]\s*[:,]\s*)(?!\s*(?:bearer|basic)`)(?:b?['"])?(?:(?:bearer|basic)\s+)?)"""
    r"""(?:[^\r\n'"`\\]|\\{1,4}x[0-9a-f]{2})+""",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(
    r"\b((?:bearer|basic)(?:\s+|%20|\+))"
    r"(?!(?:authentication|authorization|credentials?)\b(?![\-.~+/=]))"
    rf"(?:[\w.~+/=-]|{_ESCAPE}){{8,}}",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Replace every gateway key, and every credential of a header.

    It conceals too much rather than too little: everything after ``Authorization:`` to the end of
    its line, and all characters adjacent to a key.
    """
    if not _may_hold_a_secret(text):
        return text
    text = _KEY.sub(CONCEALED, text)
    text = _HEADER_LINE.sub(rf"\1{CONCEALED}", text)
    return _SCHEME.sub(rf"\1{CONCEALED}", text)


def _may_hold_a_secret(text: str) -> bool:
    # Every pattern above needs one of these. Searching for fixed text is ten times as fast as
    # matching, and nearly all text holds none.
    if "%" in text or "\\" in text:
        return True
    lowered = text.lower()
    return (
        "ogw_" in lowered
        or "authorization" in lowered
        or "bearer" in lowered
        or "basic" in lowered
        or "x-api-key" in lowered
        or "cookie" in lowered
        or "cf-access" in lowered
        or not lowered.isascii()  # letters outside ASCII may fold to those of the patterns
    )


def sanitize(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return the text on one line, redacted, printable, at most ``limit`` characters long.

    Line breaks and tabs become spaces; other characters that do not print (control, format and
    surrogate ones) are removed before redaction, so that none of them can hide a key from it.
    """
    if len(text) <= limit and text.isprintable():
        return redact(text)[:limit]
    # Four times the limit is enough to fill it and bounds the work on a megabyte.
    kept = "".join(map(_printable, text[: 4 * limit]))
    return redact(kept)[:limit]


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ""


def redact_record(record: logging.LogRecord) -> bool:
    """Sanitize a log record: a filter for loggers and handlers. Drops none, never raises.

    Install it on a logger to clean its records for every handler, and on a handler to clean what
    comes from other loggers. Passing it twice changes nothing.
    """
    if _is_about_unreadable_request(record):
        _replace_by_constant(record)
        return True
    record.msg = redact(_message(record)[:MAX_MESSAGE])
    record.args = None
    # Other handlers would format the exception themselves; they take exc_text where it is set.
    record.exc_text = _traceback(record)
    record.exc_info = None
    if record.stack_info:
        record.stack_info = redact(record.stack_info)
    return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  - a foreign object's repr may do anything; a log call must not
        return f"A record of {record.name} could not be formatted."


def _traceback(record: logging.LogRecord) -> str | None:
    exception = record.exc_info[1] if record.exc_info else None
    if exception is None and not record.exc_text:
        return None
    try:
        text = record.exc_text or "".join(traceback.format_exception(exception)).rstrip()
    except Exception:  # noqa: BLE001  - as above: an exception's own text may raise
        return "An exception whose text could not be made."
    # Redaction comes first: shortening could remove the characters that identify a secret.
    return redact(text)[-MAX_TRACEBACK:]


def _replace_by_constant(record: logging.LogRecord) -> None:
    record.msg, record.args = UNREADABLE, None
    record.exc_info = record.exc_text = record.stack_info = None
    # Anyone on the network can cause these: not an error of ours.
    if record.levelno > logging.WARNING:
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)


def _is_about_unreadable_request(record: logging.LogRecord) -> bool:
    exception = record.exc_info[1] if record.exc_info else None
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        if _is_parse_error(exception):
            return True
        seen.add(id(exception))
        exception = exception.__cause__ or exception.__context__
    return False


def _is_parse_error(exception: BaseException) -> bool:
    # By name: this folder imports nothing of aiohttp.
    return any(kind.__module__ == "aiohttp.http_exceptions" for kind in type(exception).__mro__)
