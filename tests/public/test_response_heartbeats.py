"""Heartbeats on a real connection: where one may stand, and what a response can be after it."""

import asyncio
from dataclasses import dataclass

import pytest

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.errors import (
    ClientDisconnected,
    GatewayError,
    QueueTimeout,
    Shutdown,
    Upstream4xx,
    Upstream5xx,
    UpstreamFailed,
    UpstreamProtocolError,
)
from gateway.public.response import Response, ResponseKind
from tests.behaviour.wire import RawResponse, request

from .response_server import (
    EVENT,
    MIB,
    SSE,
    ResponseServer,
    Script,
    connected,
    fetch,
    settings_with,
)

JSON = [("Content-Type", "application/json")]
OBJECT = b'{"choices":[]}'
COMMENT = b":\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@dataclass(frozen=True, slots=True)
class DialectCase:
    """A dialect, and what its streams look like."""

    dialect: Dialect
    kind: str
    heartbeat: bytes
    event: bytes
    final: bytes

    def __str__(self) -> str:
        return self.dialect.name


_COMPLETED = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
DIALECTS = [
    DialectCase(OPENAI, "text/event-stream", COMMENT, EVENT, b"data: [DONE]\n\n"),
    DialectCase(RESPONSES, "text/event-stream", COMMENT, EVENT, _COMPLETED),
    DialectCase(ANTHROPIC, "text/event-stream", PING, EVENT, _STOP),
    DialectCase(OLLAMA, "application/x-ndjson", b" ", b'{"done":false}\n', b'{"done":true}\n'),
]
every_dialect = pytest.mark.parametrize("case", DIALECTS, ids=str)


async def begin(response: Response, *, after: ResponseKind | None = None) -> None:
    """Begin a stream, after a heartbeat of this kind if there is one."""
    if after is not None:
        response.send_heartbeat(after)
    await response.begin_stream(200, SSE, length=None, scanner=response.dialect.scanner())


async def write(response: Response, data: bytes) -> None:
    """Do what the relay does with each piece."""
    assert response._scanner is not None
    response._scanner.feed(data)
    await response.write(data)


# The first heartbeat.


@every_dialect
async def test_first_heartbeat_begins_a_stream(case: DialectCase) -> None:
    """Its head is sent at once and announces the stream, so that no proxy buffers it."""
    seen = asyncio.Event()

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        await seen.wait()
        await begin(response)
        await write(response, case.final)
        await response.end()

    async with connected(ResponseServer(script, dialect=case.dialect)) as client:
        client.send(request("/", {}))
        status, headers = await client.head()
        first = await client.chunk()
        seen.set()
        rest = await client.rest()

    assert (status, headers["content-type"]) == (200, case.kind)
    assert headers["transfer-encoding"] == "chunked"
    assert (headers["x-accel-buffering"], headers["x-request-id"]) == ("no", "req_1")
    assert "no-cache" in headers["cache-control"]
    assert (first, rest) == (case.heartbeat, (case.final, True))


