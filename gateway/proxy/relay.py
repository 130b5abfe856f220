"""From Ollama to the caller: bytes as they come, and the truth about how they ended.

Ollama ends broken streams politely: only the dialect's final event proves that one is whole.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from gateway.dialects import Body, Dialect, Scanner
from gateway.errors import GatewayError, UpstreamIncomplete, UpstreamProtocolError
from gateway.proxy.response import Headers, Response
from gateway.telemetry.record import Phase, RequestRecord

_NO_FIRST_BYTE = (
    "Ollama began an answer and ended it before its first byte: it was restarted or has crashed. "
    "Its own log says why; try again."
)


Judge: TypeAlias = Callable[[int, Body], Awaitable[Headers]]
"""Looks at a whole answer before it is sent: its status, and what its body says. It returns what
the head says besides, or raises a GatewayError, which is then sent instead."""


class UpstreamBusy(Exception):
    """Ollama had no room for the request and did nothing: it may be sent again, later."""


_BUSY = b"server busy"
"""Ollama's words, in every dialect, when ``OLLAMA_MAX_QUEUE`` others wait for a model to load."""


class Reply(Protocol):
    """What the relay needs of Ollama's reply."""

    @property
    def status(self) -> int: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def first_byte_at(self) -> float | None: ...
    def header(self, name: str) -> str: ...
    async def read(self) -> bytes: ...


def is_stream(reply: Reply, dialect: Dialect) -> bool:
    """Whether Ollama answers with a stream; asked for or not, the reply decides."""
    return reply.status == 200 and _kind(reply).startswith(dialect.stream_type)


def insist_on_stream(reply: Reply) -> None:
    """For a call that asked for a stream and got none: a JSON object (Ollama has loaded a model,
    say) is an answer, too; anything else could end anywhere and look whole.

    Raises UpstreamProtocolError.
    """
    if reply.status == 200 and not _kind(reply).startswith("application/json"):
        raise UpstreamProtocolError(
            "What answers at `ollama.url` sent neither a stream nor JSON: it is not an Ollama."
        )


def _kind(reply: Reply) -> str:
    return reply.header("content-type").lower()


async def relay_stream(
    reply: Reply, answer: Response, headers: Headers, dialect: Dialect, record: RequestRecord
) -> None:
    """Pass a stream on. Nothing is sent before its first byte is there.

    Raises:
        UpstreamProtocolError: it ended before its first byte.
        UpstreamIncomplete: it ended, however politely, without its final event.
        GatewayError: what ``reply.read`` or ``answer`` raise.
    """
    data = await _first(reply)
    record.phase = Phase.RELAY
    record.first_byte_at = reply.first_byte_at
    scanner = dialect.scanner()
    try:
        await answer.begin_stream(reply.status, headers, length=None, scanner=scanner)
        while data:
            scanner.feed(data)
            await answer.write(data)
            data = await _next(reply, scanner)
    finally:
        _note_usage(record, scanner)
        if scanner.failure is not None:
            record.error = scanner.failure
    if not scanner.complete:
        raise UpstreamIncomplete
    if scanner.failure is not None:
        # Ollama said so itself, in its dialect and to the end: the caller's client raises.
        record.outcome = UpstreamIncomplete.code


async def relay_whole(
    reply: Reply,
    answer: Response,
    headers: Headers,
    dialect: Dialect,
    record: RequestRecord,
    *,
    at_once: int,
    judge: Judge,
) -> None:
    """Pass an answer on that is no stream.

    Up to ``at_once`` bytes are collected first, so that a failure in the middle is still an honest
    status, and ``judge`` sees all of it; a longer answer is passed on as it comes. One of which
    Ollama itself says that it broke off passes too, if ``judge`` lets it: its caller can read that
    there, and the owner in the log.
    """
    body = dialect.body()
    try:
        await _pass_whole(reply, answer, headers, body, record=record, at_once=at_once, judge=judge)
    finally:
        _note_usage(record, body)
    if body.failure is not None:
        record.error = body.failure
    elif body.incomplete:
        record.outcome = UpstreamIncomplete.code
        record.error = UpstreamIncomplete.default_message


async def _pass_whole(
    reply: Reply,
    answer: Response,
    headers: Headers,
    body: Body,
    *,
    record: RequestRecord,
    at_once: int,
    judge: Judge,
) -> None:
    collected: list[bytes] = []
    size = 0
    while data := await reply.read():
        record.phase = Phase.RELAY
        body.feed(data)
        collected.append(data)
        size += len(data)
        if size > at_once:
            break
    else:
        whole = b"".join(collected)
        if reply.status == 503 and _BUSY in whole:
            raise UpstreamBusy
        said = await judge(reply.status, body)
        await answer.send(reply.status, [*headers, *said], whole)
        return
    await answer.begin_stream(reply.status, headers, length=reply.content_length, scanner=None)
    for data in collected:
        await answer.write(data)
    collected.clear()
    while data := await reply.read():
        body.feed(data)
        await answer.write(data)


async def _first(reply: Reply) -> bytes:
    """The first bytes. Without any there is no text so far that could be half an answer."""
    try:
        data = await reply.read()
    except UpstreamIncomplete:
        data = b""
    if not data:
        raise UpstreamProtocolError(_NO_FIRST_BYTE)
    return data


async def _next(reply: Reply, scanner: Scanner) -> bytes:
    """The next bytes; a stream whose final event has passed is whole, whatever happens after it."""
    try:
        return await reply.read()
    except GatewayError:
        if scanner.complete:
            return b""
        raise


def _note_usage(record: RequestRecord, read: Scanner | Body) -> None:
    usage = read.usage
    record.tokens_in = usage.tokens_in
    record.tokens_out = usage.tokens_out
    record.tokens_counted = usage.counted if usage.tokens_out is not None else None
    record.timings = read.timings
