"""One class for each way in which a request can fail.

The name of the class is the word for the failure everywhere: ``code`` in the response, ``outcome``
in log and metrics. A message says what happened, then what to do, and contains nothing that the
client sent except names. The JSON of an error depends on the dialect: see ``gateway.dialects``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

MAX_RETRY_AFTER = 60.0
"""Seconds. The OpenAI SDKs do not retry at all above 60 (older ones) or 120 seconds."""


class GatewayError(Exception):
    """A request that failed. The class attributes are defaults that an instance can override.

    Args:
        message: What happened, then what to do.
        param: The field of the request that is wrong, for dialects that have a place for it.
        retry_after: Seconds; sent as ``Retry-After``, between 1 and ``MAX_RETRY_AFTER``.
        headers: Further headers of the response.
        should_retry: Sent as ``x-should-retry``, which overrides every other rule of the OpenAI
            SDKs; None leaves the decision to the client.
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
        self._should_retry = self.should_retry if should_retry is None else should_retry
        self._headers = self.default_headers if headers is None else headers
        super().__init__(self.message)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response, besides those of its body."""
        headers = dict(self._headers)
        if self.retry_after is not None:
            seconds = min(max(self.retry_after, 1.0), MAX_RETRY_AFTER)
            headers["Retry-After"] = str(int(-(-seconds // 1)))
        if self._should_retry is not None:
            headers["x-should-retry"] = "true" if self._should_retry else "false"
        return headers


# Authentication and permissions


class InvalidApiKey(GatewayError):
    """No valid key was sent; ``reason`` is a label of a metric.

    It is missing, malformed, placeholder, unknown, expired, rotated, revoked or path.
    """

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"
    # RFC 9110, section 15.5.2: a 401 carries a challenge.
    default_headers = MappingProxyType({"WWW-Authenticate": 'Bearer realm="ollama-gateway"'})
    default_message = (
        "The request has no API key. Send `Authorization: Bearer <key>`. On the gateway's machine, "
        "`ollama-gateway keys create NAME` creates a key and "
        "`ollama-gateway keys rotate NAME` replaces a lost one."
    )

    def __init__(self, message: str = "", *, reason: str = "missing") -> None:
        super().__init__(message)
        self.reason = reason


class TooManyFailures(GatewayError):
    status = 429
    code = "too_many_failures"
    type = "rate_limit_error"
    default_message = (
        "Too many requests without a valid key came from this address. Correct the key, then retry "
        "after the seconds in `Retry-After`."
    )


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


# Invalid requests; nothing was sent to Ollama


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
        "Compressed request bodies are not accepted. Send the JSON uncompressed, "
        "without a Content-Encoding header."
    )


class InvalidRequestBody(GatewayError):
    status = 400
    code = "invalid_request_body"
    type = "invalid_request_error"


class ContextLengthExceeded(GatewayError):
    """A prompt that Ollama would silently truncate."""

    status = 400
    code = "context_length_exceeded"
    type = "invalid_request_error"
    should_retry = False


class BadRequest(GatewayError):
    """A request that is not valid HTTP. The message is constant and so repeats none of it."""

    status = 400
    code = "bad_request"
    type = "invalid_request_error"
    default_message = (
        "The request is not valid HTTP/1.1. Check the client or the proxy in front of the gateway."
    )


class UnknownRoute(GatewayError):
    status = 404
    code = "unknown_route"
    type = "not_found_error"
    default_message = (
        "This gateway serves no such route. It serves /v1/chat/completions, /v1/completions, "
        "/v1/embeddings, /v1/responses, /v1/messages and /v1/models, and of Ollama's API "
        "chat, generate, embed, embeddings, tags, show, ps and version below /api."
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
    default_message = (
        "Ollama has no models yet. Pull one on its machine: `ollama pull llama3.2:1b`."
    )


# Overload: 503, because the gateway's capacity is used up. A client's own limit is 429.


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
    default_message = "The gateway is shutting down. Retry in a few seconds."
    default_retry_after = 5.0
    default_headers = MappingProxyType({"Connection": "close"})


class Shutdown(GatewayError):
    """The drain timeout ended before the response did."""

    status = 503
    code = "shutdown"
    type = "overloaded_error"
    default_message = "The gateway shut down before the response was complete. Retry."


# Failures of Ollama. After the first byte of a response only the message can still be sent.


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
        "Ollama ended the response before it was complete: its model runner crashed, "
        "or the model repeated itself until Ollama aborted it. "
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
class UpstreamReply:
    """A response exactly as Ollama sent it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class UpstreamFailed(GatewayError):
    """A 4xx or 5xx of Ollama that arrived after the status of our response had been sent.

    ``reply`` is Ollama's response. See ``Upstream4xx`` and ``Upstream5xx``.
    """

    def __init__(self, reply: UpstreamReply, message: str = "") -> None:
        super().__init__(message or f"Ollama responded with status {reply.status}.")
        self.reply = reply

    @staticmethod
    def from_reply(reply: UpstreamReply, message: str = "") -> GatewayError:
        """Return the error for the status of the reply.

        Ollama sends no status below 400 other than 200. Another one must not be replayed: clients
        expect no body after a 204, for example.
        """
        if reply.status < 400:
            return UpstreamProtocolError(
                f"The server at `ollama.url` responded with status {reply.status}, which Ollama "
                "never does. The owner should check `ollama.url`."
            )
        return (Upstream4xx if reply.status < 500 else Upstream5xx)(reply, message)


class Upstream4xx(UpstreamFailed):
    code = "upstream_4xx"
    type = "invalid_request_error"


class Upstream5xx(UpstreamFailed):
    code = "upstream_5xx"


# Failures of the client or the gateway. No client reads these messages; they are for the log.


class ClientWriteTimeout(GatewayError):
    status = 499
    code = "client_write_timeout"
    default_message = "The client accepted no data within `timeouts.write_timeout`."


class ClientDisconnected(GatewayError):
    status = 499
    code = "client_disconnected"
    default_message = "The client closed the connection."


class InternalError(GatewayError):
    """A bug of the gateway. The traceback is in the log and nowhere else."""

    default_message = "The gateway failed. Its log has the reason under the id of this request."
