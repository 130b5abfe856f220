"""How large a model is, read from Ollama's words: pure.

Ollama writes a model's parameter count as text for people: ``70.6B``, ``494.03M``, ``152K``,
``8x7B``, plain digits below a thousand, or nothing at all.
"""

import re
from typing import Final

_COUNT: Final = re.compile(
    r"\s*(?:([0-9]{1,4})\s*x\s*)?([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmbt]?)\s*",
    re.IGNORECASE | re.ASCII,
)
_BILLIONS: Final = {"": 1e-9, "k": 1e-6, "m": 1e-3, "b": 1.0, "t": 1e3}
_LONGEST: Final = 40
_LARGEST: Final = 100_000.0


def parameter_count(text: str) -> float | None:
    """Billions of parameters, or None where ``text`` names no plausible number.

    A mixture counts all its experts (``8x7B`` is 56): all of them are loaded. Without a unit the
    number is parameters as they are. Zero, and more than a hundred trillion, say nothing.
    """
    match = _COUNT.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    experts, number, unit = match.groups()
    count = int(experts or 1) * float(number) * _BILLIONS[unit.lower()]
    return count if 0.0 < count <= _LARGEST else None
