"""What is simulated: answers of some length, and what stands between Ollama and the tunnel.

All seconds are simulated ones. An answer takes 40 % of its time for reading the prompt, in which
nothing can be sent, and then makes its tokens evenly. A whole answer sends nothing before its end.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bench.goodput.world import TOKENS, Model
from gateway.simulator import SimulatedModel

PATIENCE: Final = 300.0
"""What Engramia waits for most models, ``8.0B`` among them: its table knows only ``8B``."""

_READING: Final = 0.4
_PROMPT_TOKENS: Final = 11 - (-len("user Call 0000 ") // 4)


class Way(StrEnum):
    """What is behind the tunnel."""

    DIRECT = "Ollama itself"
    PROXY = "plain proxy"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Callers who ask at once, each ``calls`` times one after the other, for such answers."""

    seconds: float
    streaming: bool = False
    callers: int = 1
    calls: int = 3

    def __str__(self) -> str:
        kind = "stream" if self.streaming else "whole"
        crowd = f", {self.callers} at once" if self.callers > 1 else ""
        return f"{self.seconds:g} s, {kind}{crowd}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One run. ``scale`` is how many real seconds pass for a simulated one."""

    row: Row
    way: Way
    scale: float

    @property
    def model(self) -> Model:
        return Model(
            name="writer:8b",
            parameter_size="8.0B",
            answer_seconds=self.row.seconds,
            client_timeout=PATIENCE,
        )

    @property
    def simulated(self) -> SimulatedModel:
        reading = self.row.seconds * _READING
        return SimulatedModel(
            name=self.model.name,
            parameter_size=self.model.parameter_size,
            size=4_900_000_000,
            prompt_tokens_per_second=_PROMPT_TOKENS / reading,
            tokens_per_second=TOKENS / (self.row.seconds - reading),
        )


def prompt(number: int) -> str:
    """As long for every call."""
    return f"Call {number:04}"
