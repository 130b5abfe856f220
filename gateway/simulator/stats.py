"""Counters of a simulated Ollama."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Counters since the simulator was made; a restart does not reset them.

    A generation is *finished* when its response was complete, *abandoned* when its client
    disconnected before, *failed* when it broke (a killed runner, the repeat limit, a fault).
    Seconds are simulated seconds.
    """

    connections: int = 0
    """Connections accepted."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests received, by path as sent, without its query."""

    generations_started: int = 0
    generations_finished: int = 0
    generations_abandoned: int = 0
    generations_failed: int = 0
    tokens_generated: int = 0
    tokens_delivered: int = 0
    """Tokens of finished generations."""
    tokens_abandoned: int = 0
    """Tokens of abandoned generations."""

    loads: int = 0
    unloads: int = 0
    active: int = 0
    """Generations and embeddings that have a slot of a loaded model now."""
    peak_active: int = 0
    queued: int = 0
    """Requests that wait now for a model to load or for a slot."""
    blocked: int = 0
    """Responses that wait now because their client does not read."""
    refused: int = 0
    """Requests rejected with 503 because too many waited for models to load."""

    loading_seconds: float = 0.0
    generating_seconds: float = 0.0
    """Seconds during which slots were in use, including abandoned generations."""
    abandoned_seconds: float = 0.0
