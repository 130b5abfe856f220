"""What was seen, as a table, and what was wanted of it."""

from collections.abc import Sequence

from bench.goodput.report import Verdict, table
from bench.tunnel.result import Result
from bench.tunnel.world import Way


def of_all(results: Sequence[Result]) -> str:
    head = [
        "", "behind the tunnel", "answered", "requests", "cut", "generations per call",
        "tokens lost", "GPU seconds lost", "until answer or giving up", "refused with",
    ]  # fmt: skip
    rows = [
        [
            str(one.spec.row),
            one.spec.way,
            f"{one.completed}/{one.calls} {one.rate:.0%}",
            str(one.requests),
            str(one.cut),
            f"{one.begun / one.calls:.1f}",
            str(one.wasted_tokens),
            f"{one.wasted_seconds:.0f}",
            f"{one.median:.0f} s",
            ", ".join(f"{count} x {code}" for code, count in one.statuses.items()) or "-",
        ]
        for one in results
    ]
    return table(head, rows)


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """What the gateway is to reach, over all of its rows."""
    seen = [one for one in results if one.spec.way is Way.GATEWAY]
    if not seen:
        return []
    calls = sum(one.calls for one in seen)
    begun = sum(one.begun for one in seen)
    lost = sum(one.wasted_tokens for one in seen)
    completed = sum(one.completed for one in seen)
    return [
        Verdict("calls answered", completed / calls, 1.0),
        Verdict("generations per call", begun / calls, 1.0, least=False, unit="of them"),
        Verdict("tokens lost", lost, 0.0, least=False, unit="tokens"),
    ]
