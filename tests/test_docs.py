"""README and docs match the code: settings, error codes, commands, links."""

import re
import shlex
from pathlib import Path

import pytest

from gateway import errors
from gateway.cli import _parser
from gateway.settings import setting_names

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "bench" / "README.md",
    ROOT / "bench" / "goodput" / "README.md",
]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(page: str, name: str) -> str:
    """Return the part of a page between two markers."""
    found = re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", text(page), re.DOTALL)

    assert found is not None
    return found[1]


def error_codes() -> set[str]:
    """Return the code of every error class, and the two outcomes without a class."""
    classes = (value for value in vars(errors).values() if isinstance(value, type))
    own = {found.code for found in classes if issubclass(found, errors.GatewayError)}
    return own | {"upstream_4xx", "upstream_5xx"}


def anchors(page: Path) -> set[str]:
    """Return the anchors that a Markdown renderer gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_settings_page_lists_every_setting_and_no_other() -> None:
    listed = re.findall(r"^\| `([a-z_.]+)` \|", table("docs/settings.md", "settings"), re.MULTILINE)

    assert sorted(listed) == sorted(setting_names())


def test_errors_page_lists_every_code_and_no_other() -> None:
    first_column = re.findall(r"^\| (`.*?) \|", table("docs/errors.md", "errors"), re.MULTILINE)
    listed = re.findall(r"`([a-z0-9_]+)`", " ".join(first_column))

    assert sorted(listed) == sorted(error_codes())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        # Links into the repository's own web pages (../../security) are not files.
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_make_targets_call_existing_commands() -> None:
    made = re.findall(r"\$\(BIN\)/ollama-gateway (.+)", text("Makefile"))
    shown = re.findall(r'`make run ARGS="([^"]+)"`', text("README.md"))

    assert (made, len(shown)) == (["demo", "init --serve $(ARGS)"], 1)
    for line in made:
        arguments = _parser().parse_args(shlex.split(line.replace("$(ARGS)", shown[0])))
        assert callable(arguments.run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_contain_no_key(page: Path) -> None:
    assert re.search(r"ogw_[A-Za-z0-9_-]{8,}", page.read_text(encoding="utf-8")) is None
