"""The rows of the error table that are a matter of capacity, or Ollama's doing, or our own."""

import asyncio
from collections.abc import Mapping
from typing import Any

from gateway.server import drain
from gateway.simulator import Fault
from tests.behaviour.dialect_specs import ANTHROPIC, NATIVE, OPENAI, RESPONSES, DialectSpec
from tests.behaviour.failing import NO_RETRY, RETRY_SOON, Provoke, Row, Scene, measured
from tests.behaviour.wire import RawResponse, raw_client, request

IN_TWO_SECONDS = {"retry-after": "2"}
IN_LINE = {**RETRY_SOON, "x-gateway-queue-position": None, "x-gateway-expected-wait": None}
EVENTS = (OPENAI, RESPONSES, ANTHROPIC)
BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'
SHORT = 0.1
"""Seconds of a clock that is meant to run out."""


async def queue_is_full(scene: Scene) -> RawResponse:
    async with scene.occupied(), scene.waiting(key=scene.gateway.new_key("first")):
        await scene.queued(1)
        return await scene.fetch()


async def waits_too_long(scene: Scene) -> RawResponse:
    async with scene.occupied():
        return await scene.fetch()


async def would_wait_too_long(scene: Scene) -> RawResponse:
    measured(scene.gateway, 60.0)
    async with scene.occupied(), scene.waiting():
        await scene.queued(1)
        return await scene.fetch()


async def would_be_too_late(scene: Scene) -> RawResponse:
    measured(scene.gateway, 60.0)
    async with scene.occupied():
        return await scene.fetch(headers={"x-stainless-read-timeout": "30"})


async def ollama_is_busy(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.status(503, BUSY))


async def buffers_are_full(scene: Scene) -> RawResponse:
    async with raw_client(scene.gateway.port) as first:
        head = {**scene.gateway.bearer, "Content-Length": "1000"}
        first.send(request(scene.spec.path, b"{", headers=head))
        memory_budget = scene.gateway.gateway.handler.memory_budget
        while memory_budget.used < 1000:  # noqa: ASYNC110  - the gateway raises no events for tests
            await asyncio.sleep(0.002)
        return await scene.fetch()


async def while_draining(scene: Scene) -> RawResponse:
    scene.gateway.gateway.handler.drain()
    return await scene.fetch()


async def ollama_is_away(scene: Scene) -> RawResponse:
    await scene.gateway.gateway.host.catalog.get()
    await scene.sim.stop()
    return await scene.fetch()


async def ollama_hangs_up(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.refuse())


async def ollama_speaks_nonsense(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.garbage())


async def ollama_sends_a_huge_head(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.oversize_header())


async def ollama_redirects(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.status(302, b"", [("Location", "http://127.0.0.1:1/")]))


async def response_is_aborted(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.short_body())


async def no_first_byte(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.slow_headers(), stream=True)


async def never_finished(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.slow_headers())


async def goes_on_for_ever(scene: Scene) -> RawResponse:
    with scene.sim.hold() as hold:
        hold.release(2)
        return await scene.fetch(stream=True)


async def stops_in_the_middle(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.stall(after_tokens=2), stream=True)


async def runner_dies(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.die(after_tokens=2), stream=True)


async def repeats_itself(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.repeat(after_tokens=2), stream=True)


async def stream_is_aborted(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.abort(after_tokens=2), stream=True)


async def stream_turns_to_garbage(scene: Scene) -> RawResponse:
    return await scene.provoked(Fault.garbage(after_tokens=2), stream=True)


async def shut_down_while_waiting(scene: Scene) -> RawResponse:
    async with scene.occupied() as (one, _):
        await drain(scene.gateway.gateway)
        return await one.response()


async def shut_down_in_the_middle(scene: Scene) -> RawResponse:
    with scene.sim.hold() as hold:
        hold.release(2)
        async with scene.waiting(scene.spec.body(stream=True)) as one:
            status, headers = await one.head()
            first = await one.chunk()
            await drain(scene.gateway.gateway)
            body, complete = await one.rest()
            return RawResponse(status, headers, first + body, complete)


async def bug(scene: Scene) -> RawResponse:
    scene.gateway.gateway.handler._inference = None  # type: ignore[assignment]  # a bug
    return await scene.fetch()


async def bug_in_the_middle(scene: Scene) -> RawResponse:
    """An upstream whose replies break when they are read again, after their first line."""
    pipeline: Any = scene.gateway.gateway.handler._inference._pipeline
    lines: list[bytes] = []

    class Broken:
        def __init__(self, opening: Any) -> None:
            self._opening = opening

        async def __aenter__(self) -> Any:
            self._reply = await self._opening.__aenter__()
            return self

        async def __aexit__(self, *trouble: object) -> None:
            await self._opening.__aexit__(*trouble)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._reply, name)

        async def read(self) -> bytes:
            if lines:
                raise ZeroDivisionError
            data: bytes = await self._reply.read()
            end = b"\n" if scene.spec.name == "native" else b"\n\n"
            lines.append(data[: data.index(end) + len(end)])
            return lines[0]

    class Breaking:
        def open(self, *seen_request: Any) -> Broken:
            return Broken(scene.gateway.gateway.host.upstream.open(*seen_request))

    pipeline._upstream = Breaking()
    return await scene.fetch(stream=True)


def _busy(name: str, code: str, provoke: Provoke, *says: str, **more: Any) -> Row:
    return Row(
        name=name,
        code=code,
        status=503,
        type="overloaded_error",
        provoke=provoke,
        says=says,
        headers=more.pop("headers", RETRY_SOON),
        **more,
    )


