import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from gateway import errors
from gateway.telemetry.log import (
    LineWriter,
    LogFormat,
    RequestLog,
    configure,
    make_logger,
    severity,
)
from gateway.telemetry.record import FinishedRequest, Phase, RequestRecord
from gateway.telemetry.redaction import UNREADABLE
from tests.telemetry.conftest import MakeFacts

BODY = "Zk3-93hfUe_77abcdefghijklmnopqrstuvwxyz01"
SECRET = f"ogw_{BODY}"
HOSTILE = (
    f'"\r\n{{}}\x00\x1b[2J\u2028\ud800 {SECRET} Authorization: Bearer {BODY}' + "x" * 1_000_000
)

Read = Callable[[], list[dict[str, Any]]]


def request_log(buffer: io.BytesIO, *, console: bool = False) -> RequestLog:
    form: LogFormat = "console" if console else "json"
    return RequestLog(LineWriter(buffer), level="info", log_format=form)


def hostile_facts(text: str) -> FinishedRequest:
    """A request of which every text that the gateway does not make itself is ``text``."""
    return RequestRecord(
        request_id="r-1",
        method=text,
        started=0.0,
        route=text,
        outcome=text,
        phase=Phase.RELAY,
        key=text,
        client=text,
        model=text,
        error=text,
        queue_wait=float("nan"),
        tokens_in=2**70,
    ).finish(1.0)


def test_a_request_becomes_one_json_line(buffer: io.BytesIO, lines: Read, facts: MakeFacts) -> None:
    """When, how bad and what; then the facts that are there, by their names."""
    request_log(buffer).observe(facts(queue_wait=0.25))

    (line,) = lines()
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "request.finished",
        "request_id": "r-1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "key": "engramia",
        "model": "llama3.2:1b",
        "status": 200,
        "outcome": "ok",
        "phase": "done",
        "streaming": False,
        "queue_wait": 0.25,
        "duration": 1.5,
        "bytes_in": 0,
        "bytes_out": 0,
    }


def test_hostile_facts_are_all_texts_that_come_from_elsewhere() -> None:
    """One that the log forgot would be written as it came."""
    kinds = get_type_hints(FinishedRequest).items()
    texts = {name for name, kind in kinds if kind is str or str in get_args(kind)}

    hostile = {name for name, logged in asdict(hostile_facts("x")).items() if logged == "x"}
    assert texts == hostile | {"request_id"}


def test_hostile_facts_give_one_bounded_line_of_json(buffer: io.BytesIO) -> None:
    """Newlines, control bytes, surrogates and a megabyte, in every text there is."""
    request_log(buffer).observe(hostile_facts(HOSTILE))

    written = buffer.getvalue()
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert len(written) < 50_000
    assert json.loads(written)["tokens_in"] == 2**70
    assert BODY.encode() not in written


def test_hostile_facts_give_one_bounded_line_for_people(buffer: io.BytesIO) -> None:
    """No escape sequence reaches a terminal that shows the log."""
    request_log(buffer, console=True).observe(hostile_facts(HOSTILE))

    written = buffer.getvalue()
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert len(written) < 50_000
    assert b"\x1b" not in written
    assert BODY.encode() not in written


@given(text=st.text(alphabet=st.characters()))
def test_any_text_gives_one_line_of_json(text: str) -> None:
    """JSON is UTF-8 whatever a client, a proxy or Ollama wrote."""
    buffer = io.BytesIO()

    request_log(buffer).observe(hostile_facts(text))

    assert buffer.getvalue().count(b"\n") == 1
    assert json.loads(buffer.getvalue())["event"] == "request.finished"


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        ("ok", 200, "info"),
        ("upstream_4xx", 404, "info"),
        ("upstream_5xx", 500, "warning"),
        ("upstream_incomplete", 200, "warning"),
        ("upstream_idle_timeout", 200, "warning"),
        ("upstream_unreachable", 502, "warning"),
        ("queue_full", 503, "warning"),
        ("no_models_pulled", 404, "warning"),
        ("shutdown", 200, "warning"),
        ("draining", 503, "info"),
        ("invalid_api_key", 401, "info"),
        ("client_disconnected", 499, "info"),
        ("client_write_timeout", 499, "info"),
        ("internal_error", 500, "error"),
        ("internal_error", None, "error"),
    ],
)
def test_the_level_depends_on_whom_an_outcome_concerns(
    outcome: str, status: int | None, expected: str, facts: MakeFacts
) -> None:
    """A stranger's wrong key is no warning; a runner that died is one."""
    assert severity(facts(outcome=outcome, status=status)) == expected


