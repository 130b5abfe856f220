"""The tables of the status page. On a phone each row becomes a card, by ``data-label``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from gateway.admin import formatting as wording
from gateway.admin.html import Html, joined, tag

SHOWN_FAILURES: Final = 15
SHOWN_LANES: Final = 30

_AT: Final = MappingProxyType(
    {"queue": "waiting for its turn", "first_byte": "loading or working", "relay": "answering"}
)

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """``kind`` is the class of its cells."""

    title: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Zero:
    """A number that says nothing where there is little room."""


Content = Html | str | Zero


def models(status: Status) -> Html:
    """What there is, how fast it is, how long it may take, how much of it is asked for."""
    columns = (
        Column("Model", "name"),
        Column("Size", "short"),
        Column("Context", "short"),
        Column("In memory", "short"),
        Column("Speed", "short"),
        Column("Time for an answer"),
        Column("Active", "number"),
        Column("Waiting", "number"),
        Column("Requests", "number"),
        Column("Tokens out", "number"),
    )
    rows = [_model(model, status["now"]) for model in status["models"]]
    return _section("Models", columns, rows, "Ollama has none, or was not asked yet.")


def _model(model: Status, now: str) -> list[Content]:
    counts = [
        _busy(model["active"]),
        _busy(model["queued"]),
        _with_failed(model),
        _number(model["tokens_out"]),
    ]
    if not model["listed"]:
        gone = "no longer in Ollama's list"
        return [model["name"], gone, _context(model), _memory(model), "-", "-", *counts]
    where = "runs on ollama.com" if model["cloud"] else wording.size(model["size_bytes"])
    kind = " ".join(filter(None, (model["parameters"], model["quantization"])))
    changed = model["modified_at"]
    return [
        _lines(model["name"], "" if changed is None else f"changed {wording.since(changed, now)}"),
        _lines(kind or where, where if kind else ""),
        "-" if model["cloud"] else _context(model),
        "-" if model["cloud"] else _memory(model),
        _speed(model),
        _lines(wording.limit(model["total_timeout"]), model["why"]["total_timeout"], _first(model)),
        *counts,
    ]


def _context(model: Status) -> Html:
    """In tokens; what to do about prompts that were longer is told above, as a problem."""
    tokens, cut, refused = model.get("context"), model["prompts_cut"], model["prompts_refused"]
    return _lines(
        "-" if tokens is None else f"{tokens:,}",
        tag("span", f"{wording.count(cut, 'prompt')} cut", class_="failed") if cut else "",
        tag("span", f"{wording.count(refused, 'prompt')} refused") if refused else "",
    )


def _memory(model: Status) -> Html:
    if model["loaded_for_sure"]:
        word = tag("strong", "loaded")
    else:
        word = joined("loading" if model["resident"] else "no")
    load = _learned(model, "load")
    return _lines(word, "" if load is None else f"loads in {wording.took(load)}")


def _speed(model: Status) -> Html:
    """As it was learned, however many calls taught it."""
    rate, answer = _learned(model, "generation_rate"), _learned(model, "service")
    return _lines(
        "-" if rate is None else f"{wording.rate(rate)} tokens/s",
        "" if answer is None else f"{wording.took(answer)} an answer",
    )


def _learned(model: Status, name: str) -> float | None:
    """The mean, None where nothing is known."""
    estimate = (model.get("statistics") or {}).get(name)
    return None if estimate is None else float(estimate["mean"])


def _first(model: Status) -> str:
    """What holds for the first byte of a stream, if that is something else."""
    seconds, why = model["first_byte_timeout"], model["why"]["first_byte_timeout"]
    if (seconds, why) == (model["total_timeout"], model["why"]["total_timeout"]):
        return ""
    return f"first byte of a stream: {wording.limit(seconds)}, {why}"


def lanes(status: Status) -> Html:
    """Who waits for what, the longest first; nothing where nobody waits."""
    waiting = status["queue"]["lanes"]
    if not waiting:
        return joined()
    columns = (
        Column("Key", "name"),
        Column("Waits for", "name"),
        Column("Calls", "number"),
        Column("The first for", "short"),
        Column("The last starts in about", "short"),
    )
    rows = [_lane(lane) for lane in waiting[:SHOWN_LANES]]
    table = _section("Waiting, by key and model", columns, rows, "")
    more = len(waiting) - SHOWN_LANES
    return joined(table, tag("p", f"And {more:,} more.", class_="faint")) if more > 0 else table


def _lane(lane: Status) -> list[Content]:
    first, expected = wording.span(lane["oldest_wait"]), lane["expected_wait"]
    last = "-" if expected is None else wording.span(expected)
    return [lane["key"], lane["model"], _busy(lane["waiting"]), first, last]


def under_way(status: Status) -> Html:
    """Calls that are being served, the longest first; nothing where there are none."""
    calls = status["under_way"]
    if not calls:
        return joined()
    columns = (
        Column("Key", "name"),
        Column("Model", "name"),
        Column("For", "short"),
        Column("At", "short"),
        Column("Heartbeats", "number"),
        Column("Request", "short"),
    )
    rows: list[list[Content]] = [
        [
            call["key"] or "-",
            call["model"] or "-",
            wording.span(call["duration"]),
            _AT.get(call["phase"], call["phase"]),
            _number(call["heartbeats"]),
            _lines(call["route"], tag("code", call["request_id"])),
        ]
        for call in calls[:SHOWN_LANES]
    ]
    return _section("Under way", columns, rows, "")


def failures(status: Status) -> Html:
    """The newest first."""
    columns = (
        Column("When", "short"),
        Column("What", "short"),
        Column("Why", "words"),
        Column("Who and what"),
        Column("Request", "short"),
    )
    rows = [_failure(facts, status["now"]) for facts in status["failures"][:SHOWN_FAILURES]]
    return _section("Last failures", columns, rows, "No request has failed since the start.")


def _failure(facts: Status, now: str) -> list[Content]:
    key, model = facts.get("key", "no valid key"), facts.get("model")
    return [
        _lines(wording.since(facts["ended_at"], now), f"after {wording.took(facts['duration'])}"),
        _lines(tag("strong", facts["outcome"], class_="failed"), _progress(facts)),
        facts.get("error", "-"),
        _lines(key, model or ""),
        _lines(f"{facts['method']} {facts['route']}", tag("code", facts["request_id"])),
    ]


def _progress(facts: Status) -> str:
    """The status that was sent, and how far the request got."""
    status, beats = facts.get("status"), facts.get("heartbeats")
    if facts.get("replayed"):
        return f"{status}, told to the retry of one that failed after heartbeats"
    said = [f"{status}"] if status is not None else []
    said += [f"after {beats} heartbeats" if beats > 1 else "after a heartbeat"] if beats else []
    return ", ".join([*said, f"in phase {facts['phase']}"])


def outcomes(status: Status) -> Html:
    """How many requests ended in which way."""
    rows: list[list[Content]] = [
        [outcome, f"{number:,}", f"{number / status['requests']:.1%}"]
        for outcome, number in status["outcomes"].items()
    ]
    columns = (Column("Outcome", "name"), Column("Requests", "number"), Column("Share", "number"))
    return _section("All requests by outcome", columns, rows, "There was no request yet.")


def keys(status: Status) -> Html:
    """Names and what they open, nothing that is secret."""
    columns = (
        Column("Key", "name"),
        Column("Scopes"),
        Column("Valid", "short"),
        Column("Requests", "number"),
        Column("Tokens in", "number"),
        Column("Tokens out", "number"),
    )
    rows = [_key(key, status["now"]) for key in status["keys"]]
    return _section("Keys", columns, rows, "There is none.")


def _key(key: Status, now: str) -> list[Content]:
    return [
        key["name"],
        ", ".join(key["scopes"]),
        _validity(key, now),
        _with_failed(key),
        _number(key["tokens_in"]),
        _number(key["tokens_out"]),
    ]


def _validity(key: Status, now: str) -> Html | str:
    if key["state"] != "active":
        return tag("span", key["state"], class_="failed")
    if key["expires"] is None:
        return "without end"
    return _lines(f"ends {wording.until(key['expires'], now)}", wording.minute(key["expires"]))


def _with_failed(totals: Status) -> Content:
    failed = totals["failed"]
    if not failed:
        return _number(totals["requests"])
    return _lines(f"{totals['requests']:,}", tag("span", f"{failed:,} failed", class_="failed"))


def _busy(number: int) -> Content:
    return tag("span", str(number), class_="busy") if number else Zero()


def _number(number: int) -> Content:
    return f"{number:,}" if number else Zero()


def _lines(first: Html | str, *others: str | Html) -> Html:
    """One line, and smaller ones below it; as one element, for a card's row has two columns."""
    return tag("span", first, *(tag("small", line) for line in others if line))


def _section(
    title: str, columns: Sequence[Column], rows: Iterable[Sequence[Content]], nothing: str
) -> Html:
    body = [_row(columns, row) for row in rows]
    if not body:
        return joined(tag("h2", title), tag("p", nothing, class_="faint"))
    head = tag("tr", *(tag("th", column.title, class_=column.kind) for column in columns))
    table = tag("table", tag("thead", head), tag("tbody", *body))
    return joined(tag("h2", title), tag("div", table, class_="table"))


def _row(columns: Sequence[Column], cells: Sequence[Content]) -> Html:
    first, *others = zip(columns, cells, strict=True)
    labelled = (_cell(column, cell, data_label=column.title) for column, cell in others)
    return tag("tr", _cell(*first), *labelled)


def _cell(column: Column, content: Content, **attributes: str) -> Html:
    if isinstance(content, Zero):
        return tag("td", "0", class_=f"{column.kind} zero", **attributes)
    return tag("td", content, class_=column.kind, **attributes)
