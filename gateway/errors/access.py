"""Who may do this. RFC 9110, section 15.5.2 asks a 401 to carry a challenge."""

from types import MappingProxyType

from gateway.errors.failure import GatewayError


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
