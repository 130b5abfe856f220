"""What the status is made of: snapshots of the parts, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.auth.keys import Key, State
from gateway.models.context_window import ContextWindows
from gateway.models.list_cache import CachedList
from gateway.models.residency import Residency
from gateway.models.statistics import ModelStats
from gateway.proxy.pipeline import RequestPolicy
from gateway.public.context import UnderWay
from gateway.scheduler import Snapshot


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
    served: CachedList | None
    trouble: str | None = None


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
    terms: RequestPolicy
    residency_tracker: Residency
    statistics: Mapping[str, ModelStats]
    recent: Mapping[str, Any]
    contexts: ContextWindows = field(default_factory=ContextWindows)
    under_way: Sequence[UnderWay] = ()
