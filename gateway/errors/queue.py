"""When: our capacity is 503, the caller's own limit is 429."""

from types import MappingProxyType

from gateway.errors.failure import GatewayError


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
