"""What must not be shown of what somebody wrote."""

import json
import re
from typing import Final

HIDDEN: Final = "***"
_LONGEST: Final = 100

_SECRET_NAME: Final = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_USERINFO: Final = re.compile(r"//.*@")
"""Up to the last of these signs: a password can hold a slash, or blanks."""
_BARE_USERINFO: Final = re.compile(r'^"(?!\w+://).*:.*@')
"""The same of an address whose scheme was forgotten."""
_KEY: Final = re.compile(r"ogw_[\w-]{16,}")


def names_a_secret(name: str) -> bool:
    """Whether the last part of a dotted name calls its value a secret; ``keys.file`` does not."""
    return _SECRET_NAME.search(name.rpartition(".")[2]) is not None


def masked(value: object) -> str:
    """A value in JSON, without any credentials."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _KEY.sub(HIDDEN, _USERINFO.sub(f"//{HIDDEN}@", text))


def shown(name: str, value: object) -> str:
    """As ``masked`` and short; nothing of a text whose dotted name says that it is a secret."""
    if isinstance(value, str) and names_a_secret(name):
        return f'"{HIDDEN}"'
    text = _BARE_USERINFO.sub(f'"{HIDDEN}@', masked(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def printable(text: str) -> str:
    """The text on one line: names and paths can hold line breaks and worse."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