def _away(name: str, code: str, provoke: Provoke, *says: str) -> Row:
    return Row(
        name=name,
        code=code,
        status=502,
        type="api_error",
        provoke=provoke,
        says=says,
        headers=IN_TWO_SECONDS,
    )


def _late(
    name: str,
    code: str,
    provoke: Provoke,
    *says: str,
    kind: str = "api_error",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    speeches: tuple[DialectSpec, ...] = (*EVENTS, NATIVE),
) -> Row:
    return Row(
        name=name,
        code=code,
        status=200,
        type=kind,
        provoke=provoke,
        says=says,
        late=True,
        settings=settings or {},
        speeches=speeches,
    )


_DRAINED = {"timeouts": {"drain_timeout": SHORT}}
_INCOMPLETE = "text so far is not complete"

ROWS = (
    _busy(
        "full queue",
        "queue_full",
        queue_is_full,
        "Try again later",
        headers=IN_LINE,
        settings={"scheduler": {"max_queued": 1, "max_queued_per_key": 1}},
    ),
    _busy(
        "waited too long",
        "queue_timeout",
        waits_too_long,
        "within 0.1 s",
        "Try again later",
        headers=IN_LINE,
        settings={"timeouts": {"queue_timeout": SHORT}},
    ),
    _busy(
        "would wait too long",
        "queue_timeout",
        would_wait_too_long,
        "this request may wait 100 s for a slot",
        "Try again later",
        headers=IN_LINE,
        settings={"timeouts": {"queue_timeout": 100.0}},
    ),
    _busy(
        "would be too late",
        "deadline_unreachable",
        would_be_too_late,
        "A response would take about 120 s, 60 s of it in the queue",
        "the client times out after 30 s",
        "Try again later, or raise the client's timeout",
        headers=IN_LINE,
        settings={"scheduler": {"max_active": 1}, "tunnel": {"client_timeout": "respect"}},
    ),
    _busy(
        "busy with others",
        "queue_timeout",
        ollama_is_busy,
        "Ollama is busy with requests that did not come through this gateway",
        "Try again later",
        settings={"timeouts": {"queue_timeout": SHORT}},
    ),
    _busy(
        "full buffers",
        "overloaded",
        buffers_are_full,
        "Try again later",
        settings={"limits": {"body_bytes": 1024, "buffered_bytes": 1024}},
    ),
    _busy(
        "draining",
        "draining",
        while_draining,
        "Retry in a few seconds",
        headers={"retry-after": "5", "connection": "close"},
    ),
    _away("no Ollama", "upstream_unreachable", ollama_is_away, "`ollama serve`", "`ollama.url`"),
    _away("hung up", "upstream_protocol_error", ollama_hangs_up, "try again"),
    _away("nonsense", "upstream_protocol_error", ollama_speaks_nonsense, "`ollama.url`"),
    _away("huge head", "upstream_protocol_error", ollama_sends_a_huge_head, "`ollama.url`"),
    _away("redirect", "upstream_protocol_error", ollama_redirects, "`ollama.url`"),
    Row(
        name="cut answer",
        code="upstream_incomplete",
        status=502,
        type="api_error",
        provoke=response_is_aborted,
        says=(_INCOMPLETE,),
    ),
    Row(
        name="no first byte",
        code="upstream_first_byte_timeout",
        status=504,
        type="timeout_error",
        provoke=no_first_byte,
        says=("within 0.1 s", "`first_byte_timeout`", "[[models]]"),
        headers=NO_RETRY,
        settings={"timeouts": {"first_byte_timeout": SHORT}},
    ),
    Row(
        name="never finished",
        code="upstream_timeout",
        status=504,
        type="timeout_error",
        provoke=never_finished,
        says=("within 0.1 s", "`total_timeout`", "[[models]]"),
        headers=NO_RETRY,
        settings={"timeouts": {"total_timeout": SHORT}},
    ),
    Row(
        name="shut down while waiting",
        code="shutdown",
        status=503,
        type="overloaded_error",
        provoke=shut_down_while_waiting,
        says=("Retry.",),
        settings=_DRAINED,
    ),
    Row(
        name="bug",
        code="internal_error",
        status=500,
        type="api_error",
        provoke=bug,
        says=("Its log has the reason under the id of this request",),
    ),
    _late(
        "late: silence",
        "upstream_idle_timeout",
        stops_in_the_middle,
        "nothing for 0.1 s",
        "`timeouts.idle_timeout`",
        kind="timeout_error",
        settings={"timeouts": {"idle_timeout": SHORT}},
    ),
    _late(
        "late: goes on for ever",
        "upstream_timeout",
        goes_on_for_ever,
        "within 0.2 s",
        "`total_timeout`",
        kind="timeout_error",
        settings={"timeouts": {"stream_total_timeout": 0.2, "first_byte_timeout": 0.2}},
    ),
    _late("late: dead runner", "upstream_incomplete", runner_dies, _INCOMPLETE, speeches=EVENTS),
    _late("late: repeats itself", "upstream_incomplete", repeats_itself, _INCOMPLETE),
    _late("late: cut", "upstream_incomplete", stream_is_aborted, _INCOMPLETE),
    _late(
        "late: garbage", "upstream_protocol_error", stream_turns_to_garbage, "check `ollama.url`"
    ),
    _late(
        "late: shut down",
        "shutdown",
        shut_down_in_the_middle,
        "Retry.",
        kind="overloaded_error",
        settings=_DRAINED,
    ),
    _late("late: bug", "internal_error", bug_in_the_middle, "Its log has the reason"),
)