def test_every_error_has_a_level(facts: MakeFacts) -> None:
    """Also those of tomorrow."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.GatewayError)
    ]

    assert len(kinds) > 20
    for kind in kinds:
        level = severity(facts(outcome=kind.code, status=kind.status))
        assert level in {"info", "warning", "error"}


def test_a_level_leaves_out_what_is_below_it(
    buffer: io.BytesIO, lines: Read, facts: MakeFacts
) -> None:
    """``warning`` silences the requests that went well, not those that failed."""
    log = RequestLog(LineWriter(buffer), level="warning", log_format="json")

    log.observe(facts())
    log.observe(facts(outcome="upstream_unreachable", status=502))

    assert [line["outcome"] for line in lines()] == ["upstream_unreachable"]


def test_other_events_are_sanitized_in_depth(buffer: io.BytesIO, lines: Read) -> None:
    """Whatever is logged, however it is wrapped."""
    logger = make_logger(LineWriter(buffer), level="info", log_format="json")

    logger.info(
        "keys.%s", SECRET, path=Path("/k") / SECRET, found=[SECRET], more={SECRET: (1, None)}
    )

    (line,) = lines()
    assert line["event"] == "keys.[key]"
    assert (line["path"], line["found"], line["more"]) == (
        "/k/[key]",
        ["[key]"],
        {"[key]": [1, None]},
    )


@pytest.mark.parametrize("given_as", ["true", "exception", "triple"])
def test_an_exception_is_logged_with_its_traceback_but_no_key(
    given_as: str, buffer: io.BytesIO, lines: Read
) -> None:
    """A bug's traceback stands in the log and nowhere else."""
    logger = make_logger(LineWriter(buffer), level="info", log_format="json")
    try:
        raise KeyError(SECRET)
    except KeyError as failure:
        forms = {"true": True, "exception": failure, "triple": sys.exc_info()}
        logger.error("call.failed", exc_info=forms[given_as])  # noqa: TRY400  - the forms are the point

    (line,) = lines()
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("KeyError: '[key]'")


def test_no_exception_is_no_field(buffer: io.BytesIO, lines: Read) -> None:
    """``exc_info=True`` outside of an except block says nothing."""
    make_logger(LineWriter(buffer), level="info", log_format="json").info("a.b", exc_info=True)

    assert "exception" not in lines()[0]


class Refusing:
    """A stream that takes ``room`` bytes, then fails like a full disk until it gets more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def write(self, data: bytes, /) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        part = data[: self.room]
        self.taken += part
        self.room -= len(part)
        return len(part)


def test_lines_that_cannot_be_written_are_counted() -> None:
    """A full disk fails no request."""
    lines = LineWriter(Refusing(room=0))

    lines.write(b"one\n")
    lines.write(b"two\n")

    assert repr(lines) == "<LineWriter 2 lost>"


def test_a_line_after_a_torn_one_stands_for_itself() -> None:
    """Half a line remains of what the disk took; the next must not be glued to it."""
    stream = Refusing(room=2)
    lines = LineWriter(stream)
    lines.write(b"one\n")
    stream.room = 100

    lines.write(b"two\n")
    lines.write(b"three\n")

    assert (stream.taken, lines.lost) == (b"on\ntwo\nthree\n", 1)


def test_a_stream_that_would_block_loses_the_line() -> None:
    """A pipe that was set not to block takes nothing when it is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb") as stream:
        lines = LineWriter(stream)
        for _ in range(100):
            lines.write(b"x" * 8191 + b"\n")

    assert 0 < lines.lost < 100


def test_a_closed_stream_loses_the_line() -> None:
    """A closed standard error does not end the service."""
    stream = io.BytesIO()
    stream.close()
    lines = LineWriter(stream)

    lines.write(b"one\n")

    assert lines.lost == 1


