"""``keys.toml``: its schema, reading it, and changing it for the commands.

Every failure is a KeyFileError whose text is one line for the owner of the file, and leaves the
file unchanged. The owner may edit the file by hand, so an edit of ours changes only the fields that
differ: comments, order and formatting stay.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Final

import tomlkit
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item, Table

from gateway.auth.keys import (
    ALL_MODELS,
    Key,
    KeySpec,
    OldSecret,
    Scope,
    digest_of,
    generate_secret,
)
from gateway.files import locked_folder, make_folder, replace_file

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Enough for 14,000 keys. The gateway parses the file in its only thread."""

_ENCODING: Final = "utf-8-sig"
"""UTF-8, with or without the byte order mark that Windows editors write and TOML does not allow."""

HEADER: Final = """\
# The keys of this gateway, one table for each.
#
# A key is shown only once, when it is created; this file contains its SHA-256 digest.
# Managed with:  ollama-gateway keys create | list | rotate | revoke
# By hand, edit anything but sha256 and previous; a running gateway notices within a second.
# Times are UTC. In models and cloud, * and ? are wildcards.
# Keep the file private (mode 0600): anyone who can write it can grant themselves access.
"""


class KeyFileError(Exception):
    """The file cannot be used, or not in the way that a command asks for."""


class KeyExists(KeyFileError):
    """A key has the name already; ``name`` is its spelling in the file."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name} already exists")
        self.name = name


class NoSuchKey(KeyFileError):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no key {name}")
        self.name = name


class KeyRevoked(KeyFileError):
    """The key was revoked, and rotating would make it valid again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name} is revoked, and rotating would make it valid again")
        self.name = name


class InvalidKey(ValueError):
    """A key that is not valid; the text is one line that names the key and the field."""


# Schema

MAX_REQUESTS_PER_MINUTE: Final = 1_000_000
MAX_ACTIVE: Final = 10_000
MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 100.0
MAX_GLOB: Final = 256
YEARS: Final = range(2000, 3000)
"""Far enough for any key, and no sum of times leaves the calendar."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GLOB: Final = re.compile(r"[^\s\[\]]+")
_CLASSES: Final = ("interactive", "batch")


def _to_utc(value: object) -> datetime:
    """A date alone means midnight, a time without a zone UTC, as the header of the file says."""
    if not isinstance(value, date) or value.year not in YEARS:
        raise ValueError
    moment = value if isinstance(value, datetime) else datetime.combine(value, time())
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check_glob(value: str) -> str:
    if len(value) > MAX_GLOB or not value.isprintable() or not _GLOB.fullmatch(value):
        raise ValueError
    return value


def _is_batch(value: object) -> bool:
    if value not in _CLASSES:
        raise ValueError
    return value == "batch"


_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Time = Annotated[datetime, BeforeValidator(_to_utc)]
_Glob = Annotated[str, AfterValidator(_check_glob)]

_A_TIME: Final = "must be a time such as 2030-01-31T12:00:00Z"


class _OldSecretTable(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: _Digest
    until: _Time


class _KeyTable(BaseModel):
    """The schema of a table ``[keys.NAME]``; fields are named as those of ``Key``.

    An unknown field is an error: ``modles = ["llama*"]`` would otherwise allow every model. The
    description of a field completes the error message "key NAME: FIELD …".
    """

    model_config = ConfigDict(extra="forbid")

    digest: _Digest = Field(
        alias="sha256",
        description="must be a SHA-256 digest, 64 characters from 0-9 a-f",
    )
    scopes: frozenset[Scope] = Field(
        min_length=1, description=f"must be a list of one or more of {', '.join(Scope)}"
    )
    models: tuple[_Glob, ...] = Field(
        ALL_MODELS,
        min_length=1,
        description='must be a list of one or more model names with the wildcards * and ?; ["*"] '
        "allows every model",
    )
    created: _Time = Field(description=_A_TIME)
    expires: _Time | None = Field(None, description=_A_TIME)
    rpm: int | None = Field(
        None,
        strict=True,
        ge=1,
        le=MAX_REQUESTS_PER_MINUTE,
        description=f"must be a whole number from 1 to {MAX_REQUESTS_PER_MINUTE}",
    )
    max_active: int | None = Field(
        None,
        strict=True,
        ge=1,
        le=MAX_ACTIVE,
        description=f"must be a whole number from 1 to {MAX_ACTIVE}",
    )
    tune: bool = Field(default=False, strict=True, description="must be true or false")
    cloud: tuple[_Glob, ...] = Field(
        (), description="must be a list of model names with the wildcards * and ?"
    )
    weight: float = Field(
        1.0,
        strict=True,
        ge=MIN_WEIGHT,
        le=MAX_WEIGHT,
        description=f"must be a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}",
    )
    batch: Annotated[bool, BeforeValidator(_is_batch)] = Field(
        default=False, alias="class", description=f"must be {' or '.join(_CLASSES)}"
    )
    revoked: _Time | None = Field(None, description=_A_TIME)
    previous: tuple[_OldSecretTable, ...] = Field(
        (), description="must be a list of {sha256, until}, the digests and ends of old secrets"
    )


_DESCRIPTIONS: Final = {
    each.alias or name: each.description for name, each in _KeyTable.model_fields.items()
}
_SECRET_FIELDS: Final = ("sha256", "previous")
"""Their values are not shown: the owner may have pasted a key in place of its digest."""


def check_name(name: str) -> str:
    """Return the name. Names are part of logs, metrics and ``https://name:key@host``."""
    if not _NAME.fullmatch(name):
        raise InvalidKey(
            f"{_shown(name)} is not a valid name for a key: "
            "use 1 to 64 characters from A-Z a-z 0-9 . _ -"
        )
    return name


