"""The text of ``keys.toml``: reading it, and changing one key without touching the rest.

A person's comments, order and spelling survive, because only what differs is written. Pure.
"""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Final

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array, Item, Table

from gateway.auth.keys import Key
from gateway.auth.keytable import InvalidKey, keys_from, previous_of, to_table

HEADER: Final = """\
# The keys of this gateway, one table for each.
#
# What a caller sends is shown once, when its key is made; here stands only its SHA-256 digest.
# Made and changed by:  ollama-gateway keys create | list | rotate | revoke
# By hand: all but sha256 and previous may be edited; a running gateway notices within seconds.
# Times are UTC. In models and cloud, * and ? are wildcards. The file belongs to its owner alone
# (mode 0600): whoever can write it can let himself in.
"""


def parse(text: str) -> tuple[Key, ...]:
    """Every key in the order of the file; raises InvalidKey with one line on what is wrong."""
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise InvalidKey("not valid TOML: nested too deep") from None
    except ValueError as error:
        raise InvalidKey(
            f"not valid TOML: {error}; correct that, or move the file away and make new keys"
        ) from None
    return keys_from(document)


def with_new(text: str, key: Key) -> str:
    """The text with the key's table at its end, and the header if there was no text yet."""
    document = tomlkit.document()
    keys = tomlkit.table(is_super_table=True)
    keys.append(key.name, to_table(key))
    document.append("keys", keys)
    return f"{text.rstrip() or HEADER.rstrip()}\n\n{tomlkit.dumps(document)}"


def with_changed(text: str, *, old: Key, new: Key) -> str:
    """The text with the fields changed in which the two differ; raises InvalidKey.

    Both have one name, and ``old`` is what the text says.
    """
    document, table = _table_of(text, old.name)
    before, after = to_table(old), to_table(new)
    tail = _cut_tail(table)
    for field in before.keys() - after.keys():
        table.remove(field)
    for field, value in after.items():
        if value != before.get(field):
            table[field] = _inline(previous_of(new)) if field == "previous" else value
    for item in tail:
        table.append(None, item)
    return tomlkit.dumps(document)


def _table_of(text: str, name: str) -> tuple[tomlkit.TOMLDocument, Table]:
    try:
        document = tomlkit.parse(text)
        keys = document["keys"]
        table = keys[name] if isinstance(keys, Mapping) else None
    except (TOMLKitError, KeyError) as error:
        raise InvalidKey(f"key {name}: its table cannot be edited: {error}") from None
    if not isinstance(table, Table):
        raise InvalidKey(f"key {name}: to be edited, its table must be written as [keys.{name}]")
    return document, table


def _inline(entries: Sequence[Mapping[str, object]]) -> Array:
    """A list of tables within the key's own table; tomlkit would give each a header of its own."""
    array = tomlkit.array()
    for entry in entries:
        table = tomlkit.inline_table()
        table.update(entry)
        array.append(table)
    return array


def _cut_tail(table: Table) -> list[Item]:
    """Takes off the comments and blank lines behind the last field.

    They mostly speak of the next table, and a field put behind them would stand under them.
    """
    body, tail = table.value.body, list[Item]()
    while body and body[-1][0] is None:
        tail.insert(0, body.pop()[1])
    return tail
