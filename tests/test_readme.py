"""What the README says is so."""

import re
import shlex
from pathlib import Path

import pytest

from gateway import errors
from gateway.cli import _parser
from gateway.settings import setting_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table(name: str) -> str:
    """The part of the README between two markers."""
    found = re.search(rf"<!-- {name} -->(.*?)<!-- /{name} -->", README, re.DOTALL)

    assert found is not None
    return found[1]


def test_every_setting_stands_in_the_table_and_nothing_else() -> None:
    """Somebody who reads the table knows all there is to set."""
    listed = re.findall(r"^\| `([a-z_.]+)` \|", table("settings"), re.MULTILINE)

    assert sorted(listed) == sorted(setting_names())


def codes() -> set[str]:
    """Every word that a failure can have."""
    classes = (value for value in vars(errors).values() if isinstance(value, type))
    ours = {found.code for found in classes if issubclass(found, errors.GatewayError)}
    return ours | {"upstream_4xx", "upstream_5xx"}


def test_every_failure_stands_in_the_table_and_nothing_else() -> None:
    """A code in a log can be looked up."""
    first_column = re.findall(r"^\| (`.*?) \|", table("errors"), re.MULTILINE)
    listed = re.findall(r"`([a-z0-9_]+)`", " ".join(first_column))

    assert sorted(listed) == sorted(codes())


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_link_leads_somewhere(link: str) -> None:
    """A page that the README points to is there."""
    assert (ROOT / link).exists()


def test_what_make_runs_is_accepted() -> None:
    """Also with the arguments that are shown here."""
    made = re.findall(r"\$\(BIN\)/ollama-gateway (.+)", (ROOT / "Makefile").read_text())
    shown = re.findall(r'`make run ARGS="([^"]+)"`', README)

    assert (made, len(shown)) == (["demo", "init --serve $(ARGS)"], 1)
    for line in made:
        arguments = _parser().parse_args(shlex.split(line.replace("$(ARGS)", shown[0])))
        assert callable(arguments.run)


def test_no_secret_and_no_host_of_ours_is_in_it() -> None:
    """Examples hold no key."""
    assert re.search(r"ogw_[A-Za-z0-9_-]{8,}", README) is None
