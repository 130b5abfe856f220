"""What lies around the program: where it is, and as what it reads."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
PAGES = (
    "tunnel-cloudflare.md",
    "tunnel-tailscale.md",
    "tunnel-ngrok.md",
    "docker.md",
    "systemd.md",
)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def from_yaml(path: Path) -> Any:
    return yaml.safe_load(text(path))


def from_json(path: Path) -> Any:
    return json.loads(text(path))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in this language, without their indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text(page), re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of the Dockerfile; ``stage`` counts from 0."""

    word: str
    rest: str
    stage: int


def dockerfile() -> list[Instruction]:
    return list(_instructions(text(ROOT / "Dockerfile")))


def _instructions(content: str) -> Iterator[Instruction]:
    lines = [line for line in content.splitlines() if not line.startswith("#")]
    stage = -1
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        yield Instruction(word, rest.strip(), stage)
