"""What is run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.tunnel.world import Row, Spec, Way

_LENGTHS: Final = (30.0, 90.0, 130.0, 310.0)


@dataclass(frozen=True, slots=True)
class Plan:
    rows: tuple[Row, ...]
    scale: float

    def specs(self, ways: Sequence[Way]) -> list[Spec]:
        """The longest first: they decide when all is done."""
        specs = [Spec(row=row, way=way, scale=self.scale) for row in self.rows for way in ways]
        return sorted(specs, key=lambda spec: -spec.row.seconds)


FULL: Final = Plan(
    rows=(
        *(Row(seconds=seconds) for seconds in _LENGTHS),
        *(Row(seconds=seconds, streaming=True) for seconds in _LENGTHS),
        Row(seconds=40.0, callers=4, calls=1),
    ),
    scale=0.05,
)
QUICK: Final = Plan(rows=tuple(replace(row, calls=1) for row in FULL.rows), scale=0.02)
UNSCALED: Final = Plan(rows=(Row(seconds=130.0, calls=1), Row(seconds=310.0, calls=1)), scale=1.0)
