"""What was seen, as tables, and what was wanted of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.goodput.result import Refused, Result
from bench.goodput.world import Contender

_AFFINITY_DELAY = 30.0
"""``scheduler.max_affinity_delay`` at its default, in seconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One number that the gateway is to keep; ``least``: it is a lower bound."""

    words: str
    value: float
    limit: float
    least: bool = True
    unit: str = "%"

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        word = "met   " if self.met else "MISSED"
        sign = ">=" if self.least else "<="
        return (
            f"{word} {self.words}: {self._told(self.value)}, wanted {sign} {self._told(self.limit)}"
        )

    def _told(self, value: float) -> str:
        return f"{value:.1%}" if self.unit == "%" else f"{value:.2f} {self.unit}"


def of_load(results: Sequence[Result]) -> str:
    """One load: a row for each contender."""
    names = [one.name for one in results[0].models]
    head = [
        "", "useful", "loading", "wasted", "idle", "goodput",
        *(f"{name} answered" for name in names),
        "median", "worst", "failed", "open", "loads", "lost tokens", "requests", "rejected",
    ]  # fmt: skip
    return table(head, [_row(one) for one in results])


def _row(one: Result) -> list[str]:
    shares = (one.useful, one.loading, one.wasted, one.idle, one.goodput)
    return [
        one.spec.contender,
        *(f"{share:.1%}" for share in shares),
        *(f"{model.completed}/{model.calls} {model.rate:.0%}" for model in one.models),
        f"{one.median:.0f} s",
        f"{one.worst:.0f} s",
        str(one.failed),
        str(one.open),
        str(one.loads),
        str(one.wasted_tokens),
        str(one.requests),
        str(one.refused),
    ]


def of_refusals(results: Iterable[Result]) -> str:
    """What was refused, and how late."""
    rows = [
        [one.spec.contender, f"{one.spec.load:g}x", code, *_refused(refused)]
        for one in results
        for code, refused in one.refusals.items()
    ]
    if not rows:
        return "No request was rejected."
    return table(["", "load", "rejected with", "times", "late", "median", "latest"], rows)


def faults(results: Iterable[Result]) -> list[str]:
    """Where a contender itself was broken: its numbers mean nothing."""
    return [
        f"{one.spec.contender}, {one.spec.load:g}x: {refused.count} times {code}"
        for one in results
        for code, refused in one.refusals.items()
        if code in ("500", "internal_error")
    ]


def _refused(refused: Refused) -> list[str]:
    times = (refused.median, refused.worst)
    return [str(refused.count), str(refused.late), *(f"{time:.2f} s" for time in times)]


def of_closed(results: Sequence[Result]) -> str:
    rows = [
        [
            one.spec.contender,
            str(one.spec.max_loaded),
            f"{one.per_second:.3f}",
            f"{one.median:.0f} s",
            f"{one.worst:.0f} s",
            str(one.loads),
            f"{one.useful:.1%}",
        ]
        for one in results
    ]
    head = ["", "models fit", "answers/s", "median", "worst", "loads", "useful"]
    return table(head, rows)


def verdicts(opened: Sequence[Result], closed: Sequence[Result]) -> list[Verdict]:
    """What the gateway is to reach; nothing about what was not run."""
    found: list[Verdict] = []
    for one in opened:
        if one.spec.contender in (Contender.GATEWAY, Contender.RESPECT) and one.spec.load >= 1:
            found += _of_open(one)
    return found + _of_closed(closed)


def _of_open(one: Result) -> list[Verdict]:
    at = f"{one.spec.contender}, {one.spec.load:g}x"
    rates = [model.rate for model in one.models]
    unequal = min(rates) / max(rates) if max(rates) else 0.0
    verdicts = [
        Verdict(f"{at}: useful share of the GPU's time", one.useful, 0.85),
        Verdict(f"{at}: goodput", one.goodput, 0.97),
        Verdict(f"{at}: rate of the model answered less, by the other's", unequal, 0.5),
    ]
    if one.spec.load >= 2:
        late = f"{at}: late rejections, of all rejections"
        verdicts.append(Verdict(late, one.late, 0.05, least=False))
    return verdicts


def _of_closed(closed: Sequence[Result]) -> list[Verdict]:
    by = {(one.spec.contender, one.spec.max_loaded): one for one in closed}
    found: list[Verdict] = []
    gateway, fifo, direct = (
        by.get((kind, 1)) for kind in (Contender.GATEWAY, Contender.FIFO, Contender.DIRECT)
    )
    for other in (fifo, direct):
        if gateway and other:
            times = gateway.per_second / other.per_second
            what = f"closed loop: answers/s by those of {other.spec.contender}"
            found.append(Verdict(what, times, 2.5 if other is fifo else 2.0, unit="times"))
    if gateway and fifo:
        limit = fifo.worst + _AFFINITY_DELAY
        found.append(
            Verdict(
                "closed loop: worst time to an answer", gateway.worst, limit, least=False, unit="s"
            )
        )
    both, plain = by.get((Contender.GATEWAY, 2)), by.get((Contender.FIFO, 2))
    if both and plain:
        times = both.per_second / plain.per_second
        found.append(
            Verdict("both models fit: answers/s by those of FIFO", times, 0.95, unit="times")
        )
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be: text to the left, numbers to the right."""
    lines = [head, ["-" * len(word) for word in head], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
