"""What a new config file says: every setting as a comment, but for those that were chosen."""

import re
from collections.abc import Mapping

from gateway.cli.config import toml_value
from gateway.settings import default_config_text


def config_text(chosen: Mapping[str, object]) -> str:
    """The text of ``config/gateway.toml`` with ``chosen``, by dotted name, in force.

    Raises LookupError for a name that is not in it.
    """
    text = default_config_text()
    for name, value in chosen.items():
        text = _with_value(text, name, value)
    return text


def _with_value(text: str, name: str, value: object) -> str:
    table, _, field = name.partition(".")
    before, header, after = text.partition(f"\n[{table}]\n")
    line = f"{field} = {toml_value(field, value)}"
    changed, times = re.subn(rf"(?m)^#{field} = .*$", lambda _: line, after, count=1)
    if not times:
        raise LookupError(name)
    return f"{before}{header}{changed}"
