"""Who is calling: what he may do, and nothing of how he proved who he is."""

from dataclasses import dataclass, field
from enum import StrEnum

from gateway.auth.globs import EVERY, ModelGlobs


class Scope(StrEnum):
    """A family of routes. None contains another: a key has each one that it needs."""

    DISCOVERY = "discovery"
    INFERENCE = "inference"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of one key.

    ``key`` is the key's name, ``models`` and ``cloud`` are globs; ``rpm`` is requests per minute
    and ``max_active`` calls at Ollama at once, None being no limit of its own; ``weight`` is his
    share when several wait, and with ``batch`` interactive callers go before him.
    """

    key: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] = EVERY
    cloud: tuple[str, ...] = ()
    tune: bool = False
    rpm: int | None = None
    max_active: int | None = None
    weight: float = 1.0
    batch: bool = False
    _models: ModelGlobs = field(init=False, repr=False, compare=False)
    _cloud: ModelGlobs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_models", ModelGlobs(self.models))
        object.__setattr__(self, "_cloud", ModelGlobs(self.cloud))

    def in_scope(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether the key's ``models`` hold this canonical name; says nothing about the cloud."""
        return self._models.matches(model)

    def may_reach_cloud(self, model: str) -> bool:
        """Whether this model may run on ollama.com, on the account of the host's owner."""
        return self._cloud.matches(model)
