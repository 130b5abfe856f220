import base64
import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest

from gateway.admin.page import CONTENT_SECURITY_POLICY, render
from gateway.admin.snapshot import Ollama
from gateway.admin.status import status_of
from gateway.public.context import UnderWay
from gateway.scheduler.snapshot import LaneState
from tests.admin.snapshots import (
    URL,
    a_standing,
    failed,
    figures,
    memory,
    queue,
    recent,
    served,
    the_keys,
)
from tests.admin.test_html import Reader
from tests.auth.fakes import DAY, NOW, a_key

HOSTILE = '</td></table><script>alert(1)</script><img src=x onerror="alert(1)">'


def page(**changes: Any) -> str:
    return render(status_of(a_standing(**changes)))


def busy() -> str:
    return page(
        ollama=Ollama(url=URL, up=True, served=served("llama3.1:8b", "idle:latest")),
        queue=queue(active={"llama3.1:8b": 1}, queued={"llama3.1:8b": 4, "gone:latest": 1}),
        recent=recent(failed("The runner died."), failed("", outcome="ok")),
        keys=the_keys(a_key("laptop"), a_key("old", revoked=NOW - DAY)),
    )


def test_the_page_says_how_things_stand() -> None:
    """State, models, failures with their reason and id, keys."""
    text = Reader(busy()).text

    assert "ready" in text
    assert "version 1.2.3, up for 2 hours" in text
    assert "idle:latest" in text
    assert "5 of 64" in text
    assert "The runner died." in text
    assert "req_1" in text
    assert "upstream_incomplete" in text
    assert "revoked" in text


def test_what_is_under_way_is_told_call_by_call() -> None:
    """Whose it is, how long it lasts, what it is at; nothing of it where nothing is."""
    call = UnderWay(
        request_id="req_9",
        route="/v1/chat/completions",
        key="agent",
        model="qwen:7b",
        phase="first_byte",
        duration=1500.04,
        heartbeats=99,
    )
    cells = Reader(page(under_way=[call])).text

    assert all(said in cells for said in ("Under way", "agent", "qwen:7b", "25 minutes", "99"))
    assert all(said in cells for said in ("loading or working", "req_9"))
    assert status_of(a_standing(under_way=[call]))["under_way"][0]["duration"] == 1500.0
    assert "Under way" not in Reader(page()).text


def test_who_waits_is_told_by_key_and_model() -> None:
    """And for how long the first has, and the last will; nothing of it where nobody waits."""
    lanes = (LaneState("agent", "qwen:7b", waiting=17, oldest_wait=61.0, expected_wait=250.0),)
    cells = Reader(page(queue=replace(queue(), lanes=lanes))).text

    assert "Waiting, by key and model" in cells
    assert all(said in cells for said in ("agent", "qwen:7b", "17", "1 minute", "4 minutes"))
    assert "Waiting, by key and model" not in Reader(page()).text


def test_a_wait_of_which_nothing_is_known_is_a_dash() -> None:
    """No number is better than a wrong one: until an answer was seen, all would be zero."""
    unknown = LaneState("agent", "qwen:7b", waiting=1, oldest_wait=61.0)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page(queue=replace(queue(), lanes=(unknown,))))

    assert cells[cells.index("1 minute") + 1] == "-"


