"""When Ollama has taken too long, decided from facts alone."""

from dataclasses import dataclass

from gateway.errors import (
    GatewayError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamTimeout,
)

_LONGER = "The owner can allow this model longer with `{}` under [[models]] in gateway.toml."


@dataclass(slots=True, kw_only=True)
class Deadlines:
    """The three clocks of one reply; all times are seconds on one monotonic clock.

    ``held`` stops the idle clock while we ourselves read nothing, because the caller is slow:
    what Ollama cannot send is not its fault. The total clock runs on.
    """

    sent_at: float
    first_byte_timeout: float
    idle_timeout: float
    total_timeout: float
    last_byte_at: float | None = None
    held: bool = False

    def next(self) -> float:
        """The earliest moment at which ``overdue`` can have something to say."""
        total = self.sent_at + self.total_timeout
        if self.last_byte_at is None:
            return min(total, self.sent_at + self.first_byte_timeout)
        if self.held:
            return total
        return min(total, self.last_byte_at + self.idle_timeout)

    def overdue(self, now: float) -> GatewayError | None:
        """The clock that has run out at ``now``, as the error it is; None while all run."""
        if now >= self.sent_at + self.total_timeout:
            return UpstreamTimeout(
                f"Ollama did not finish the answer within {self.total_timeout:g} s. "
                + _LONGER.format("total_timeout")
            )
        if self.last_byte_at is None:
            if now < self.sent_at + self.first_byte_timeout:
                return None
            return UpstreamFirstByteTimeout(
                f"Ollama sent nothing within {self.first_byte_timeout:g} s: "
                "the model is still loading, the prompt is long, or its runner hangs. "
                + _LONGER.format("first_byte_timeout")
            )
        if self.held or now < self.last_byte_at + self.idle_timeout:
            return None
        return UpstreamIdleTimeout(
            f"Ollama stopped in the middle of the answer and sent nothing for "
            f"{self.idle_timeout:g} s. The owner can allow longer silences with "
            "`timeouts.idle_timeout`."
        )
