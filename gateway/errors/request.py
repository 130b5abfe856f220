"""What: the request itself is at fault; nothing was done."""

from gateway.errors.failure import GatewayError


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
