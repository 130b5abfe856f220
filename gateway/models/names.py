"""Model names as Ollama reads them: pure.

A name is ``[host/][namespace/]model[:tag]``. ``host`` defaults to registry.ollama.ai, ``namespace``
to library and ``tag`` to latest; Ollama's list leaves the first two out and always writes the tag.
Case never counts. The characters and lengths are those of Ollama's ``types/model``.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from gateway.settings import ModelRule

_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"

_LONGEST: Final = 350 + 3 * 80 + 3
_NAME: Final = re.compile(
    r"(?:(?:(?P<host>\w[\w.:-]{0,349})/)?(?P<namespace>\w[\w-]{0,79})/)?"
    r"(?P<model>\w[\w.-]{0,79})(?::(?P<tag>\w[\w.-]{0,79}))?",
    re.ASCII,
)
_SHOWN: Final = 80


def name_key(name: str) -> str | None:
    """The one spelling that all spellings of a name share, or None if Ollama has no such names.

    For names that Ollama lists it is what the list writes, in lower case.
    """
    # The few names that are in use are remembered, and never more than their longest.
    return _key_of(name) if len(name) <= _LONGEST else None


@lru_cache(maxsize=512)
def _key_of(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    host, namespace, model, tag = (part and part.lower() for part in match.groups())
    key = f"{model}:{tag or _DEFAULT_TAG}"
    host = host or _DEFAULT_HOST
    namespace = namespace or _DEFAULT_NAMESPACE
    if host != _DEFAULT_HOST:
        return f"{host}/{namespace}/{key}"
    return key if namespace == _DEFAULT_NAMESPACE else f"{namespace}/{key}"


def rule_for(name: str, rules: Iterable[ModelRule]) -> ModelRule | None:
    """Return the first ``[[models]]`` rule that matches this model, None if none does.

    ``match`` is a glob over names as Ollama lists them, in any case. The default tag may be left
    out of it: ``llama3.2`` matches ``llama3.2:latest`` and not ``llama3.2:1b``.
    """
    key = name_key(name) or name.lower()
    short = key.removesuffix(f":{_DEFAULT_TAG}")
    for rule in rules:
        glob = rule.match.lower()
        if fnmatchcase(key, glob) or fnmatchcase(short, glob):
            return rule
    return None


def namespace_of(name: str) -> str:
    """Whose model it is, spelled as in ``name``: what Ollama calls ``owned_by`` on ``/v1``."""
    match = _NAME.fullmatch(name) if len(name) <= _LONGEST else None
    return (match and match["namespace"]) or _DEFAULT_NAMESPACE


def is_cloud_name(name: str) -> bool:
    """Whether Ollama would run this on ollama.com for its name alone, pulled or not.

    Ollama trims white space around the name and around its tag before it looks, and does not mind
    the case. We also say yes to ``…-cloud`` without a tag, where today's Ollama looks for a local
    model: better one refusal too many than a prompt that leaves the machine.
    """
    return _is_cloud(name) if len(name) <= _LONGEST else _ends_like_cloud(name)


@lru_cache(maxsize=512)
def _is_cloud(name: str) -> bool:
    return _ends_like_cloud(name)


def _ends_like_cloud(name: str) -> bool:
    spelled = "".join(name.split()).lower().removesuffix(f":{_DEFAULT_TAG}")
    return spelled.endswith((":cloud", "-cloud"))


def is_path(name: str) -> bool:
    """Whether this is a place in a file system rather than the name of a model.

    ``parent_model`` can be either. ``models/blobs/sha256-…`` has the form of a name, so of three
    parts the first must look like a host.
    """
    match = _NAME.fullmatch(name) if len(name) <= _LONGEST else None
    if match is None:
        return bool(name)
    host = match["host"]
    if host is not None and not re.search(r"[.:]|^localhost$", host):
        return True
    return name.lower().endswith((".gguf", ".bin", ".safetensors"))


def shown(name: str) -> str:
    """``name`` in quotes, fit for a message: one line, printable, bounded."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name[:_SHOWN])
    return f"'{text}'" if len(name) <= _SHOWN else f"'{text}…'"


def likeness(name: str, other: str) -> float:
    """How alike two names look, 0 to 1: Dice's coefficient over their pairs of letters.

    Cheap on purpose: callers with wrong names retry.
    """
    pairs, others = _pairs(name), _pairs(other)
    return 2 * len(pairs & others) / (len(pairs) + len(others) or 1)


def _pairs(name: str) -> frozenset[str]:
    text = name[:_SHOWN].lower().removesuffix(f":{_DEFAULT_TAG}")
    return frozenset(map("".join, zip(f" {text}", text, strict=False)))
