"""Keys, headers and clocks for tests of authentication."""

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from multidict import CIMultiDict, CIMultiDictProxy

from gateway.auth.keyfile import create_key, with_new
from gateway.auth.keys import Key, KeySpec, Scope, digest_of
from gateway.auth.store import KeyStore

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
DISCOVERY = frozenset({Scope.DISCOVERY})


class Clock:
    """Time that only passes when a test changes it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def moment(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds - 1000.0)


def headers(*pairs: tuple[str, str], **single: str) -> CIMultiDictProxy[str]:
    """As aiohttp gives them; an underscore in a name means a hyphen."""
    both = [*pairs, *((name.replace("_", "-"), value) for name, value in single.items())]
    return CIMultiDictProxy(CIMultiDict(both))


def a_key(name: str = "laptop", *, secret: str = "s", **fields: object) -> Key:  # noqa: S107  - made up
    values: Mapping[str, object] = {"created": NOW - DAY, **fields}
    return Key(name=name, digest=digest_of(secret), **values)  # type: ignore[arg-type]  # tests know


def a_file(folder: Path, *names: str) -> tuple[Path, dict[str, str]]:
    """A keys file and the secrets of its keys by name."""
    path = folder / "keys.toml"
    return path, {name: create_key(path, KeySpec(name=name), NOW) for name in names}


def store_of(*keys: Key) -> KeyStore:
    """A store with these keys, whose file is gone by now."""
    text = ""
    for key in keys:
        text = with_new(text, key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.toml"
        path.write_text(text)
        return KeyStore(path)
