"""The pages: what they tell people to type is accepted."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import COMMANDS, _parser
from gateway.settings import load, setting_names, variable_for
from tests.deploy.paths import DEPLOY, DOCS, PAGES, ROOT, blocks, text

TUNNELS = [page for page in PAGES if page.startswith("tunnel-")]
SETTINGS = [(page, block) for page in PAGES for block in blocks(DOCS / page, "toml")]
_CALL = re.compile(rf"(?:ollama-gateway|gateway|:local) ((?:{'|'.join(COMMANDS)})\b[^\n`|<>#;&]*)")


def _files() -> Iterator[Path]:
    yield ROOT / "Dockerfile"
    yield from (path for path in DEPLOY.rglob("*") if path.is_file())
    yield from DOCS.glob("*.md")


def _commands() -> Iterator[tuple[str, str]]:
    """Each command line of ours, by the page that has it."""
    for page in PAGES:
        complete = re.sub(r"\\\n\s*", "", text(DOCS / page))
        for found in _CALL.finditer(re.sub(r"<[^<>\n]*>", "placeholder", complete)):
            yield page, found[1].strip()


def test_every_variable_is_a_setting() -> None:
    """A misspelt one would stop the gateway of every user who copies it."""
    known = {variable_for(name) for name in setting_names()}
    used = {
        (path.name, variable)
        for path in _files()
        for variable in re.findall(r"GATEWAY_[A-Z]+__[A-Z_]+", text(path))
    }

    assert len(used) >= 6
    assert {(file, variable) for file, variable in used if variable not in known} == set()


@pytest.mark.parametrize(("page", "block"), SETTINGS)
def test_settings_on_a_page_are_accepted(page: str, block: str, tmp_path: Path) -> None:
    """Put into a file as they stand there."""
    config = tmp_path / "gateway.toml"
    config.write_text(block, encoding="utf-8")

    assert load(config, environ={}).config_file == config, page


@pytest.mark.parametrize(("page", "line"), sorted(set(_commands())))
def test_commands_on_a_page_are_accepted(page: str, line: str) -> None:
    """With all their options."""
    arguments = _parser().parse_args(shlex.split(line))

    assert callable(arguments.run), page


def test_commands_are_found() -> None:
    """The two tests above are worth as much as what they look at."""
    lines = {line for _, line in _commands()}

    assert {"init", "keys create prometheus --scope admin"} <= lines
    assert len(SETTINGS) >= 3


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_existing_files(page: str) -> None:
    """Also after a file was renamed."""
    links = re.findall(r"\]\(([^)#:]+)\)", text(DOCS / page))

    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.mark.parametrize("page", TUNNELS)
def test_tunnel_page_has_both_engramia_fields(page: str) -> None:
    """Both fields, ready to be filled in, and the two ports that no tunnel may lead to."""
    content = text(DOCS / page)

    assert re.search(r"\| Base URL \| `https://[^ `]+/k/<discovery key>/v1` \|", content)
    assert "| API key | `<inference key>` |" in content
    assert re.search(r"Never point the tunnel at port 11436.*11434", content, re.DOTALL)


@pytest.mark.parametrize("page", TUNNELS)
def test_tunnel_page_trusts_the_client_address_header(page: str, tmp_path: Path) -> None:
    """Its first settings say in which header that tunnel names the caller."""
    config = tmp_path / "gateway.toml"
    config.write_text(blocks(DOCS / page, "toml")[0], encoding="utf-8")
    (row,) = load(config, environ={}).settings.proxies.trusted

    expected = "CF-Connecting-IP" if "cloudflare" in page else "X-Forwarded-For"
    assert (str(row.address), row.header) == ("127.0.0.1/32", expected)
