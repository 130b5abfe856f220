"""`config/gateway.toml` and the code say the same."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.settings import (
    Loaded,
    ModelRule,
    Settings,
    SettingsError,
    default_config_text,
    load,
    setting_names,
)

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "config" / "gateway.toml").read_text(encoding="utf-8")
EXAMPLE = TEXT.index("#[[models]]")
NAMES = [name for name in setting_names() if name != "models"]

_OFF = re.compile(r"#(?=\w+ = |\[\[)")
"""What keeps a setting from being in force; words have a space behind it."""


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Each setting by its dotted name, and the comment right above it."""
    table, comment = "", ""
    for line in text.splitlines():
        if header := re.fullmatch(r"#?\[+(\w+)\]+", line):
            table = header[1]
        elif setting := re.match(r"#?(\w+) = ", line):
            yield f"{table}.{setting[1]}", " ".join(comment.split())
        elif line.startswith("#"):
            comment += line.removeprefix("#") + " "
            continue
        comment = ""


def _descriptions(table: type[BaseModel], name: str) -> Iterator[tuple[str, str]]:
    for field, info in table.model_fields.items():
        yield f"{name}.{field}", " ".join((info.description or "").split())


def _on(text: str) -> str:
    """With every setting in force that is a comment in it."""
    return re.sub(rf"(?m)^{_OFF.pattern}", "", text)


def _with_line(name: str) -> str:
    """The file with the line of one setting in force, of those that are no example."""
    table, _, field = name.partition(".")
    before, header, after = TEXT.partition(f"\n[{table}]\n")
    return before + header + re.sub(rf"(?m)^#(?={field} = )", "", after, count=1)


def _loaded(folder: Path, text: str) -> Loaded:
    file = folder / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ={})


def _set(loaded: Loaded) -> list[str]:
    """What the file decides."""
    return [name for name, source in loaded.sources.items() if source.startswith("file ")]


def test_the_file_decides_nothing(tmp_path: Path) -> None:
    """Whoever has it gets the better defaults of a later version."""
    loaded = _loaded(tmp_path, TEXT)

    assert (loaded.settings, _set(loaded)) == (Settings(), [])


def test_the_tables_are_there() -> None:
    """A setting that is taken out of its comment stands in the right one."""
    assert tomllib.loads(TEXT) == {name.partition(".")[0]: {} for name in NAMES}


def test_the_file_holds_every_setting() -> None:
    """Nothing is missing, nothing is there that does not exist, and the order is the same."""
    tables = tomllib.loads(_on(TEXT[:EXAMPLE]))

    assert [f"{table}.{name}" for table, inner in tables.items() for name in inner] == NAMES


def test_with_all_its_lines_in_force_it_holds_the_defaults(tmp_path: Path) -> None:
    """What a line says is what holds without it."""
    loaded = _loaded(tmp_path, _on(TEXT[:EXAMPLE]))

    assert (loaded.settings, _set(loaded)) == (Settings(), NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_line_can_be_put_in_force_alone(name: str, tmp_path: Path) -> None:
    """It needs no other, and decides that one setting."""
    loaded = _loaded(tmp_path, _with_line(name))

    assert (loaded.settings, _set(loaded)) == (Settings(), [name])


def test_nothing_but_settings_looks_like_one() -> None:
    """Taking the mark off a line that is in words would break the file."""
    off = [line for line in TEXT.splitlines() if _OFF.match(line)]

    assert len(off) == len(NAMES) + 1 + len(ModelRule.model_fields)


def test_every_setting_has_its_description_as_comment() -> None:
    """Word for word, so that there is one text about each setting."""
    expected = {
        name: description
        for table, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
        for name, description in _descriptions(type(field.default), table)
    }

    assert all(expected.values())
    assert dict(_comments(TEXT[:EXAMPLE])) == expected


def test_the_example_of_a_model_works_once_it_is_no_comment(tmp_path: Path) -> None:
    """It has every setting that a model can have, each with its description."""
    loaded = _loaded(tmp_path, _on(TEXT))
    [rule] = loaded.settings.models

    assert rule.model_fields_set == set(ModelRule.model_fields)
    assert loaded.settings.model_copy(update={"models": ()}) == Settings()
    assert dict(_comments(TEXT[EXAMPLE:])) == dict(_descriptions(ModelRule, "models"))


@pytest.mark.parametrize("field", [name for name in ModelRule.model_fields if name != "match"])
def test_an_example_of_few_lines_works_too(field: str, tmp_path: Path) -> None:
    """Its head, the models' name, and what is wanted."""
    needed = rf"(?m)^#(?=\[\[|match = |{field} = )"
    loaded = _loaded(tmp_path, TEXT[:EXAMPLE] + re.sub(needed, "", TEXT[EXAMPLE:]))

    assert loaded.settings.models[0].model_fields_set == {"match", field}


@pytest.mark.parametrize("field", ModelRule.model_fields)
def test_a_line_of_the_example_without_its_head_is_refused(field: str, tmp_path: Path) -> None:
    """It would stand in the table above, and must not mean anything there: clocks have some of
    these names.
    """
    alone = re.sub(rf"(?m)^#(?={field} = )", "", TEXT[EXAMPLE:])
    with pytest.raises(SettingsError, match="is not a setting; did you mean "):
        _loaded(tmp_path, TEXT[:EXAMPLE] + alone)


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
