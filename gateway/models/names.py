"""Model names as Ollama reads them: the only place that normalises and compares them. Pure.

A name is ``[host/][namespace/]model[:tag]``. ``host`` defaults to registry.ollama.ai, ``namespace``
to library and ``tag`` to latest; Ollama's list leaves the first two out and always writes the tag.
Case never counts. The characters and lengths are those of Ollama's ``types/model``.

Every part of the gateway may import this module, so it imports none of them.
"""

import fnmatch
import re
from functools import lru_cache
from typing import Final

_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"

_MAX_LENGTH: Final = 350 + 3 * 80 + 3
_NAME: Final = re.compile(
    r"(?:(?:(?P<host>\w[\w.:-]{0,349})/)?(?P<namespace>\w[\w-]{0,79})/)?"
    r"(?P<model>\w[\w.-]{0,79})(?::(?P<tag>\w[\w.-]{0,79}))?",
    re.ASCII,
)
_MAX_SHOWN: Final = 80


def name_key(name: str) -> str | None:
    """Return the one spelling that all spellings of a name share, None if it cannot be a name.

    For names that Ollama lists it is what the list writes, in lower case.
    """
    # The few names in use are cached, and never one that is longer than a name can be.
    return _key_of(name) if len(name) <= _MAX_LENGTH else None


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


def matches_any(globs: tuple[str, ...], name: str) -> bool:
    """Return True if one of the globs matches this name, as Ollama lists it, completely.

    ``*`` is any text, ``?`` one character, everything else is literal. Case does not count, and
    the default tag may be left out: ``foo`` and ``foo:latest`` match each other, and neither
    matches ``foo:7b``.
    """
    if "*" in globs:
        return True
    if not globs:
        return False
    pattern, name = _glob_pattern(globs), name.casefold()
    if pattern.fullmatch(name):
        return True
    if name.endswith(f":{_DEFAULT_TAG}"):
        return pattern.fullmatch(name.removesuffix(f":{_DEFAULT_TAG}")) is not None
    # A colon before the last slash belongs to a registry's port, not to a tag.
    has_tag = ":" in name.rpartition("/")[2]
    return not has_tag and pattern.fullmatch(f"{name}:{_DEFAULT_TAG}") is not None


@lru_cache(maxsize=4096)
def _glob_pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    # Compiled when first used, not when the file is loaded: compiling the globs of thousands of
    # keys takes seconds. Clients choose the model names, so the pattern must not backtrack: the
    # translation by fnmatch does not. Its bracket wildcard is not part of our syntax.
    literal = (glob.casefold().replace("[", "[[]") for glob in globs)
    return re.compile("|".join(map(fnmatch.translate, literal)))


def namespace_of(name: str) -> str:
    """Return the namespace as spelled in ``name``: what Ollama calls ``owned_by`` on ``/v1``."""
    match = _NAME.fullmatch(name) if len(name) <= _MAX_LENGTH else None
    return (match and match["namespace"]) or _DEFAULT_NAMESPACE


def is_cloud_name(name: str) -> bool:
    """Return True if Ollama would run this on ollama.com for its name alone, pulled or not.

    Ollama trims white space around the name and around its tag before it looks, and ignores case.
    ``…-cloud`` without a tag counts too, although Ollama looks for a local model then: an
    unnecessary rejection is better than a prompt that leaves the machine.
    """
    return _is_cloud(name) if len(name) <= _MAX_LENGTH else _ends_like_cloud(name)


@lru_cache(maxsize=512)
def _is_cloud(name: str) -> bool:
    return _ends_like_cloud(name)


def _ends_like_cloud(name: str) -> bool:
    spelled = "".join(name.split()).lower().removesuffix(f":{_DEFAULT_TAG}")
    return spelled.endswith((":cloud", "-cloud"))


def is_path(name: str) -> bool:
    """Return True if this is a path in a file system rather than the name of a model.

    ``parent_model`` can be either. ``models/blobs/sha256-…`` has the form of a name, so of three
    parts the first must look like a host.
    """
    match = _NAME.fullmatch(name) if len(name) <= _MAX_LENGTH else None
    if match is None:
        return bool(name)
    host = match["host"]
    if host is not None and not re.search(r"[.:]|^localhost$", host):
        return True
    return name.lower().endswith((".gguf", ".bin", ".safetensors"))


def shown(name: str) -> str:
    """Return ``name`` in quotes, safe for a message: one line, printable, bounded."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name[:_MAX_SHOWN])
    return f"'{text}'" if len(name) <= _MAX_SHOWN else f"'{text}…'"


def likeness(name: str, other: str) -> float:
    """Return how similar two names look, 0 to 1: Dice's coefficient over their pairs of letters.

    It is cheap on purpose: clients with wrong names retry.
    """
    pairs, others = _pairs(name), _pairs(other)
    return 2 * len(pairs & others) / (len(pairs) + len(others) or 1)


def _pairs(name: str) -> frozenset[str]:
    text = name[:_MAX_SHOWN].lower().removesuffix(f":{_DEFAULT_TAG}")
    return frozenset(map("".join, zip(f" {text}", text, strict=False)))
