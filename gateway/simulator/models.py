"""The models of a simulated Ollama, and how it reads their names."""

import hashlib
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

_PREFIXES = ("registry.ollama.ai/library/", "library/")
_NAME = re.compile(r"(?:[\w.-]+(?::\d+)?/)?(?:[\w-]+/)?[\w.-]+(?::[\w.-]+)?", re.ASCII)
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_CHAT_TEMPLATE = (
    "{{ if .System }}system {{ .System }} {{ end }}"
    "{{ range .Messages }}{{ .Role }} {{ .Content }} {{ end }}assistant "
)


def canonical(name: str) -> str:
    """Return a name as Ollama lists it: ``Foo`` is ``foo:latest``, without default prefixes."""
    name = name.casefold()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def is_cloud(name: str) -> bool:
    """Return True if Ollama would run it on ollama.com, pulled or not."""
    tag = name.casefold().rpartition(":")[2]
    return ":" in name and (tag == "cloud" or tag.endswith("-cloud"))


def parameter_count(text: str) -> int:
    """Return ``7.6B`` as a number; 0 if it is not one."""
    match = re.fullmatch(r"(?:(\d+)x)?([\d.]+)([KMBT])", text)
    if match is None:
        return 0
    return int(int(match[1] or 1) * float(match[2]) * _UNITS[match[3]])


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One model: its description and its speed.

    ``size`` is in bytes on disk, ``load_time`` in simulated seconds. Rates of ``inf`` take no time.
    A model with ``remote_host`` runs on another host, which the simulator cannot reach.
    """

    name: str
    parameter_size: str
    size: int
    family: str = "llama"
    quantization: str = "Q4_K_M"
    context_length: int = 4096
    embedding_length: int | None = None
    load_time: float = 0.0
    tokens_per_second: float = math.inf
    prompt_tokens_per_second: float = math.inf
    remote_host: str | None = None
    remote_model: str | None = None
    capabilities: tuple[str, ...] = ("completion",)
    template: str = _CHAT_TEMPLATE
    system: str = ""
    parameters: str = ""
    license: str = ""
    parent_model: str = ""
    blocks: int = 2
    """Layers; like heads, vocabulary and feed_forward only visible in ``/api/show``."""
    heads: int = 4
    vocabulary: int = 544
    feed_forward: int = 128
    always_says: str = ""
    """A token that it repeats for ever, if set."""
    modified_ns: int = field(default_factory=time.time_ns)
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Additional fields of its entry in ``/api/tags``, as a later Ollama may have."""

    @property
    def canonical_name(self) -> str:
        return canonical(self.name)

    @property
    def width(self) -> int:
        return self.embedding_length or 64

    @property
    def embeds(self) -> bool:
        return "embedding" in self.capabilities

    @property
    def thinks(self) -> bool:
        return "thinking" in self.capabilities

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"manifest {self.canonical_name} {self.size}".encode()).hexdigest()

    @property
    def blob(self) -> str:
        """The path of its weights, which reveals the user that runs Ollama."""
        if self.parent_model:
            return self.parent_model
        digest = hashlib.sha256(f"blob {self.canonical_name} {self.size}".encode()).hexdigest()
        return f"/usr/share/ollama/.ollama/models/blobs/sha256-{digest}"

    def at_speed(
        self, *, load_time: float | None = None, tokens_per_second: float | None = None
    ) -> "SimulatedModel":
        """Return the same model on other hardware; None keeps a value."""
        return replace(
            self,
            load_time=self.load_time if load_time is None else load_time,
            tokens_per_second=(
                self.tokens_per_second if tokens_per_second is None else tokens_per_second
            ),
        )


class Library:
    """The pulled models. Mutable state: the models by canonical name."""

    def __init__(self, models: Iterable[SimulatedModel]) -> None:
        self._models = {model.canonical_name: model for model in models}

    def add(self, model: SimulatedModel) -> None:
        self._models[model.canonical_name] = model

    def remove(self, name: str) -> None:
        """Remove a model. Raises ``KeyError`` if it is not pulled."""
        del self._models[canonical(name)]

    def find(self, name: str) -> SimulatedModel | None:
        return self._models.get(canonical(name))

    def newest_first(self) -> list[SimulatedModel]:
        """Return the models as ``/api/tags`` sorts them: by full seconds, then by name."""
        return sorted(
            self._models.values(), key=lambda m: (-(m.modified_ns // 1_000_000_000), m.name)
        )
