"""Ollama's failures. After the first byte the status is gone; the words stay."""

from dataclasses import dataclass

from gateway.errors.failure import GatewayError


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
        "The text so far is not the whole answer."
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
