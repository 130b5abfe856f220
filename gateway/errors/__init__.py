"""One class per way to fail.

The word is the same everywhere: ``code`` in the body and ``outcome`` in log and metrics are the
class's own name. A message says what happened and what to do next, and holds nothing that a caller
sent but names. Which JSON the error becomes is the dialect's business (``gateway.dialects``).
"""

from gateway.errors.access import (
    CloudNotAllowed,
    InvalidApiKey,
    ModelNotAllowed,
    RateLimitExceeded,
    ScopeNotAllowed,
    TooManyFailures,
    TuningNotAllowed,
)
from gateway.errors.ending import (
    ClientDisconnected,
    ClientWriteTimeout,
    InternalError,
)
from gateway.errors.failure import MAX_RETRY_AFTER, GatewayError
from gateway.errors.queue import (
    DeadlineUnreachable,
    Draining,
    Overloaded,
    QueueFull,
    QueueTimeout,
    Shutdown,
)
from gateway.errors.request import (
    BadRequest,
    ContextLengthExceeded,
    InvalidRequestBody,
    MethodNotAllowed,
    ModelNotFound,
    NoModelsPulled,
    RequestBodyTimeout,
    RequestTooLarge,
    UnknownRoute,
    UnsupportedEncoding,
)
from gateway.errors.upstream import (
    AsSent,
    Upstream4xx,
    Upstream5xx,
    UpstreamFailed,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)

__all__ = [
    "MAX_RETRY_AFTER",
    "AsSent",
    "BadRequest",
    "ClientDisconnected",
    "ClientWriteTimeout",
    "CloudNotAllowed",
    "ContextLengthExceeded",
    "DeadlineUnreachable",
    "Draining",
    "GatewayError",
    "InternalError",
    "InvalidApiKey",
    "InvalidRequestBody",
    "MethodNotAllowed",
    "ModelNotAllowed",
    "ModelNotFound",
    "NoModelsPulled",
    "Overloaded",
    "QueueFull",
    "QueueTimeout",
    "RateLimitExceeded",
    "RequestBodyTimeout",
    "RequestTooLarge",
    "ScopeNotAllowed",
    "Shutdown",
    "TooManyFailures",
    "TuningNotAllowed",
    "UnknownRoute",
    "UnsupportedEncoding",
    "Upstream4xx",
    "Upstream5xx",
    "UpstreamFailed",
    "UpstreamFirstByteTimeout",
    "UpstreamIdleTimeout",
    "UpstreamIncomplete",
    "UpstreamProtocolError",
    "UpstreamTimeout",
    "UpstreamUnreachable",
]
