"""`config/gateway.toml` and the code say the same."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from gateway.settings import ModelRule, Settings, default_config_text, setting_names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "config" / "gateway.toml").read_text(encoding="utf-8")


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Each setting by its dotted name, and the comment right above it."""
    table, comment = "", ""
    for line in text.splitlines():
        if line.startswith("#"):
            comment += line.removeprefix("#") + " "
            continue
        if header := re.fullmatch(r"\[+(\w+)\]+", line):
            table = header[1]
        elif setting := re.match(r"(\w+) = ", line):
            yield f"{table}.{setting[1]}", " ".join(comment.split())
        comment = ""


def _descriptions(table: type[BaseModel], name: str) -> Iterator[tuple[str, str]]:
    for field, info in table.model_fields.items():
        yield f"{name}.{field}", " ".join((info.description or "").split())


def _example() -> str:
    """The commented entry of [[models]], as it is once its lines are no longer comments."""
    block = TEXT[TEXT.index("# [[models]]") : TEXT.index("[catalog]")]
    return "\n".join(
        f"# {line[4:]}" if line.startswith("#   ") else line.removeprefix("# ")
        for line in block.splitlines()
        if re.match(r"# \[\[|# \w+ = |#   ", line)
    )


def test_the_file_holds_every_setting() -> None:
    """Nothing is missing, nothing is there that does not exist, and the order is the same."""
    tables = tomllib.loads(TEXT)

    names = [f"{table}.{name}" for table, settings in tables.items() for name in settings]
    assert names == [name for name in setting_names() if name != "models"]


def test_the_file_holds_the_defaults() -> None:
    """Using it as it is and using none is the same."""
    assert Settings(**tomllib.loads(TEXT)) == Settings()


def test_every_setting_has_its_description_as_comment() -> None:
    """Word for word, so that there is one text about each setting."""
    expected = {
        name: description
        for table, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
        for name, description in _descriptions(type(field.default), table)
    }

    assert all(expected.values())
    assert dict(_comments(TEXT)) == expected


def test_the_example_of_a_model_works_once_it_is_no_comment() -> None:
    """It has every setting that a model can have, each with its description."""
    [rule] = Settings(**tomllib.loads(_example())).models

    assert rule.model_fields_set == set(ModelRule.model_fields)
    assert dict(_comments(_example())) == dict(_descriptions(ModelRule, "models"))


def test_the_lines_fit_on_a_screen() -> None:
    """Nobody should have to scroll sideways to read a comment."""
    assert max(map(len, TEXT.splitlines())) <= 100


def test_a_checkout_uses_the_file_that_one_edits() -> None:
    """The default text is the file itself."""
    assert default_config_text() == TEXT


def test_a_checkout_does_not_use_a_copy_left_over_from_a_build(tmp_path: Path) -> None:
    """Even if there is one in the package."""
    package = _file(tmp_path / "gateway" / "gateway.toml", "old").parent
    _file(tmp_path / "config" / "gateway.toml", "new")
    _file(tmp_path / "pyproject.toml", "")

    assert default_config_text(package) == "new"


def test_an_installed_package_uses_its_own_copy(tmp_path: Path) -> None:
    """A folder `config` beside it belongs to somebody else."""
    package = _file(tmp_path / "gateway" / "gateway.toml", "ours").parent
    _file(tmp_path / "config" / "gateway.toml", "somebody else's")

    assert default_config_text(package) == "ours"


def test_the_wheel_carries_the_file() -> None:
    """In the place where an installed package looks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"config/gateway.toml": "gateway/gateway.toml"}


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
