"""The status page: ``/status.json`` for people.

One file that needs nothing else, no script either, and asks for itself again every few seconds.
Everything that is shown may have been written by strangers (names of models, Ollama's errors): it
passes ``tag``, which escapes it.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.admin import formatting as wording
from gateway.admin import tables as status_tables
from gateway.admin.html import Html, joined, tag
from gateway.admin.style import STYLE

EVERY: Final = 5
"""Seconds from one look to the next."""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Even if somebody's text became markup, it could load, run and send nothing."""

Status = Mapping[str, Any]


def render(status: Status) -> str:
    """The whole page as HTML; ``status`` is what ``status_of`` makes."""
    page = tag("html", _head(status), _body(status), lang="en")
    return f"<!doctype html>\n{page.markup}\n"


def _head(status: Status) -> Html:
    state = "ready" if status["ready"] else "not ready"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{state}: Ollama gateway"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="refresh", content=f"{EVERY}; url=/status"),
        # Or every browser asks for /favicon.ico.
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(STYLE)),
    )


def _body(status: Status) -> Html:
    return tag(
        "body",
        _header(status),
        *(_problem(problem) for problem in status["problems"]),
        _tiles(status),
        status_tables.models(status),
        status_tables.under_way(status),
        status_tables.lanes(status),
        status_tables.failures(status),
        status_tables.outcomes(status),
        status_tables.keys(status),
        _footer(status),
    )


def _header(status: Status) -> Html:
    # Why it is not ready, and what to do, is said right below: each reason is a problem.
    word, kind = ("ready", "good") if status["ready"] else ("not ready", "bad")
    about = f"version {status['version']}, up for {wording.span(status['uptime'])}"
    return tag(
        "header",
        tag("h1", "Ollama gateway"),
        tag("span", word, class_=f"state {kind}"),
        tag("span", about, class_="faint"),
    )


def _problem(problem: Status) -> Html:
    return tag(
        "div",
        tag("strong", problem["what"]),
        tag("p", *_with_code(problem["do"])),
        class_="problem" if problem["urgent"] else "problem warning",
        role="alert",
    )


def _with_code(text: str) -> list[Html | str]:
    """What stands between backticks as code."""
    return [tag("code", part) if n % 2 else part for n, part in enumerate(text.split("`"))]


def _tiles(status: Status) -> Html:
    return tag(
        "div",
        _ollama(status["ollama"]),
        _active(status["queue"]),
        _waiting(status["queue"]),
        _requests(status),
        class_="tiles",
    )


def _ollama(ollama: Status) -> Html:
    word, kind = ("answers", "good") if ollama["up"] else ("away", "bad")
    if ollama["list_age"] is None:
        listed = "no list of models yet"
    else:
        models = wording.count(ollama["models"], "model")
        listed = f"{models}, list {wording.span(ollama['list_age'])} old"
    figure = tag("div", word, class_=f"figure {kind}")
    return _tile("Ollama", figure, ollama["url"], listed, _loaded(ollama["loaded"]))


def _loaded(names: Sequence[str]) -> str:
    return f"in memory: {', '.join(names)}" if names else "no model in memory, as far as is known"


def _active(queue: Status) -> Html:
    number, most = queue["active"], queue["max_active"]
    meter = tag("meter", min="0", max=str(most), value=str(number))
    return _tile("At Ollama now", _figure(number, most, meter), tag("code", queue["text"]))


def _waiting(queue: Status) -> Html:
    number, most = queue["queued"], queue["max_queued"]
    # A meter with an optimum turns yellow and red by itself.
    steps = {"low": str(most * 0.5), "high": str(most * 0.8), "optimum": "0"}
    meter = tag("meter", min="0", max=str(max(most, 1)), value=str(number), **steps)
    longest = f"the first for {wording.span(queue['oldest_wait'])}"
    text = longest if number else "nobody waits"
    return _tile("Waiting", _figure(number, most, meter), text)


def _requests(status: Status) -> Html:
    total, well = status["requests"], status["outcomes"].get("ok", 0)
    figure = tag("div", f"{total:,}", class_="figure")
    text = f"{well:,} went well, {total - well:,} did not" if total else "none yet"
    return _tile("Requests since the start", figure, text)


def _figure(number: int, most: int, meter: Html) -> Html:
    return joined(tag("div", f"{number} of {most}", class_="figure"), meter)


def _tile(title: str, figure: Html, *lines: Html | str) -> Html:
    small = (tag("small", line) for line in lines)
    return tag("section", tag("h3", title), figure, *small, class_="tile")


def _footer(status: Status) -> Html:
    ask = tag("button", "Ask Ollama for its models now", type="submit")
    return tag(
        "footer",
        tag("form", ask, method="post", action="/refresh"),
        tag("span", f"As of {_second(status['now'])}; renews itself every {EVERY} seconds."),
        tag("a", "status.json", href="/status.json"),
        tag("a", "metrics", href="/metrics"),
    )


def _second(moment: str) -> str:
    return moment.replace("T", " ").replace("Z", " UTC")