def key_from_table(name: str, table: object) -> Key:
    """Validate one table. Raises InvalidKey for the first mistake."""
    check_name(name)
    if not isinstance(table, Mapping):
        raise InvalidKey(f"key {name}: must be a table, [keys.{name}]")
    try:
        values = dict(_KeyTable.model_validate(table))
    except ValidationError as error:
        raise InvalidKey(f"key {name}: {_first_mistake(error)}") from None
    values["previous"] = tuple(OldSecret(old.sha256, old.until) for old in values["previous"])
    return Key(name=name, **values)


def _first_mistake(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_context=False)
    # A misspelled field also makes a required one missing; the spelling is what helps.
    mistake = next((each for each in mistakes if each["type"] == "extra_forbidden"), mistakes[0])
    field_name = str(mistake["loc"][0])
    if len(mistake["loc"]) == 1 and mistake["type"] == "extra_forbidden":
        return f"unknown field {_shown(field_name)}; the fields are {', '.join(_DESCRIPTIONS)}"
    if len(mistake["loc"]) == 1 and mistake["type"] == "missing":
        return f"the field {field_name} is missing"
    sentence = f"{field_name} {_DESCRIPTIONS[field_name]}"
    return (
        sentence if field_name in _SECRET_FIELDS else f"{sentence}, not {_shown(mistake['input'])}"
    )


def table_of(key: Key) -> dict[str, object]:
    """The fields of a key in the order of the file, without those that have their default."""
    optional: dict[str, object] = {
        "expires": key.expires,
        "rpm": key.rpm,
        "max_active": key.max_active,
        "tune": key.tune or None,
        "cloud": list(key.cloud) or None,
        "weight": None if key.weight == 1.0 else key.weight,
        "class": "batch" if key.batch else None,
        "revoked": key.revoked,
        "previous": [{"sha256": old.digest, "until": old.until} for old in key.previous] or None,
    }
    return {
        "sha256": key.digest,
        "scopes": [scope.value for scope in Scope if scope in key.scopes],
        "models": list(key.models),
        "created": key.created,
    } | {name: value for name, value in optional.items() if value is not None}