@every_dialect
async def test_first_heartbeat_begins_a_complete_response(case: DialectCase) -> None:
    """With a space, which may precede JSON in every dialect."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.send(200, JSON, OBJECT)
        await response.end()

    response = await fetch(script, dialect=case.dialect)

    assert (response.status, response.body, response.complete) == (200, b"  " + OBJECT, True)
    assert response.headers["content-type"] == "application/json"
    assert "content-length" not in response.headers
    assert response.json() == {"choices": []}


async def test_note_is_sent_as_a_comment() -> None:
    """In one line, whatever it contains; dialects without comments skip it."""
    notes = {}
    for dialect in (OPENAI, ANTHROPIC, OLLAMA):

        async def script(response: Response) -> None:
            response.send_heartbeat(ResponseKind.STREAM, "number 1,\n\n about 3 s")
            await begin(response)
            await response.end()

        notes[dialect.name] = (await fetch(script, dialect=dialect)).body

    assert notes["openai"] == b": number 1, about 3 s\n\n"
    assert notes["anthropic"] == b": number 1, about 3 s\n" + PING
    assert notes["ollama"] == b" "


# Where a heartbeat may stand.


@every_dialect
async def test_heartbeats_between_events(case: DialectCase) -> None:
    """Before the first, between any two, and not after the final one."""

    async def script(response: Response) -> None:
        await begin(response)
        for data in (b"", case.event, case.event, case.final):
            await write(response, data)
            response.send_heartbeat(ResponseKind.STREAM)
        await response.end()

    response = await fetch(script, dialect=case.dialect)

    assert response.body == (case.heartbeat + case.event) * 2 + case.heartbeat + case.final
    assert response.complete


@every_dialect
async def test_no_heartbeat_inside_an_event(case: DialectCase) -> None:
    """For every byte at which an event can be split."""
    data = case.event + case.final
    inside = [at for at in range(1, len(data)) if at != len(case.event)]

    async def script(response: Response) -> None:
        await begin(response)
        for at in range(len(data)):
            await write(response, data[at : at + 1])
            if at + 1 in inside:
                response.send_heartbeat(ResponseKind.STREAM)
        await response.end()

    response = await fetch(script, dialect=case.dialect)

    # A final event is one before its empty line, as the scanner reads it; nothing follows it.
    assert response.body == data


async def test_no_heartbeat_in_a_complete_response_that_has_begun() -> None:
    """A space would change a text or number in it, or exceed its declared length."""

    async def long_one(response: Response) -> None:
        await response.begin_stream(200, JSON, length=len(OBJECT), scanner=None)
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.write(OBJECT[:5])
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.write(OBJECT[5:])
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.end()

    async def after_heartbeat(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        await long_one(response)

    async def short(response: Response) -> None:
        await response.send(200, JSON, OBJECT)
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.end()

    assert (await fetch(long_one)).body == OBJECT
    assert (await fetch(after_heartbeat)).body == b" " + OBJECT
    assert (await fetch(short)).body == OBJECT


async def test_no_heartbeat_after_a_response() -> None:
    """Ended or aborted: the connection belongs to the next request."""

    async def script(response: Response) -> None:
        await begin(response)
        await write(response, EVENT)
        await response.end()
        response.send_heartbeat(ResponseKind.STREAM)

    async def failing(response: Response) -> None:
        await begin(response)
        await response.fail(Shutdown())
        response.send_heartbeat(ResponseKind.STREAM)

    server = ResponseServer(script)
    async with connected(server) as client:
        for _ in range(2):
            client.send(request("/", {}))
            response = await client.response()

            assert (response.status, response.body, response.complete) == (200, EVENT, True)

    assert [response.heartbeats for response in server.responses] == [0, 0]
    assert COMMENT not in (await fetch(failing)).body


async def test_no_heartbeat_to_a_client_with_unread_bytes() -> None:
    """The client has enough to read; heartbeats would only pile up."""
    counts: list[int] = []

    async def script(response: Response) -> None:
        await begin(response)
        await write(response, b"data: " + bytes(16 * MIB) + b"\n\n")
        response.send_heartbeat(ResponseKind.STREAM)
        counts.append(response.heartbeats)
        await response.end()

    async with connected(
        ResponseServer(script, settings=settings_with(write_timeout=5.0, read_ahead_bytes=32 * MIB))
    ) as client:
        client.send(request("/", {}))
        response = await client.response()

    assert (counts, response.complete) == ([0], True)


async def test_heartbeat_to_a_client_that_left_does_not_raise() -> None:
    """The timer is not interrupted: the handler learns of the disconnect."""
    server = ResponseServer(lambda _: asyncio.sleep(0))

    async def script(response: Response) -> None:
        transport = response._writer._request.transport
        assert transport is not None
        transport.abort()
        response.send_heartbeat(ResponseKind.STREAM)
        response.send_heartbeat(ResponseKind.STREAM)
        await response.write(EVENT)

    server.script = script
    async with connected(server) as client:
        client.send(request("/", {}))
        await server.wait_until_over()

    assert [type(error) for error in server.errors] == [ClientDisconnected]
    assert server.responses[0].heartbeats == 0


async def test_heartbeats_are_counted_separately() -> None:
    """``bytes_out`` is what Ollama sent."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        response.send_heartbeat(ResponseKind.STREAM)
        await begin(response)
        await write(response, EVENT)
        await response.end()

    server = ResponseServer(script)
    async with connected(server) as client:
        client.send(request("/", {}))
        await client.response()

    assert (server.responses[0].heartbeats, server.responses[0].bytes_out) == (2, len(EVENT))


