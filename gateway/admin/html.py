"""HTML of which no text can break out: whatever is not ``Html`` is escaped."""

import html
from dataclasses import dataclass
from typing import Final

_EMPTY: Final = frozenset({"link", "meta"})
"""Elements that have no end."""


@dataclass(frozen=True, slots=True)
class Html:
    """Markup that was made here; text of others never is."""

    markup: str


def tag(name: str, /, *children: Html | str, **attributes: str) -> Html:
    """One element. ``class_`` is ``class``, ``data_label`` is ``data-label``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(*children).markup}</{name}>")


def joined(*children: Html | str) -> Html:
    """Several in a row, without anything around them."""
    return Html("".join(map(_markup, children)))


def _markup(child: Html | str) -> str:
    return child.markup if isinstance(child, Html) else html.escape(child)
