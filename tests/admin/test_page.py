"""The status page: its files, and what a real browser makes of them."""

import asyncio
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from gateway.app import Gateway
from gateway.auth.keys import Scope
from gateway.scheduler import QueueSnapshot, Snapshot
from gateway.simulator import SimulatedModel, Simulator
from tests.admin.fakes import failed_request, model_stats
from tests.harness import Running, running

STATIC = files("gateway.admin") / "static"
HTML = STATIC.joinpath("status.html").read_text()
SCRIPT = STATIC.joinpath("status.js").read_text()
STYLE = STATIC.joinpath("status.css").read_text()

HOSTILE = '<img src=x onerror="document.title=1">'

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


# The files.


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """Its files, its own pages, and an empty icon."""
    found = {
        value
        for _, attributes in Elements(HTML).elements
        for name, value in attributes.items()
        if name in {"src", "href", "action"}
    }

    assert found == {
        *("/static/status.css", "/static/status.js", "data:,"),
        *("/refresh", "/status.json", "/metrics"),
    }
    assert not re.findall(r"url\(|@import", STYLE)
    assert not re.findall(r"https?://|import\b", SCRIPT)


def test_the_page_has_no_inline_script_or_style() -> None:
    """The Content-Security-Policy would block it."""
    for tag, attributes in Elements(HTML).elements:
        assert tag != "style"
        assert tag != "script" or attributes["src"]
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_the_script_makes_no_markup_from_strings() -> None:
    """Names of models and errors may hold anything."""
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", SCRIPT)


def test_without_javascript_the_page_says_where_the_status_is() -> None:
    noscript = HTML[HTML.index("<noscript>") : HTML.index("</noscript>")]

    assert "/status.json" in noscript
    assert "ollama-gateway models" in noscript


def test_every_table_has_a_caption_with_a_heading() -> None:
    assert HTML.count("<table>") == len(re.findall(r"<caption><h2 id=", HTML)) == 6


# In a browser.


def make_busy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the gateway something for every section, with hostile names wherever there are names."""
    gateway.host.statistics.restore({"llama3.2:3b": model_stats()})
    gateway.recent.observe(failed_request(HOSTILE, model=HOSTILE, key=HOSTILE, heartbeats=2))
    gateway.recent.observe(failed_request(outcome="ok", model="llama3.2:3b", tokens_out=1234))
    gateway.recent.observe(
        failed_request(
            outcome="context_length_exceeded", model="llama3.2:3b", key="tester", status=400
        )
    )
    queues = (
        QueueSnapshot(HOSTILE, "llama3.2:3b", queued=17, oldest_wait=61.0, expected_wait=250.0),
        *(QueueSnapshot(f"key{n:02}", "qwen:7b", 1, float(n)) for n in range(32)),
    )
    snapshot = Snapshot(max_active=2, max_queued=64, active={HOSTILE: 1}, queues=queues)
    monkeypatch.setattr(gateway.host.scheduler, "snapshot", lambda: snapshot)


async def rendered(url: str, folder: Path) -> str:
    """The document as Chromium has it after the script has run."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", f"--user-data-dir={folder / 'profile'}"),
        *("--virtual-time-budget=1000", "--dump-dom", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    return out.decode()


@needs_chromium
async def test_the_page_shows_the_status(
    sim: Simulator, gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every section, with hostile names as text."""
    sim.pull(SimulatedModel("llama3.2:3b", "3.2B", 2_000_000_000))
    await gateway.gateway.host.catalog.get(max_age=0.0)
    make_busy(gateway.gateway, monkeypatch)
    page = Elements(await rendered(f"{gateway.admin_url}/status", tmp_path))
    text = " ".join(page.text.split())

    assert "ready: Ollama gateway" in text
    for part in (
        "version test, up for",
        "The context of llama3.2:3b is too small",
        "reachable",
        "1 of 2",
        "49 of 64",
        "the oldest for 1 minute",
        "1 succeeded, 2 failed",
        "2.0 GB",
        "loads in 8.0 s",
        "48 tokens/s",
        "6.0 s per response",
        "1,234",
        "1 prompt rejected",
        "not in Ollama's list",
        "in 4 minutes",
        "And 3 more.",
        "upstream_incomplete",
        "Ollama ended the response before it was complete.",
        "after 2 heartbeats, in phase relay",
        "33.3%",
        "discovery, inference",
        "never",
        "auto-refreshes every 5 s",
    ):
        assert part in text, part
    assert text.count(HOSTILE) == 5
    assert "img" not in {tag for tag, _ in page.elements}


@needs_chromium
async def test_the_page_says_why_it_has_no_status(
    gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the gateway's words; it keeps trying."""

    def broken() -> None:
        raise RuntimeError

    monkeypatch.setattr(gateway.gateway.host.scheduler, "snapshot", broken)
    page = Elements(await rendered(f"{gateway.admin_url}/status", tmp_path))

    assert "The status could not be read: The gateway could not make this page." in page.text


@needs_chromium
async def test_the_page_works_with_a_key(sim: Simulator, tmp_path: Path) -> None:
    """Off loopback, with the key in the URL, as a browser keeps it after its login dialog."""
    async with running(sim.url, tmp_path, listen={"admin": "0.0.0.0:0"}) as gateway:
        await gateway.gateway.host.catalog.get(max_age=0.0)
        key = gateway.new_key("owner", scopes=frozenset({Scope.ADMIN}))
        url = f"http://owner:{key}@127.0.0.1:{gateway.serving.admin.port}/status"
        page = Elements(await rendered(url, tmp_path))

    assert "ready: Ollama gateway" in page.text
