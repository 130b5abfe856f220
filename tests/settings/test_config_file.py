"""`config/gateway.toml` agrees with the schema."""

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
EXAMPLE = TEXT.index("# Settings for one model")
NAMES = [name for name in setting_names() if name != "models"]

_OFF = re.compile(r"#(?=\w+ = |\[\[)")
"""The # of a commented setting; the # of a comment has a space behind it."""


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Yield each section and setting by dotted name, with the comment above it."""
    table, comment = "", ""
    for line in text.splitlines():
        if header := re.fullmatch(r"#?\[+(\w+)\]+", line):
            table = header[1]
            yield table, " ".join(comment.split())
        elif setting := re.match(r"#?(\w+) = ", line):
            yield f"{table}.{setting[1]}", " ".join(comment.split())
        elif line.startswith("#"):
            comment += line.removeprefix("#") + " "
            continue
        comment = ""


def _descriptions(table: type[BaseModel], name: str) -> Iterator[tuple[str, str]]:
    yield name, " ".join((table.__doc__ or "").split())
    for field, info in table.model_fields.items():
        yield f"{name}.{field}", " ".join((info.description or "").split())


def _on(text: str) -> str:
    """Return the text with every setting uncommented."""
    return re.sub(rf"(?m)^{_OFF.pattern}", "", text)


def _with_line(name: str) -> str:
    """Return the file with one setting uncommented; not one of the example."""
    table, _, field = name.partition(".")
    before, header, after = TEXT.partition(f"\n[{table}]\n")
    return before + header + re.sub(rf"(?m)^#(?={field} = )", "", after, count=1)


def _loaded(folder: Path, text: str) -> Loaded:
    file = folder / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ={})


def _set(loaded: Loaded) -> list[str]:
    """Return the settings that the file sets."""
    return [name for name, source in loaded.sources.items() if source.startswith("file ")]


def test_the_file_sets_nothing(tmp_path: Path) -> None:
    """Its users get the defaults of later versions."""
    loaded = _loaded(tmp_path, TEXT)

    assert (loaded.settings, _set(loaded)) == (Settings(), [])


def test_the_file_has_every_section() -> None:
    """An uncommented setting is in the right one."""
    assert tomllib.loads(TEXT) == {name.partition(".")[0]: {} for name in NAMES}


def test_the_file_has_every_setting_in_order() -> None:
    tables = tomllib.loads(_on(TEXT[:EXAMPLE]))

    assert [f"{table}.{name}" for table, inner in tables.items() for name in inner] == NAMES


def test_the_commented_values_are_the_defaults(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, _on(TEXT[:EXAMPLE]))

    assert (loaded.settings, _set(loaded)) == (Settings(), NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_can_be_uncommented_alone(name: str, tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, _with_line(name))

    assert (loaded.settings, _set(loaded)) == (Settings(), [name])


def test_no_prose_looks_like_a_setting() -> None:
    """Uncommenting such a line would break the file."""
    off = [line for line in TEXT.splitlines() if _OFF.match(line)]

    assert len(off) == len(NAMES) + 1 + len(ModelRule.model_fields)


def test_the_comment_of_a_setting_is_its_docstring() -> None:
    expected = {
        name: description
        for table, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
        for name, description in _descriptions(type(field.default), table)
    }

    assert all(expected.values())
    assert dict(_comments(TEXT[:EXAMPLE])) == expected


def test_the_example_of_a_model_works(tmp_path: Path) -> None:
    """It has every setting of [[models]], with its docstring."""
    loaded = _loaded(tmp_path, _on(TEXT))
    [rule] = loaded.settings.models

    assert rule.model_fields_set == set(ModelRule.model_fields)
    assert loaded.settings.model_copy(update={"models": ()}) == Settings()
    assert dict(_comments(TEXT[EXAMPLE:])) == dict(_descriptions(ModelRule, "models"))


@pytest.mark.parametrize("field", [name for name in ModelRule.model_fields if name != "match"])
def test_a_part_of_the_example_works(field: str, tmp_path: Path) -> None:
    needed = rf"(?m)^#(?=\[\[|match = |{field} = )"
    loaded = _loaded(tmp_path, TEXT[:EXAMPLE] + re.sub(needed, "", TEXT[EXAMPLE:]))

    assert loaded.settings.models[0].model_fields_set == {"match", field}


@pytest.mark.parametrize("field", ModelRule.model_fields)
def test_a_line_of_the_example_without_its_header_is_refused(field: str, tmp_path: Path) -> None:
    """It would be in the section above; [timeouts] has some of these names."""
    alone = re.sub(rf"(?m)^#(?={field} = )", "", TEXT[EXAMPLE:])
    with pytest.raises(SettingsError, match="is not a setting; did you mean "):
        _loaded(tmp_path, TEXT[:EXAMPLE] + alone)


def test_lines_have_at_most_100_characters() -> None:
    assert max(map(len, TEXT.splitlines())) <= 100


def test_a_checkout_uses_its_config_folder() -> None:
    assert default_config_text() == TEXT


def test_a_checkout_ignores_a_copy_from_a_build(tmp_path: Path) -> None:
    package = _file(tmp_path / "gateway" / "gateway.toml", "old").parent
    _file(tmp_path / "config" / "gateway.toml", "new")
    _file(tmp_path / "pyproject.toml", "")

    assert default_config_text(package) == "new"


def test_an_installed_package_uses_its_own_copy(tmp_path: Path) -> None:
    """A folder named config beside it belongs to another package."""
    package = _file(tmp_path / "gateway" / "gateway.toml", "ours").parent
    _file(tmp_path / "config" / "gateway.toml", "foreign")

    assert default_config_text(package) == "ours"


def test_the_wheel_contains_the_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"config/gateway.toml": "gateway/gateway.toml"}


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