def test_a_long_queue_does_not_make_a_long_page() -> None:
    """The lanes that have waited longest are shown, the others counted."""
    lanes = tuple(LaneState(f"key{n}", "qwen:7b", 1, float(n)) for n in range(32))
    text = Reader(page(queue=replace(queue(), lanes=lanes))).text

    assert "key31" in text
    assert "key0" not in text
    assert "And 2 more." in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "no model in memory, as far as is known"),
        ({"residency_tracker": memory("llama3.1:8b", loading=["b"])}, "in memory: b, llama3.1:8b"),
        ({"residency_tracker": memory("llama3.1:8b")}, "loaded"),
        ({"residency_tracker": memory(loading=["llama3.1:8b"])}, "loading"),
        ({"statistics": {"llama3.1:8b": figures()}}, "loads in 8.0 s"),
        ({"statistics": {"llama3.1:8b": figures()}}, "48 tokens/s"),
        ({"statistics": {"llama3.1:8b": figures()}}, "6.0 s an answer"),
        ({}, "8B parameters"),
        (
            {"residency_tracker": memory("llama3.1:8b"), "statistics": {"llama3.1:8b": figures()}},
            "first byte of a stream: 60 s, loaded: half of 120 s for 8B parameters",
        ),
    ],
)
def test_a_model_is_shown_with_what_is_known_of_it(changes: dict[str, Any], said: str) -> None:
    """Where it is, how fast it is, how long it may take and why."""
    assert said in Reader(page(**changes)).text


def test_a_reason_that_holds_for_every_clock_is_said_once() -> None:
    """There is little room."""
    assert "first byte of a stream" not in Reader(page()).text


def test_what_is_wrong_stands_before_everything_else() -> None:
    """With what to do about it, in the words of a command where there is one."""
    made = page(keys=the_keys())
    text = Reader(made).text

    assert text.index("No key is valid") < text.index("Models")
    assert "<code>ollama-gateway keys create NAME</code>" in made
    assert text.index("not ready") < text.index("No key is valid")


def test_the_page_is_whole_before_anything_is_known() -> None:
    """No list, no model, no key, no request."""
    nothing = Ollama(url=URL, up=False, served=None, trouble="Connection refused.")
    text = Reader(page(ollama=nothing, keys=the_keys())).text

    assert "no list of models yet" in text
    assert "Connection refused." in text
    assert "No request has failed since the start." in text


def test_texts_of_strangers_stay_text() -> None:
    """A model's name and Ollama's words make no element, whatever they hold."""
    hostile = page(
        ollama=Ollama(url=HOSTILE, up=False, served=served(HOSTILE), trouble=HOSTILE),
        recent=recent(failed(HOSTILE, model=HOSTILE, key=HOSTILE)),
        queue=queue(active={HOSTILE + "2": 1}, queued={HOSTILE + "3": 1}),
        residency_tracker=memory(HOSTILE + "4"),
        keys=the_keys(a_key("laptop"), broken=HOSTILE),
    )
    read = Reader(hostile)

    assert read.text.count(HOSTILE) >= 5
    assert {name for name, _ in read.elements}.isdisjoint({"script", "img"})
    assert not any(key.startswith("on") for _, pairs in read.elements for key, _ in pairs)


def test_the_page_needs_nothing_else() -> None:
    """No script, no file of its own or of others; links lead to our own pages."""
    read = Reader(busy())
    places = {
        value or ""
        for name, pairs in read.elements
        for key, value in pairs
        if key in {"src", "href", "action"}
    }

    assert places == {"/refresh", "/status.json", "/metrics", "data:,"}
    assert "url(" not in busy()


def test_the_page_renews_itself() -> None:
    """Without a script, and always as /status."""
    pairs = [dict(pairs) for name, pairs in Reader(page()).elements if name == "meta"]

    assert {"http-equiv": "refresh", "content": "5; url=/status"} in pairs


def test_the_policy_allows_the_pages_own_style_and_nothing_more() -> None:
    """By its hash, so no style of anybody else counts."""
    (style,) = re.findall("<style>(.*?)</style>", page(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "script-src" not in CONTENT_SECURITY_POLICY
    assert not any(key == "style" for _, pairs in Reader(busy()).elements for key, _ in pairs)


@pytest.mark.parametrize(("draining", "title"), [(False, "ready"), (True, "not ready")])
def test_the_title_says_the_state(draining: bool, title: str) -> None:
    """A tab tells it without being looked at."""
    assert f"<title>{title}: Ollama gateway</title>" in page(draining=draining)
