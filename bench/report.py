"""From the samples of all rounds to a table: pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.contenders import Kind
from bench.measure import Sample

Rounds = Mapping[Kind, Sequence[Sample]]
"""The samples of each contender, one for each round."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line: which number, in what words, with how many decimals."""

    name: str
    words: str
    decimals: int = 0


ROWS = (
    Row("requests_per_second", "requests per second, 32 at once"),
    Row("cpu_per_request_us", "CPU per request, µs"),
    Row("first_token_ms", "first token, 100 streams, median, ms", 2),
    Row("first_token_p99_ms", "first token, 100 streams, p99, ms", 2),
    Row("cpu_per_1000_chunks_ms", "CPU per 1,000 chunks, ms", 1),
    Row("memory_per_stream_kb", "memory per open stream, KB", 1),
    Row("large_up_ms", "20 MB request, ms"),
    Row("large_up_peak_mb", "20 MB request, memory at the peak, MB", 1),
    Row("large_down_ms", "20 MB answer, ms"),
    Row("large_down_peak_mb", "20 MB answer, memory at the peak, MB", 1),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, what was measured for it in the middle round, and the span of all rounds."""

    words: str
    unit: str
    limit: float
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        span = f"{min(self.values):.2f} to {max(self.values):.2f}"
        word = "met" if self.met else "MISSED"
        return (
            f"{self.words:<44}{self.value:>8.2f} {self.unit:<3} "
            f"(rounds: {span})   target <= {self.limit:g}   {word}"
        )


def verdicts(rounds: Rounds) -> list[Verdict]:
    """The gateway beside the minimal aiohttp proxy on uvloop, round by round."""
    return [
        Verdict("CPU per request, ratio", "x", 1.4, _ratios(rounds, "cpu_per_request_us")),
        Verdict("CPU per 1,000 chunks, ratio", "x", 1.1, _ratios(rounds, "cpu_per_1000_chunks_ms")),
        Verdict("first token later by, median", "ms", 1.5, _later(rounds, "first_token_ms")),
        Verdict("memory per open stream", "KB", 40.0, _own(rounds, "memory_per_stream_kb")),
    ]


def added_first_token(rounds: Rounds, kind: Kind, name: str) -> float:
    """Milliseconds beyond a direct connection, in the middle round."""
    pairs = zip(rounds[kind], rounds[Kind.DIRECT], strict=True)
    return statistics.median(one[name] - direct[name] for one, direct in pairs)


def middle(samples: Sequence[Sample], name: str) -> float | None:
    """The median over all rounds; None if it was not measured."""
    found = [sample[name] for sample in samples if name in sample]
    return statistics.median(found) if found else None


def table(rounds: Rounds) -> str:
    kinds = list(rounds)
    lines = [f"{'':<40}" + "".join(f"{kind:>20}" for kind in kinds)]
    for row in ROWS:
        cells = (_cell(middle(rounds[kind], row.name), row.decimals) for kind in kinds)
        lines.append(f"{row.words:<40}" + "".join(f"{cell:>20}" for cell in cells))
    for name, words in (("first_token_ms", "median"), ("first_token_p99_ms", "p99")):
        added = [
            None if kind is Kind.DIRECT else added_first_token(rounds, kind, name) for kind in kinds
        ]
        lines.append(
            f"{f'  added to direct, {words}, ms':<40}"
            + "".join(f"{_cell(value, 2):>20}" for value in added)
        )
    return "\n".join(lines)


def _cell(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def _pairs(rounds: Rounds, name: str) -> list[tuple[float, float]]:
    both = zip(rounds[Kind.GATEWAY], rounds[Kind.PROXY], strict=True)
    return [(ours[name], theirs[name]) for ours, theirs in both]


def _ratios(rounds: Rounds, name: str) -> tuple[float, ...]:
    return tuple(ours / theirs for ours, theirs in _pairs(rounds, name))


def _later(rounds: Rounds, name: str) -> tuple[float, ...]:
    return tuple(ours - theirs for ours, theirs in _pairs(rounds, name))


def _own(rounds: Rounds, name: str) -> tuple[float, ...]:
    return tuple(sample[name] for sample in rounds[Kind.GATEWAY])
