"""One class per way to fail.

The word is the same everywhere: ``code`` in the body and ``outcome`` in log and metrics are the
class's own name. A message says what happened and what to do next, and holds nothing that a caller
sent but names. Which JSON the error becomes is the dialect's business (``gateway.dialects``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

# A way to fail: what all of them have in common.

MAX_RETRY_AFTER = 60.0
"""Seconds. The OpenAI SDKs do not retry at all above 60 (older ones) or 120 seconds."""


class GatewayError(Exception):
    """A call that failed, in our words.

    ``retry_after`` is in seconds and becomes a ``Retry-After`` of at least 1 and at most
    ``MAX_RETRY_AFTER``; ``should_retry`` becomes ``x-should-retry``, which the OpenAI SDKs obey
    above everything else; None leaves the decision to the caller.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "api_error"
    should_retry: ClassVar[bool | None] = None
    default_message: ClassVar[str] = ""
    default_retry_after: ClassVar[float | None] = None
    default_headers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        should_retry: bool | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.param = param
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.advice = self.should_retry if should_retry is None else should_retry
        self._headers = self.default_headers if headers is None else headers
        super().__init__(self.message)

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head carries besides its body's type and length."""
        headers = dict(self._headers)
        if self.retry_after is not None:
            seconds = min(max(self.retry_after, 1.0), MAX_RETRY_AFTER)
            headers["Retry-After"] = str(int(-(-seconds // 1)))
        if self.advice is not None:
            headers["x-should-retry"] = "true" if self.advice else "false"
        return headers


# Who may do this. RFC 9110, section 15.5.2 asks a 401 to carry a challenge.


class InvalidApiKey(GatewayError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"
    default_headers = MappingProxyType({"WWW-Authenticate": 'Bearer realm="ollama-gateway"'})
    default_message = (
        "No valid API key. Send `Authorization: Bearer <key>`. "
        "A key is made with `ollama-gateway keys create NAME`; "
        "a lost one is replaced with `ollama-gateway keys rotate NAME`."
    )

    def __init__(self, message: str = "", *, reason: str = "missing") -> None:
        """``reason`` is for metrics: missing, malformed, unknown, expired, revoked, path."""
        super().__init__(message)
        self.reason = reason


class TooManyFailures(GatewayError):
    status = 429
    code = "too_many_failures"
    type = "rate_limit_error"
    default_message = "Too many requests with a bad key from this address. Correct it, then wait."


class ScopeNotAllowed(GatewayError):
    status = 403
    code = "scope_not_allowed"
    type = "permission_error"


class ModelNotAllowed(GatewayError):
    status = 403
    code = "model_not_allowed"
    type = "permission_error"


class CloudNotAllowed(GatewayError):
    status = 403
    code = "cloud_not_allowed"
    type = "permission_error"


class TuningNotAllowed(GatewayError):
    status = 403
    code = "tuning_not_allowed"
    type = "permission_error"


class RateLimitExceeded(GatewayError):
    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


# What: the request itself is at fault; nothing was done.


class RequestBodyTimeout(GatewayError):
    status = 408
    code = "request_body_timeout"
    type = "invalid_request_error"
    should_retry = False


class RequestTooLarge(GatewayError):
    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class UnsupportedEncoding(GatewayError):
    status = 415
    code = "unsupported_encoding"
    type = "invalid_request_error"
    default_message = (
        "Compressed request bodies are not accepted. Send the JSON as it is, "
        "without a Content-Encoding header."
    )


class InvalidRequestBody(GatewayError):
    status = 400
    code = "invalid_request_body"
    type = "invalid_request_error"


class ContextLengthExceeded(GatewayError):
    """Of what Ollama itself would have cut short without a word."""

    status = 400
    code = "context_length_exceeded"
    type = "invalid_request_error"
    should_retry = False


class BadRequest(GatewayError):
    """What could not even be read as HTTP; its text is constant, for it must echo nothing."""

    status = 400
    code = "bad_request"
    type = "invalid_request_error"
    default_message = "The request is not valid HTTP/1.1. Check the client or the proxy before us."


class UnknownRoute(GatewayError):
    status = 404
    code = "unknown_route"
    type = "not_found_error"
    default_message = (
        "This gateway serves no such route. It serves /v1/chat/completions, /v1/completions, "
        "/v1/embeddings, /v1/responses, /v1/messages, /v1/models, and of Ollama's own API "
        "chat, generate, embed, embeddings, tags, show, ps and version under /api."
    )


class MethodNotAllowed(GatewayError):
    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"


class ModelNotFound(GatewayError):
    status = 404
    code = "model_not_found"
    type = "not_found_error"
    should_retry = False


class NoModelsPulled(GatewayError):
    status = 404
    code = "no_models_pulled"
    type = "not_found_error"
    should_retry = False
    default_message = "Ollama has no models yet. On its machine: `ollama pull llama3.2:1b`."


# When: our capacity is 503, the caller's own limit is 429.


class QueueFull(GatewayError):
    status = 503
    code = "queue_full"
    type = "overloaded_error"


class QueueTimeout(GatewayError):
    status = 503
    code = "queue_timeout"
    type = "overloaded_error"


class DeadlineUnreachable(GatewayError):
    status = 503
    code = "deadline_unreachable"
    type = "overloaded_error"


class Overloaded(GatewayError):
    status = 503
    code = "overloaded"
    type = "overloaded_error"


class Draining(GatewayError):
    status = 503
    code = "draining"
    type = "overloaded_error"
    default_message = "The gateway is shutting down. Try again in a few seconds."
    default_retry_after = 5.0
    default_headers = MappingProxyType({"Connection": "close"})


class Shutdown(GatewayError):
    """The drain's clock ended before the answer did."""

    status = 503
    code = "shutdown"
    type = "overloaded_error"
    default_message = "The gateway shut down before the answer was complete. Try again."


# Ollama's failures. After the first byte the status is gone; the words stay.


class UpstreamUnreachable(GatewayError):
    status = 502
    code = "upstream_unreachable"
    default_retry_after = 2.0


class UpstreamProtocolError(GatewayError):
    status = 502
    code = "upstream_protocol_error"
    default_retry_after = 2.0


class UpstreamIncomplete(GatewayError):
    status = 502
    code = "upstream_incomplete"
    default_message = (
        "Ollama ended the answer before it was complete: its model runner died, "
        "or the model repeated itself until Ollama gave up. "
        "The text so far is not complete."
    )


class UpstreamFirstByteTimeout(GatewayError):
    status = 504
    code = "upstream_first_byte_timeout"
    type = "timeout_error"
    should_retry = False


class UpstreamIdleTimeout(GatewayError):
    status = 504
    code = "upstream_idle_timeout"
    type = "timeout_error"
    should_retry = False


class UpstreamTimeout(GatewayError):
    status = 504
    code = "upstream_timeout"
    type = "timeout_error"
    should_retry = False


@dataclass(frozen=True, slots=True)
class AsSent:
    """An answer as Ollama gave it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class UpstreamFailed(GatewayError):
    """Ollama's own 4xx or 5xx, when its status can no longer be sent; ``reply`` has it as it was.

    See ``Upstream4xx`` and ``Upstream5xx``.
    """

    def __init__(self, reply: AsSent, words: str = "") -> None:
        super().__init__(words or f"Ollama answered with status {reply.status}.")
        self.reply = reply

    @staticmethod
    def of(reply: AsSent, words: str = "") -> GatewayError:
        """Its class says which kind it is.

        A status that is neither is none of Ollama's, and must not be told again: behind a 204 no
        client expects a body.
        """
        if reply.status < 400:
            return UpstreamProtocolError(
                f"What answers at `ollama.url` said {reply.status}, which Ollama never does. "
                "The owner should check it."
            )
        return (Upstream4xx if reply.status < 500 else Upstream5xx)(reply, words)


class Upstream4xx(UpstreamFailed):
    code = "upstream_4xx"
    type = "invalid_request_error"


class Upstream5xx(UpstreamFailed):
    code = "upstream_5xx"


# The caller's side and our own: nobody reads these but the log.


class ClientWriteTimeout(GatewayError):
    status = 499
    code = "client_write_timeout"
    default_message = "The caller took no byte for too long."


class ClientDisconnected(GatewayError):
    status = 499
    code = "client_disconnected"
    default_message = "The caller closed the connection."


class InternalError(GatewayError):
    """A bug of ours; the traceback stands in the log and nowhere else."""

    default_message = "The gateway failed. Its log holds the reason under this request's id."
