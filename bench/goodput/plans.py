"""How long everything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.goodput.world import ALIKE, MIXED, Contender, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``open_seconds`` and ``closed_seconds`` are simulated, of which each takes ``scale``."""

    loads: tuple[float, ...]
    open_seconds: float
    closed_seconds: float
    scale: float

    def specs(self, loads: Sequence[float], contenders: Sequence[Contender]) -> list[Spec]:
        """All runs; those of one load beside each other, so that they meet the same noise."""
        opened = [
            Spec(
                contender=contender,
                models=MIXED,
                seconds=self.open_seconds,
                load=load,
                scale=self.scale,
            )
            for load in loads
            for contender in contenders
        ]
        closed = [
            Spec(
                contender=contender,
                models=ALIKE,
                seconds=self.closed_seconds,
                callers=10,
                max_loaded=fit,
                statistics=0,
                scale=self.scale,
            )
            for fit in (1, 2)
            for contender in contenders
            if contender not in (Contender.PROXY, Contender.RESPECT)
        ]
        return opened + closed


FULL: Final = Plan(
    loads=(0.5, 1.0, 2.0, 3.0), open_seconds=3600.0, closed_seconds=900.0, scale=0.05
)
QUICK: Final = Plan(loads=(1.0, 3.0), open_seconds=900.0, closed_seconds=300.0, scale=0.05)
