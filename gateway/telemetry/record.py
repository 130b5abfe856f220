"""All facts about one request: collected while it is served, frozen once when it has ended.

The request handler makes one ``RequestRecord`` per request; whatever part of the gateway learns a
fact writes it there; ``finish`` freezes it into a ``FinishedRequest``, which the sinks read.
Nothing here reads a clock: instants are seconds of one monotonic clock (the event loop's) and are
passed in.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct

from gateway.dialects import Timings
from gateway.errors import GatewayError, InternalError
from gateway.telemetry.redaction import sanitize

OK: Final = "ok"
UPSTREAM_4XX: Final = "upstream_4xx"
UPSTREAM_5XX: Final = "upstream_5xx"

UNKNOWN_ROUTE: Final = "unknown"
"""The route of a request that matches no row of the route table: never its path."""

MAX_ERROR: Final = 300
"""Characters of an error message that are kept."""

MAX_WORD: Final = 200
"""Characters that are kept of any other text. Ollama's own model names are shorter."""

_CLIENT_GONE: Final = 499


class QueuePosition(Protocol):
    """Where a request is in the queue: ``position`` 1 is next; ``wait`` is expected, in seconds.

    A Protocol because the scheduler, which makes the value, is beside this folder.
    """

    @property
    def position(self) -> int: ...
    @property
    def wait(self) -> float: ...


class Phase(StrEnum):
    """How far a request got. The phase in which it ends tells what it was waiting for."""

    HEAD = "head"
    """Its head was read; nothing was decided."""
    AUTHENTICATE = "authenticate"
    """Its key, its scope and its rate limit are checked."""
    BODY = "body"
    """Its body is being read."""
    PARSE = "parse"
    """Its body is being parsed."""
    RESOLVE = "resolve"
    """Its model is looked up. Discovery requests are answered in this phase."""
    QUEUE = "queue"
    """It waits for a slot."""
    CONNECT = "connect"
    """A connection to Ollama is made and the request sent."""
    FIRST_BYTE = "first_byte"
    """Ollama has the request; no byte of the response's body has come yet."""
    RELAY = "relay"
    """The response is being relayed."""
    DONE = "done"
    """The complete response was handed to the client's connection."""


class FinishedRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one request.

    ``key`` and ``model`` are our own names for them: of the key in the key file, of the model in
    the catalogue. ``error`` is Ollama's own words or our message. Times are in seconds, rounded to
    0.1 ms. Every text is sanitized (``RequestRecord.finish`` does it): sinks write it as it is.

    The log line is one encoding of this value, in this order. An absent fact is None and left out;
    fields without a default are in every line.
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
    streaming: bool
    queue_wait: float | None = None
    predicted: float | None = None
    time_to_first_token: float | None = None
    duration: float
    bytes_in: int
    bytes_out: int
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_counted: bool | None = None
    prompt_truncated: bool | None = None
    retry: int | None = None
    heartbeats: int | None = None
    replayed: bool | None = None

    def present(self) -> dict[str, str | float | bool]:
        """Return the facts that are there, by name, in their order."""
        pairs = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in pairs if value is not None}


@lru_cache(maxsize=1024)
def _word(text: str) -> str:
    """Sanitize a text that is the same in request after request."""
    return sanitize(text, MAX_WORD)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


class RequestRecord(Struct, kw_only=True):
    """The facts about one request so far. Every attribute may be written until ``finish``.

    Attributes:
        started, arrived_at, first_byte_at: instants: the head was read, the complete request was
            there, the first byte of the response's body came from Ollama.
        queue_wait: seconds, all waits of the request together.
        predicted: seconds that the queue, on arrival, expected the request to take in all.
        status: the status that was sent.
        outcome: best left to ``fail``.
        prompt_truncated: Ollama certainly truncated the prompt; ``checked``: that was looked at
            before the response was sent.
        timings, queue_position: for other parts of the gateway, not for the log.
            ``queue_position()`` is None unless the request is queued.
        heartbeats: sent while Ollama was silent.
        replayed: the request got the failure of an earlier attempt, and Ollama did nothing.
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
    checked: bool = False
    retry: int | None = None
    heartbeats: int | None = None
    replayed: bool | None = None
    timings: Timings | None = None
    queue_position: Callable[[], QueuePosition | None] | None = None

    def fail(self, error: GatewayError) -> None:
        """Note why the request fails. The first failure is the cause; later ones follow from it.

        A status that was sent stays, except when the client has gone: that is logged as 499. Words
        of Ollama that are already in ``error`` say more than ours and stay as well.
        """
        if self.outcome is not None:
            return
        self.outcome = error.code
        self.error = self.error or error.message
        if self.status is None or error.status == _CLIENT_GONE:
            self.status = error.status

    def finish(self, now: float) -> FinishedRequest:
        """Freeze the facts as they are at the instant ``now``."""
        outcome = self.outcome
        if outcome is None:
            if self.phase is not Phase.DONE:
                # It neither failed nor was it answered: a bug lost it.
                outcome = InternalError.code
            elif self.upstream_status is None or self.upstream_status < 400:
                outcome = OK
            else:
                outcome = UPSTREAM_4XX if self.upstream_status < 500 else UPSTREAM_5XX
        # The first byte of a non-streaming response says nothing: it comes with the last.
        first_token = None
        if self.first_byte_at is not None and self.streaming:
            first_token = max(0.0, round(self.first_byte_at - self.started, 4))
        return FinishedRequest(
            # Made by the gateway and new each time: nothing to sanitize.
            request_id=self.request_id,
            method=_word(self.method),
            route=_word(self.route),
            key=self.key and _word(self.key),
            client=self.client and _word(self.client),
            model=self.model and _word(self.model),
            status=self.status,
            outcome=_word(outcome),
            phase=self.phase,
            error=sanitize(self.error, MAX_ERROR) if self.error else None,
            upstream_status=self.upstream_status,
            streaming=self.streaming,
            queue_wait=_rounded(self.queue_wait),
            predicted=_rounded(self.predicted),
            time_to_first_token=first_token,
            # Two readings of a clock may be the wrong way round by a rounding error.
            duration=max(0.0, round(now - self.started, 4)),
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
