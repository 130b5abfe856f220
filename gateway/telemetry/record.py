"""All facts of one request: collected while it is served, frozen when it has ended.

The outermost middleware makes one ``Exchange`` per request; whoever learns a fact writes it there;
``finish`` freezes it into ``Facts``, which the sinks of this folder interpret. Nothing here reads a
clock: instants are seconds of one monotonic clock (the event loop's) and are passed in.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import asdict

from gateway.dialects import Timings
from gateway.errors import GatewayError, InternalError
from gateway.telemetry.redaction import harmless

OK: Final = "ok"
UPSTREAM_4XX: Final = "upstream_4xx"
UPSTREAM_5XX: Final = "upstream_5xx"

UNKNOWN_ROUTE: Final = "unknown"
"""The route of what matches no row of the route table: never the path that was asked for."""

MAX_ERROR: Final = 300
"""Characters of an error's words that are kept."""

MAX_WORD: Final = 128
"""Characters that are kept of what a caller or a proxy sent: method, address, request id."""

_CALLER_IS_GONE: Final = 499


class Place(Protocol):
    """Where a call is in the queue: 1 is next; ``wait`` is what it has to expect, in seconds."""

    @property
    def position(self) -> int: ...
    @property
    def wait(self) -> float: ...


class Phase(StrEnum):
    """How far a request got. The one in which it ends tells what it was waiting for."""

    HEAD = "head"
    """Its head was read; nothing was decided."""
    AUTHENTICATE = "authenticate"
    """Who asks, may they, and do they ask too often?"""
    BODY = "body"
    """Its body is being read."""
    PARSE = "parse"
    """What does the body ask for?"""
    RESOLVE = "resolve"
    """Which model is meant? Discovery is answered from here, too."""
    QUEUE = "queue"
    """It waits for its turn."""
    CONNECT = "connect"
    """A connection to Ollama is made and the request sent."""
    FIRST_BYTE = "first_byte"
    """Ollama has the request; no byte of the answer's body came yet."""
    RELAY = "relay"
    """The answer passes through."""
    DONE = "done"
    """The whole answer was handed to the caller's connection."""


class FinishedRequest(Struct, frozen=True, kw_only=True):
    """What became of one request. An absent fact is None.

    Times are in seconds. ``key`` and ``model`` are names of ours: a key's name in the store, a
    model's canonical name in the catalogue. ``error`` holds Ollama's own words or our message.
    They stand in the order in which a reader wants them.
    """

    request_id: str
    method: str
    route: str
    key: str | None = None
    client: str | None = None
    model: str | None = None
    status: int | None = None
    outcome: str
    phase: Phase
    error: str | None = None
    upstream_status: int | None = None
    streaming: bool = False
    queue_wait: float | None = None
    predicted: float | None = None
    time_to_first_token: float | None = None
    duration: float
    bytes_in: int = 0
    bytes_out: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_counted: bool | None = None
    prompt_truncated: bool | None = None
    retry: int | None = None
    heartbeats: int | None = None
    replayed: bool | None = None

    def present(self) -> dict[str, str | float | bool]:
        """The facts that are there, by name, in their order.

        Times are rounded to milliseconds. Absent ones are left out: a shorter line, and ``jq``
        and its like read null for them all the same.
        """
        found = {name: value for name, value in asdict(self).items() if value is not None}
        for name in _TIMES:
            if name in found:
                found[name] = round(found[name], 3)
        return found


_TIMES: Final = ("queue_wait", "predicted", "time_to_first_token", "duration")


@lru_cache(maxsize=512)
def _word(text: str) -> str:
    return harmless(text, MAX_WORD)


class RequestRecord(Struct, kw_only=True):
    """The collector of one request's facts; every attribute may be written until ``finish``.

    ``started``, ``arrived_at`` (the whole request was there) and ``first_byte_at`` are instants;
    ``queue_wait`` is a span (all waits of the request together). ``first_byte_at`` is when the
    first byte of the answer's body came from Ollama. ``status`` is the status that was sent.
    ``outcome`` is best left to ``fail``. ``predicted`` is how many seconds the queue thought it
    would take, when it came. ``prompt_truncated``: Ollama surely cut the prompt; ``judged``: that
    was looked at before the answer was sent. ``timings`` are for what learns from them, and no fact
    for the log; nor is ``place``, which tells where in the queue it is while it waits.
    ``heartbeats`` were sent while Ollama was silent; ``replayed``: it got the failure of an earlier
    attempt, and Ollama did nothing.
    """

    request_id: str
    method: str
    started: float
    route: str = UNKNOWN_ROUTE
    client: str | None = None
    key: str | None = None
    model: str | None = None
    status: int | None = None
    outcome: str | None = None
    phase: Phase = Phase.HEAD
    error: str | None = None
    upstream_status: int | None = None
    streaming: bool = False
    queue_wait: float | None = None
    predicted: float | None = None
    arrived_at: float | None = None
    first_byte_at: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_counted: bool | None = None
    prompt_truncated: bool | None = None
    judged: bool = False
    retry: int | None = None
    heartbeats: int | None = None
    replayed: bool | None = None
    timings: Timings | None = None
    place: Callable[[], Place | None] | None = None

    def fail(self, error: GatewayError) -> None:
        """Note why the request fails. The first failure is the cause; later ones follow from it.

        A status that was sent stays, but for a caller who is gone: that is logged as 499. Words of
        Ollama that stand in ``error`` already say more than ours and stay as well.
        """
        if self.outcome is not None:
            return
        self.outcome = error.code
        self.error = self.error or error.message
        if self.status is None or error.status == _CALLER_IS_GONE:
            self.status = error.status

    def finish(self, now: float) -> FinishedRequest:
        """The facts as they stand at the instant ``now``."""
        return FinishedRequest(
            request_id=harmless(self.request_id, MAX_WORD),
            method=_word(self.method),
            route=self.route,
            outcome=self._verdict(),
            phase=self.phase,
            duration=max(0.0, now - self.started),
            streaming=self.streaming,
            key=self.key,
            client=self.client and _word(self.client),
            model=self.model,
            status=self.status,
            error=harmless(self.error, MAX_ERROR) if self.error else None,
            upstream_status=self.upstream_status,
            queue_wait=self.queue_wait,
            predicted=self.predicted,
            time_to_first_token=self._time_to_first_token(),
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            tokens_counted=self.tokens_counted,
            prompt_truncated=self.prompt_truncated,
            retry=self.retry,
            heartbeats=self.heartbeats or None,
            replayed=self.replayed,
        )

    def _verdict(self) -> str:
        if self.outcome is not None:
            return self.outcome
        if self.phase is not Phase.DONE:
            # It neither failed nor was it answered: whoever lost it is at fault.
            return InternalError.code
        if self.upstream_status is None or self.upstream_status < 400:
            return OK
        return UPSTREAM_4XX if self.upstream_status < 500 else UPSTREAM_5XX

    def _time_to_first_token(self) -> float | None:
        if self.first_byte_at is None or not self.streaming:
            return None
        return max(0.0, self.first_byte_at - self.started)