def test_a_pipe_without_a_reader_loses_the_line(facts: MakeFacts) -> None:
    """The process that collected the log has died."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stream:
        lines = LineWriter(stream)
        RequestLog(lines, level="info", log_format="json").observe(facts())

    assert lines.lost == 1


def test_a_full_device_loses_the_line(facts: MakeFacts) -> None:
    """With a real full disk, and nothing that raises when the file is closed."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    with Path("/dev/full").open("wb") as stream:
        lines = LineWriter(stream)
        RequestLog(lines, level="info", log_format="json").observe(facts())

    assert lines.lost == 1


def test_columns_are_coloured_on_a_terminal_alone(facts: MakeFacts) -> None:
    """Escape sequences in a file only disturb."""

    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    terminal, file = Terminal(), io.BytesIO()
    request_log(terminal, console=True).observe(facts())
    request_log(file, console=True).observe(facts())

    assert b"\x1b" in terminal.getvalue()
    assert b"\x1b" not in file.getvalue()
    assert b"request.finished" in file.getvalue()


@pytest.mark.usefixtures("standard_loggers")
def test_records_of_the_standard_library_come_in_the_same_format(
    buffer: io.BytesIO, lines: Read
) -> None:
    """One service, one log."""
    configure(level="info", log_format="json", lines=LineWriter(buffer))

    logging.getLogger("aiohttp.server").error("failed for %s", SECRET)
    logging.getLogger("another.library").warning("odd %s", SECRET)
    logging.getLogger("another.library").info("not interesting")

    logged = [(line["level"], line["logger"], line["event"]) for line in lines()]
    assert logged == [
        ("error", "aiohttp.server", "failed for [key]"),
        ("warning", "another.library", "odd [key]"),
    ]


@pytest.mark.usefixtures("standard_loggers")
def test_configuring_again_replaces_the_first_configuration(
    buffer: io.BytesIO, lines: Read
) -> None:
    """No line comes twice, and none goes where lines went before."""
    before = io.BytesIO()
    configure(level="info", log_format="json", lines=LineWriter(before))
    configure(level="info", log_format="json", lines=LineWriter(buffer))

    logging.getLogger("asyncio").log(35, "between two levels")

    assert [line["level"] for line in lines()] == ["warning"]
    assert before.getvalue() == b""


@pytest.mark.usefixtures("standard_loggers")
def test_exceptions_of_any_library_are_logged_without_keys(buffer: io.BytesIO, lines: Read) -> None:
    """Our handler sanitizes what comes from any logger."""
    logging.getLogger().handlers.clear()  # none but ours, for others may format the exception first
    configure(level="info", log_format="json", lines=LineWriter(buffer))

    logging.getLogger("another.library").error("failed", exc_info=ValueError(SECRET))

    assert lines()[0]["exception"] == "ValueError: [key]"


@pytest.mark.usefixtures("standard_loggers")
async def test_what_asyncio_reports_is_redacted(buffer: io.BytesIO, lines: Read) -> None:
    """A callback that fails is reported with the exception and its traceback."""
    configure(level="info", log_format="json", lines=LineWriter(buffer))

    asyncio.get_running_loop().call_exception_handler(
        {"message": f"Callback failed at /k/{SECRET}", "exception": ValueError(SECRET)}
    )

    (line,) = lines()
    assert line["event"] == "Callback failed at /k/[key]"
    assert line["exception"] == "ValueError: [key]"


@pytest.mark.usefixtures("standard_loggers")
def test_other_handlers_get_clean_records_too(
    caplog: pytest.LogCaptureFixture, buffer: io.BytesIO
) -> None:
    """The filter sits on the loggers that can know a key, not on our handler alone."""
    configure(level="info", log_format="json", lines=LineWriter(buffer))

    logging.getLogger("aiohttp.server").error("failed for %s", SECRET)

    assert "failed for [key]" in caplog.text
    assert SECRET not in caplog.text


def test_unreadable_is_a_noun_and_a_verb() -> None:
    """A constant in the style of all events: noun, verb."""
    assert UNREADABLE == "request.unreadable"
