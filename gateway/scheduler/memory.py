"""What the queue asks of whoever knows what Ollama has loaded."""

from typing import Protocol

from gateway.scheduler.residency import Residency


class Memory(Protocol):
    """What Ollama has loaded; told of every lease, for that is how it learns.

    ``began`` returns whether the model is proven to be loaded already.
    """

    def residency(self) -> Residency: ...
    def began(self, model: str, /) -> bool: ...
    def ended(self, model: str, /, *, answered: bool) -> None: ...


class NoMemory:
    """Where nothing is known of memory: every model counts as loaded, all fit together."""

    def residency(self) -> Residency:
        return Residency(max_loaded=1_000_000)

    def began(self, model: str, /) -> bool:
        del model
        return True

    def ended(self, model: str, /, *, answered: bool) -> None: ...