def keys_from_document(document: Mapping[str, object]) -> tuple[Key, ...]:
    """Every key of a parsed file, in its order. Raises InvalidKey."""
    if unknown := sorted(set(document) - {"keys"}):
        raise InvalidKey(f"unknown entry {_shown(unknown[0])}: keys are tables, [keys.NAME]")
    tables = document.get("keys", {})
    if not isinstance(tables, Mapping):
        raise InvalidKey("`keys` must contain one table for each key, [keys.NAME]")
    keys = tuple(key_from_table(name, table) for name, table in tables.items())
    names: dict[str, str] = {}
    digests: dict[str, str] = {}
    for key in keys:
        # Basic authentication and the commands ignore case, so a name must be unique without it.
        other = names.setdefault(key.name.casefold(), key.name)
        if other != key.name:
            raise InvalidKey(f"keys {other} and {key.name}: names must differ in more than case")
        for digest in (key.digest, *(old.digest for old in key.previous)):
            if digest in digests:
                raise InvalidKey(f"keys {digests[digest]} and {key.name}: sha256 is the same")
            digests[digest] = key.name
    return keys


def _shown(value: object) -> str:
    """A value of the owner's file on one short line; never called for a digest."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Text


def parse(text: str) -> tuple[Key, ...]:
    """Every key in the order of the file. Raises InvalidKey with one line about the mistake."""
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise InvalidKey("not valid TOML: nested too deep") from None
    except ValueError as error:
        raise InvalidKey(
            f"not valid TOML: {error}; fix it, or move the file away and create new keys"
        ) from None
    return keys_from_document(document)


def with_new(text: str, key: Key) -> str:
    """The text with the key's table at its end, and with the header if it was empty."""
    document = tomlkit.document()
    keys = tomlkit.table(is_super_table=True)
    keys.append(key.name, table_of(key))
    document.append("keys", keys)
    return f"{text.rstrip() or HEADER.rstrip()}\n\n{tomlkit.dumps(document)}"


def with_changed(text: str, *, old: Key, new: Key) -> str:
    """The text with the fields changed that differ between two versions of a key.

    Args:
        text: A valid file.
        old: The key as the text has it.
        new: Another key of the same name.

    Raises:
        InvalidKey: The table is written in a way that cannot be edited.
    """
    try:
        document = tomlkit.parse(text)
        keys = document["keys"]
        table = keys[old.name] if isinstance(keys, Mapping) else None
    except (TOMLKitError, KeyError) as error:
        raise InvalidKey(f"key {old.name}: its table cannot be edited: {error}") from None
    if not isinstance(table, Table):
        raise InvalidKey(
            f"key {old.name}: to be edited, its table must be written as [keys.{old.name}]"
        )
    # Comments and blank lines after the last field are mostly about the next table. They are taken
    # off and put back, for a new field would be written behind them.
    body, tail = table.value.body, list[Item]()
    while body and body[-1][0] is None:
        tail.insert(0, body.pop()[1])
    before, after = table_of(old), table_of(new)
    for name in before.keys() - after.keys():
        table.remove(name)
    for name, value in after.items():
        if value == before.get(name):
            continue
        if name == "previous":
            # Inline tables, because tomlkit would give each entry a header of its own.
            array = tomlkit.array()
            for secret in new.previous:
                entry = tomlkit.inline_table()
                entry.update({"sha256": secret.digest, "until": secret.until})
                array.append(entry)
            table[name] = array
        else:
            table[name] = value
    for item in tail:
        table.append(None, item)
    return tomlkit.dumps(document)


