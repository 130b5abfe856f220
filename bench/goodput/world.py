"""What is simulated: the models and the arrivals of requests. All seconds are simulated.

**Capacity** is the answers per second of a GPU that never loads: one over the mean length of an
answer. No policy can reach it, because the models must be swapped; a better policy only comes
closer. At 1x, therefore, not every request can be answered.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TOKENS: Final = 60
"""Every response is as long, so that every lost token weighs the same."""

KEYS: Final = 4
"""Clients have one of so many keys: by default a gateway queues a quarter as many requests of
one key as of all together."""


class Contender(StrEnum):
    DIRECT = "direct"
    PROXY = "plain proxy"
    FIFO = "gateway, FIFO"
    RESPECT = "gateway, respect"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """``client_timeout`` is the read timeout of its clients, in seconds."""

    name: str
    parameter_size: str
    answer_seconds: float
    client_timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One run. ``load`` is in parts of capacity; 0 stands for ``callers`` in a closed loop.

    ``scale`` is how many real seconds pass for a simulated one.
    """

    contender: Contender
    models: tuple[Model, ...]
    seconds: float
    load: float = 0.0
    callers: int = 0
    load_seconds: float = 8.0
    max_loaded: int = 1
    scale: float = 0.05
    seed: int = 1
    statistics: int = 5
    """Calls of each model that are answered before anything is counted."""


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    model: Model
    client: int


MIXED: Final = (
    Model(name="writer:70b", parameter_size="70B", answer_seconds=12.0, client_timeout=600.0),
    Model(name="judge:1.5b", parameter_size="1.5B", answer_seconds=6.0, client_timeout=60.0),
)
"""An answer and the verdict on it, with the timeouts that Engramia gives models of these sizes."""

ALIKE: Final = (
    Model(name="one:8b", parameter_size="8.0B", answer_seconds=2.0, client_timeout=300.0),
    Model(name="other:8b", parameter_size="8.2B", answer_seconds=2.0, client_timeout=300.0),
)


def capacity(models: tuple[Model, ...]) -> float:
    """Answers per second at best, with as many calls for each model; see the module."""
    return len(models) / sum(model.answer_seconds for model in models)


def arrivals(spec: Spec) -> list[Arrival]:
    """Return when each request arrives: a Poisson process, the same for all contenders.

    Of each model there are as many calls, in random order.
    """
    rng = random.Random(f"{spec.seed} {spec.load}")
    moments = list(_moments(spec.load * capacity(spec.models), spec.seconds, rng))
    models = [spec.models[index % len(spec.models)] for index in range(len(moments))]
    rng.shuffle(models)
    return [
        Arrival(at, model, index % KEYS)
        for index, (at, model) in enumerate(zip(moments, models, strict=True))
    ]


def _moments(rate: float, until: float, rng: random.Random) -> Iterator[float]:
    at = rng.expovariate(rate)
    while at < until:
        yield at
        at += rng.expovariate(rate)
