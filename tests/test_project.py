"""The project's metadata: CI, packaging and policies agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load(path: Path) -> dict[Any, Any]:
    """Return a YAML file as a dict; ``on`` is read as True by YAML 1.1."""
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_ci_tests_every_python_version_of_the_classifiers() -> None:
    prefix = "Programming Language :: Python :: 3."
    claimed = [
        classifier.removeprefix("Programming Language :: Python :: ")
        for classifier in PROJECT["classifiers"]
        if classifier.startswith(prefix)
    ]
    matrix = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]

    assert matrix["python"] == claimed
    assert PROJECT["requires-python"] == f">={claimed[0]}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_least_privilege_and_versioned_actions(path: Path) -> None:
    workflow = load(path)
    uses = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))

    assert workflow["permissions"] == {}
    assert all("permissions" in job for job in workflow["jobs"].values())
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", action) for action in uses)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_calls_only_existing_make_targets(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        *re.findall(r"^([a-z]+):", makefile, re.MULTILINE),
        *(
            ".venv" + target
            for target in re.findall(r"^\$\(VENV\)(/\.\w+):", makefile, re.MULTILINE)
        ),
    }
    called = [
        target
        for line in re.findall(r"run: make (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for target in line.split()
    ]

    assert [target for target in called if target not in targets] == []


def test_issue_templates_and_pre_commit_are_valid_yaml() -> None:
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]

    assert len(files) >= 7
    assert all(load(path) for path in files)


def test_version_has_a_section_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(
        rf"^## \[(Unreleased|{re.escape(PROJECT['version'])})\]", changelog, re.MULTILINE
    )
