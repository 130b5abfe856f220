"""What the status is made of: snapshots of the parts, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.access.keys import Key, State
from gateway.admission import Snapshot
from gateway.calls.pipeline import Terms
from gateway.catalog.contexts import Contexts
from gateway.catalog.learned import Figures
from gateway.catalog.lists import Served
from gateway.catalog.residents import ResidentsView


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Every key on record, and why the file that holds them cannot be read now, if so."""

    all: tuple[Key, ...]
    broken: str | None

    def active(self, now: datetime) -> list[Key]:
        """The keys that open something."""
        return [key for key in self.all if key.state(now) is State.ACTIVE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama:
    """``up``: it answered when it was last asked. ``served`` is the list that calls are decided by,
    None without one; then ``trouble`` says why.
    """

    url: str
    up: bool
    served: Served | None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A request that is being served: for ``duration`` seconds, and ``phase`` is what it is at."""

    request_id: str
    route: str
    key: str | None
    model: str | None
    phase: str
    duration: float
    heartbeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Everything that the status is made of, at the moment ``now`` (an aware datetime).

    ``queue_text`` is the queue's own short form; ``residents`` is what is believed of Ollama's
    memory, ``learned`` are the figures by model, ``contexts`` is what Ollama said of theirs;
    ``recent`` is ``Recent.snapshot()``.
    """

    now: datetime
    started_at: datetime
    version: str
    draining: bool
    ollama: Ollama
    queue: Snapshot
    queue_text: str
    keys: Keys
    terms: Terms
    residents: ResidentsView
    learned: Mapping[str, Figures]
    recent: Mapping[str, Any]
    contexts: Contexts = field(default_factory=Contexts)
    under_way: Sequence[UnderWay] = ()