# Reading


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file is written, replaced or made accessible, for the price of a stat.

    ``ctime_ns`` is for changes that leave the rest alone: ``cp -p``, ``chmod``.
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


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of the file; None if it does not exist."""
    try:
        return Stamp.of(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def read_content(path: Path) -> tuple[bytes, Stamp] | None:
    """The file's bytes and its stamp from before they were read; None if it does not exist.

    Both are of the same file, even if it is replaced meanwhile.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            stamp = Stamp.of(os.fstat(descriptor))
            if not stat.S_ISREG(stamp.mode):
                raise KeyFileError(f"{path} is not a file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content, stamp


def parse_content(path: Path, content: bytes) -> tuple[Key, ...]:
    """Every key of the file's content; ``path`` is for error messages only."""
    try:
        return parse(content.decode(_ENCODING))
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not UTF-8 text") from None
    except InvalidKey as error:
        raise KeyFileError(f"{path}: {error}") from None


def warning_about(path: Path, stamp: Stamp) -> str | None:
    """A line for the owner of a file that other users can access; None if it is private."""
    if not stamp.mode & (stat.S_IRWXG | stat.S_IRWXO):
        return None
    mode = stat.S_IMODE(stamp.mode)
    return f"{path} has mode {mode:04o}: other users can access it; run `chmod 600 {path}`"


def load(path: Path) -> tuple[Key, ...]:
    """Every key of the file, revoked and expired ones too; none if there is no file."""
    found = read_content(path)
    return () if found is None else parse_content(path, found[0])


# Changing


@dataclass(frozen=True, slots=True)
class RotatedKey:
    """A key as the file now has it, and its new secret, which is stored nowhere."""

    key: Key
    secret: str = field(repr=False)


def create_key(path: Path, spec: KeySpec, now: datetime) -> str:
    """Create a key and return its secret. Creates the file and its folder if they are missing.

    The name of a revoked key can be used again.

    Raises:
        InvalidKey: The spec is not valid.
        KeyExists: Another key has this name.
        KeyFileError: The file cannot be read or written.
    """
    secret = generate_secret()
    key = Key.from_spec(spec, digest=digest_of(secret), now=now)
    key_from_table(key.name, table_of(key))

    def create(keys: tuple[Key, ...]) -> Key:
        old = _find(keys, key.name)
        if old is not None and (old.revoked is None or old.name != key.name):
            raise KeyExists(old.name)
        return key

    _change(path, create)
    return secret


def rotate_key(
    path: Path, name: str, *, now: datetime, overlap: timedelta = timedelta()
) -> RotatedKey:
    """Give the key a new secret; the old one stays valid for ``overlap``.

    Raises NoSuchKey, KeyRevoked, KeyFileError.
    """
    secret = generate_secret()

    def rotate(keys: tuple[Key, ...]) -> Key:
        old = _get(keys, name)
        if old.revoked is not None:
            raise KeyRevoked(old.name)
        if old.expires is not None and old.expires <= old.created:
            raise KeyFileError(
                f"{path}: key {old.name}: expires is not after created, so the new secret would "
                "have no lifetime; correct expires first"
            )
        return old.rotated(digest=digest_of(secret), now=now, overlap=overlap)

    return RotatedKey(_change(path, rotate), secret)


def revoke_key(path: Path, name: str, *, now: datetime) -> Key:
    """Refuse all secrets of the key from now on. Raises NoSuchKey, KeyFileError."""
    return _change(path, lambda keys: _get(keys, name).revoked_at(now))


def _change(path: Path, decide: Callable[[tuple[Key, ...]], Key]) -> Key:
    """Write the key that ``decide`` returns, in place of the one of the same name."""
    # A symbolic link stays one: it may lead to where the owner stores secrets.
    path = Path(os.path.realpath(path))
    try:
        make_folder(path.parent)
        with locked_folder(path.parent):
            found = read_content(path)
            content = b"" if found is None else found[0]
            keys = parse_content(path, content)
            key = decide(keys)
            replace_file(path, _edited(path, content, keys, key))
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be written and was left unchanged: {_reason(error)}"
        ) from None
    return key


def _edited(path: Path, content: bytes, keys: tuple[Key, ...], key: Key) -> bytes:
    text = content.decode(_ENCODING)
    old = next((other for other in keys if other.name == key.name), None)
    try:
        if old is None:
            expected = (*keys, key)
            text = with_new(text, key)
        else:
            expected = tuple(key if other is old else other for other in keys)
            text = with_changed(text, old=old, new=key)
        # A valid file can be written in ways in which an edit gives something else than was meant.
        if parse(text) != expected:
            raise InvalidKey(f"key {key.name}: write every key as its own table, [keys.NAME]")
    except InvalidKey as error:
        raise KeyFileError(f"{path} cannot be edited and was left unchanged: {error}") from None
    return text.encode()


def _find(keys: tuple[Key, ...], name: str) -> Key | None:
    wanted = name.casefold()
    return next((key for key in keys if key.name.casefold() == wanted), None)


def _get(keys: tuple[Key, ...], name: str) -> Key:
    key = _find(keys, name)
    if key is None:
        raise NoSuchKey(name)
    return key


def _unreadable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"{path} cannot be read: {_reason(error)}")


def _reason(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if not isinstance(error, PermissionError):
        return reason
    return f"{reason}; the user that runs this must own the file and its folder (`chown`)"
