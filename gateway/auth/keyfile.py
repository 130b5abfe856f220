"""``keys.toml`` on disk: read by the gateway, read and changed by the commands.

Everything that can go wrong is a KeyFileError whose text is one line for the file's owner, and
whatever goes wrong leaves the file as it was.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from gateway.auth import keytext
from gateway.auth.keys import Key, NewKey, digest_of, generate_secret
from gateway.auth.keytable import InvalidKey, from_table, to_table
from gateway.files import locked_folder, replace_file

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Some ten thousand keys. The gateway reads the file in its one thread."""

_ENCODING: Final = "utf-8-sig"
"""UTF-8; editors on Windows put a mark at its beginning, which TOML does not know."""


class KeyFileError(Exception):
    """What is wrong with the file or with what was wanted of it."""


class KeyExists(KeyFileError):
    """There is a key of that name; ``name`` is how it is spelled in the file."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a key {name} already")
        self.name = name


class NoSuchKey(KeyFileError):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no key {name}")
        self.name = name


class KeyRevoked(KeyFileError):
    """The key was revoked, and rotating would bring it back."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name} is revoked, and rotating would bring it back")
        self.name = name


@dataclass(frozen=True, slots=True)
class Issued:
    """A key as the file now has it, and its new secret, which is nowhere else."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file is written, replaced or made readable, for the price of a stat.

    ``ctime_ns`` is there for what leaves the rest alone: ``cp -p``, ``chmod``.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_mode,
        )

    @property
    def open_to_others(self) -> bool:
        return bool(self.mode & (stat.S_IRWXG | stat.S_IRWXO))


def stamp_of(path: Path) -> Stamp | None:
    """None if there is no such file."""
    try:
        return Stamp.of(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def read_content(path: Path) -> tuple[bytes, Stamp] | None:
    """The file's bytes and its stamp from before they were read; None if there is no such file.

    Both are of one file, even if another takes its name meanwhile.
    """
    try:
        # Without O_NONBLOCK, opening a pipe by mistake would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _read(path, descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(path: Path, descriptor: int) -> tuple[bytes, Stamp]:
    stamp = Stamp.of(os.fstat(descriptor))
    if not stat.S_ISREG(stamp.mode):
        raise KeyFileError(f"{path} is not a file")
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content, stamp


def parse_content(path: Path, content: bytes) -> tuple[Key, ...]:
    """``path`` is for the words of the error only."""
    try:
        return keytext.parse(content.decode(_ENCODING))
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not UTF-8 text") from None
    except InvalidKey as error:
        raise KeyFileError(f"{path}: {error}") from None


def warning_about(path: Path, stamp: Stamp) -> str | None:
    """A line for the owner of a file that more than he can reach; None if all is well."""
    if not stamp.open_to_others:
        return None
    mode = stat.S_IMODE(stamp.mode)
    return f"{path} has mode {mode:04o}: others can reach it; `chmod 600 {path}` keeps it yours"


def load(path: Path) -> tuple[Key, ...]:
    """Every key of the file, revoked and expired ones too; none if there is no file."""
    found = read_content(path)
    return () if found is None else parse_content(path, found[0])


def create_key(path: Path, spec: NewKey, now: datetime) -> str:
    """Makes the key and returns its secret; makes file and folder where they are missing.

    A revoked key gives its name free. Raises InvalidKey if ``spec`` cannot be, KeyExists,
    KeyFileError.
    """
    secret = generate_secret()
    key = Key.made(spec, digest=digest_of(secret), now=now)
    from_table(key.name, to_table(key))

    def make(keys: tuple[Key, ...]) -> Key:
        old = _named(keys, key.name)
        if old is not None and (old.revoked is None or old.name != key.name):
            raise KeyExists(old.name)
        return key

    _change(path, make)
    return secret


def rotate_key(path: Path, name: str, *, now: datetime, overlap: timedelta = timedelta()) -> Issued:
    """Gives the key a new secret; the old one stays valid for ``overlap``.

    Raises NoSuchKey, KeyRevoked, KeyFileError.
    """
    secret = generate_secret()

    def rotate(keys: tuple[Key, ...]) -> Key:
        old = _existing(keys, name)
        if old.revoked is not None:
            raise KeyRevoked(old.name)
        if old.expires is not None and old.expires <= old.created:
            raise KeyFileError(
                f"{path}: key {old.name}: expires is not after created, so there is no lifetime "
                "to give to the new secret; correct expires first"
            )
        return old.rotated(digest=digest_of(secret), now=now, overlap=overlap)

    return Issued(_change(path, rotate), secret)


def revoke_key(path: Path, name: str, *, now: datetime) -> Key:
    """Refuses all the key's secrets from now on. Raises NoSuchKey, KeyFileError."""
    return _change(path, lambda keys: _existing(keys, name).revoked_at(now))


def _change(path: Path, decide: Callable[[tuple[Key, ...]], Key]) -> Key:
    """Puts the key that ``decide`` returns into the file, in place of one of its name."""
    # The place of a symbolic link is kept: it may lead to where the owner keeps his secrets.
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_folder(path.parent):
            found = read_content(path)
            content = b"" if found is None else found[0]
            keys = parse_content(path, content)
            key = decide(keys)
            replace_file(path, _edited(path, content, keys, key))
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written and is as it was: {_why(error)}") from None
    return key


def _edited(path: Path, content: bytes, keys: tuple[Key, ...], key: Key) -> bytes:
    text = content.decode(_ENCODING)
    old = next((other for other in keys if other.name == key.name), None)
    try:
        if old is None:
            expected = (*keys, key)
            text = keytext.with_new(text, key)
        else:
            expected = tuple(key if other is old else other for other in keys)
            text = keytext.with_changed(text, old=old, new=key)
        # What a person wrote can be valid and still take an edit otherwise than it was meant.
        if keytext.parse(text) != expected:
            raise InvalidKey(f"key {key.name}: write every key as its own table, [keys.NAME]")
    except InvalidKey as error:
        raise KeyFileError(f"{path} cannot be edited and is as it was: {error}") from None
    return text.encode()


def _named(keys: tuple[Key, ...], name: str) -> Key | None:
    wanted = name.casefold()
    return next((key for key in keys if key.name.casefold() == wanted), None)


def _existing(keys: tuple[Key, ...], name: str) -> Key:
    key = _named(keys, name)
    if key is None:
        raise NoSuchKey(name)
    return key


def _unreadable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"{path} cannot be read: {_why(error)}")


def _why(error: OSError) -> str:
    why = error.strerror or type(error).__name__
    if not isinstance(error, PermissionError):
        return why
    return f"{why}; whoever runs this must own it and its folder (`chown`)"
