"""Keys, headers and clocks for tests of who may do what."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from multidict import CIMultiDict, CIMultiDictProxy

from gateway.auth.keyfile import create_key
from gateway.auth.keys import Key, NewKey, digest_of
from gateway.auth.principal import Scope

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
DISCOVERY = frozenset({Scope.DISCOVERY})


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def moment(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds - 1000.0)


def headers(*pairs: tuple[str, str], **single: str) -> CIMultiDictProxy[str]:
    """As aiohttp gives them; an underscore in a name stands for a hyphen."""
    both = [*pairs, *((name.replace("_", "-"), value) for name, value in single.items())]
    return CIMultiDictProxy(CIMultiDict(both))


def a_key(name: str = "laptop", *, secret: str = "s", **fields: object) -> Key:  # noqa: S107  - made up
    values: Mapping[str, object] = {"created": NOW - DAY, **fields}
    return Key(name=name, digest=digest_of(secret), **values)  # type: ignore[arg-type]  # tests know


def a_file(folder: Path, *names: str) -> tuple[Path, dict[str, str]]:
    """A keys file and the secrets of its keys by name."""
    path = folder / "keys.toml"
    return path, {name: create_key(path, NewKey(name=name), NOW) for name in names}