# What Ollama sends after a heartbeat has promised something.


async def failed(script: Script) -> tuple[RawResponse, list[GatewayError]]:
    """What the client gets of a response that fails, and the errors."""

    async def failing(response: Response) -> None:
        try:
            await script(response)
        except GatewayError as error:
            raised.append(error)
            await response.fail(error)

    raised: list[GatewayError] = []
    async with connected(ResponseServer(failing)) as client:
        client.send(request("/", {}))
        return await client.response(), raised


@pytest.mark.parametrize("kind", ResponseKind)
@pytest.mark.parametrize(("status", "error_class"), [(400, Upstream4xx), (500, Upstream5xx)])
async def test_error_status_after_a_heartbeat_is_a_failure(
    kind: ResponseKind, status: int, error_class: type[UpstreamFailed]
) -> None:
    """With Ollama's message, and its response as it was."""
    body = b'{"error":{"message":"no such thing","type":"x"}}'

    async def script(response: Response) -> None:
        response.send_heartbeat(kind)
        await response.send(status, [*JSON, ("x-a", "1")], body)

    response, (error,) = await failed(script)

    assert isinstance(error, error_class)
    assert error.message == "no such thing"
    assert (error.reply.status, error.reply.body) == (status, body)
    assert ("x-a", "1") in error.reply.headers
    assert (response.status, response.complete) == (200, False)
    assert (b"no such thing" in response.body) is (kind is ResponseKind.STREAM)


async def test_long_error_response_after_a_heartbeat_is_a_failure() -> None:
    """Its body is not waited for."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.begin_stream(503, JSON, length=10 * MIB, scanner=None)

    response, (error,) = await failed(script)

    assert type(error) is Upstream5xx
    assert error.message == "Ollama responded with status 503."
    assert (response.body, response.complete) == (b" ", False)


async def test_response_of_the_other_kind_after_a_heartbeat_is_a_failure() -> None:
    """The head has told the client how to read the body: nothing else can follow."""

    async def stream(response: Response) -> None:
        await begin(response, after=ResponseKind.COMPLETE)

    async def long_piece(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        await response.begin_stream(200, JSON, length=None, scanner=None)

    async def piece(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        await response.send(200, JSON, OBJECT)

    for script in (stream, long_piece, piece):
        response, (error,) = await failed(script)

        assert type(error) is UpstreamProtocolError
        assert (response.status, response.complete) == (200, False)
        assert OBJECT not in response.body


async def test_compressed_response_after_a_heartbeat_is_a_failure() -> None:
    """The head that names the encoding can no longer be sent."""
    coded = [*JSON, ("Content-Encoding", "gzip")]

    async def piece(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.send(200, coded, b"\x1f\x8b")

    async def stream(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        await response.begin_stream(200, coded, length=None, scanner=response.dialect.scanner())

    for script in (piece, stream):
        response, (error,) = await failed(script)

        assert type(error) is UpstreamProtocolError
        assert "compressed" in error.message
        assert b"\x1f" not in response.body


async def test_single_object_of_ollamas_api_is_a_line_of_the_stream() -> None:
    """Such as the report that a model was loaded."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        await response.send(200, JSON, b'{"done":true}')
        response.send_heartbeat(ResponseKind.STREAM)
        await response.end()

    response = await fetch(script, dialect=OLLAMA)

    assert (response.body, response.complete) == (b' {"done":true}\n', True)


# How a response fails after heartbeats.


@every_dialect
async def test_stream_that_fails_before_its_first_event(case: DialectCase) -> None:
    """An error event, then no end."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        unreportable.append(response.cannot_report_errors)
        await response.fail(QueueTimeout("too long"))

    unreportable: list[bool] = []
    response = await fetch(script, dialect=case.dialect)

    assert unreportable == [False]
    assert (response.status, response.complete) == (200, False)
    assert response.body.startswith(case.heartbeat)
    assert b"too long" in response.body
    assert response.body.endswith(case.final[-1:])


async def test_complete_response_that_fails_is_aborted() -> None:
    """No client takes spaces for a response."""

    async def script(response: Response) -> None:
        unreportable.append(response.cannot_report_errors)
        response.send_heartbeat(ResponseKind.COMPLETE)
        unreportable.append(response.cannot_report_errors)
        await response.fail(QueueTimeout("too long"))
        unreportable.append(response.cannot_report_errors)

    unreportable: list[bool] = []
    response = await fetch(script)

    assert (response.status, response.body, response.complete) == (200, b" ", False)
    assert unreportable == [False, True, False]


async def test_late_error_object_reports_the_error_with_status_200() -> None:
    """Where the owner sets that; the connection can be used again."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        assert not response.cannot_report_errors
        await response.fail(QueueTimeout("too long"))

    async with connected(
        ResponseServer(script, settings=settings_with(late_error="object"))
    ) as client:
        for _ in range(2):
            client.send(request("/", {}))
            response = await client.response()

            assert (response.status, response.complete) == (200, True)
            assert response.json()["error"]["code"] == "queue_timeout"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b'{"error":{"message":"no tools"}}', True),
        (b"<h1>404</h1>", False),
        (b"\x1f\x8b\x08", False),
        (OBJECT, False),
        (b"", False),
    ],
)
async def test_late_error_object_is_ollamas_body_only_if_that_is_an_error(
    said: bytes, kept: bool
) -> None:
    """A client that looks for an error would not find it in anything else."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        try:
            await response.send(404, JSON, said)
        except GatewayError as error:
            await response.fail(error)

    async with connected(
        ResponseServer(script, settings=settings_with(late_error="object"))
    ) as client:
        client.send(request("/", {}))
        response = await client.response()

    assert response.complete
    assert (response.body == b" " + said) is kept
    assert response.json()["error"]["message"]


async def test_late_error_object_is_not_written_into_a_body() -> None:
    """An object inside of another is no error that a client could read."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.COMPLETE)
        await response.begin_stream(200, JSON, length=None, scanner=None)
        await response.write(OBJECT[:5])
        unreportable.append(response.cannot_report_errors)
        await response.fail(Shutdown())

    unreportable: list[bool] = []
    async with connected(
        ResponseServer(script, settings=settings_with(late_error="object"))
    ) as client:
        client.send(request("/", {}))
        response = await client.response()

    assert unreportable == [True]
    assert (response.body, response.complete) == (b" " + OBJECT[:5], False)


@every_dialect
async def test_failure_after_the_final_event_writes_nothing(case: DialectCase) -> None:
    """The client has read the complete stream."""

    async def script(response: Response) -> None:
        await begin(response, after=ResponseKind.STREAM)
        await write(response, case.event + case.final)
        await response.fail(Shutdown())

    response = await fetch(script, dialect=case.dialect)

    assert (response.body, response.complete) == (case.heartbeat + case.event + case.final, False)


async def test_failure_after_a_single_object_writes_nothing() -> None:
    """The same for a complete response in a stream."""

    async def script(response: Response) -> None:
        response.send_heartbeat(ResponseKind.STREAM)
        await response.send(200, JSON, b'{"done":true}')
        await response.fail(Shutdown())

    response = await fetch(script, dialect=OLLAMA)

    assert (response.body, response.complete) == (b' {"done":true}\n', False)
