import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.auth.keyfile import load
from gateway.auth.keys import Key, Scope, digest_of
from gateway.cli import keys as keys_command
from gateway.cli.keys import table
from gateway.settings import SettingsError
from tests.auth.fakes import DAY, NOW, a_key

KEY = re.compile(r"ogw_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


class Command:
    """`ollama-gateway keys …` with the settings of a folder of its own."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "gateway.toml"
        self.file = folder / "keys.toml"
        self._capture = capture
        self.config.touch()

    def __call__(self, *words: str) -> Ended:
        parser = argparse.ArgumentParser(prog="ollama-gateway")
        keys_command.register(parser.add_subparsers())
        try:
            arguments = parser.parse_args(["keys", *words, "--config", str(self.config)])
            run: Callable[[argparse.Namespace], int] = arguments.run
            code = run(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = self._capture.readouterr()
        return Ended(code, said.out, said.err)

    def key(self, name: str) -> Key:
        return next(key for key in load(self.file) if key.name == name)

    def hint(self, words: str) -> str:
        return f"`ollama-gateway keys {words} --config {self.config}`"


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_create_prints_only_the_key_to_stdout(keys: Command) -> None:
    """So that a shell can capture it; everything about it goes to stderr."""
    ended = keys("create", "laptop")

    secret = ended.out.removesuffix("\n")
    assert ended.code == 0
    assert KEY.fullmatch(secret)
    assert keys.key("laptop").digest == digest_of(secret)
    assert not KEY.search(ended.err)
    assert "Created key laptop. It is shown only once; only its digest is stored.\n" in ended.err
    assert "https://laptop:<key>@<your tunnel>/v1" in ended.err
    assert keys.hint("rotate laptop") in ended.err


def test_a_key_without_options_has_the_defaults(keys: Command) -> None:
    keys("create", "laptop")

    key = keys.key("laptop")
    expected = a_key("laptop", created=key.created)
    assert key.principal == expected.principal
    assert key.scopes == {Scope.INFERENCE, Scope.DISCOVERY}
    assert key.expires is None


def test_every_option_reaches_the_key(keys: Command) -> None:
    ended = keys(
        *("create", "n", "--scope", "admin,Inference", "--scope", "discovery"),
        *("--models", "llama*", "qwen*:7b", "--models", "phi4", "--cloud", "gpt-oss*"),
        *("--rpm", "60", "--max-active", "2", "--weight", "2.5", "--tune", "--expires", "90d"),
        *("--class", "batch"),
    )

    key = keys.key("n")
    assert ended.code == 0
    assert key.scopes == set(Scope)
    assert (key.models, key.cloud) == (("llama*", "qwen*:7b", "phi4"), ("gpt-oss*",))
    assert (key.rpm, key.max_active, key.weight, key.tune) == (60, 2, 2.5, True)
    assert key.batch
    assert key.expires == key.created + 90 * DAY
    assert "  models   llama* qwen*:7b phi4\n" in ended.err
    assert "60 per minute, 2 at once, may tune, cloud gpt-oss*, weight 2.5, batch" in ended.err


def test_only_a_discovery_only_key_is_shown_in_the_path(keys: Command) -> None:
    assert "/k/<key>/v1" in keys("create", "a", "--scope", "discovery").err
    assert "/k/<key>/v1" not in keys("create", "b").err


def test_an_expiry_date_means_midnight_utc(keys: Command) -> None:
    ended = keys("create", "n", "--expires", "2999-01-31")

    assert keys.key("n").expires == datetime(2999, 1, 31, tzinfo=UTC)
    assert "expires  2999-01-31 00:00 UTC" in ended.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["n", "--expires", "2020-01-01"], "--expires must be in the future"),
        (["n", "--expires", "0"], "--expires must be in the future"),
        (["n", "--expires", "soon"], "'soon' must be a duration such as 12h or 90d, or a date"),
        (["n", "--scope", "root"], "'root' must be one or more of discovery, inference, admin"),
        (["n", "--scope", ","], "',' must be one or more of"),
        (["n", "--rpm", "0"], "key n: rpm must be a whole number from 1 to 1000000, not 0"),
        (["n", "--rpm", "many"], "invalid int value: 'many'"),
        (["n", "--weight", "nan"], "key n: weight must be a number from 0.01 to 100"),
        (["n", "--class", "bulk"], "invalid choice: 'bulk'"),
        (["n", "--models", "a b"], "key n: models must be a list of one or more model names"),
        (["a b"], "'a b' is not a valid name for a key: use 1 to 64 characters from"),
        ([], "the following arguments are required: NAME"),
    ],
)
def test_wrong_usage_of_create_creates_no_file(
    keys: Command, words: list[str], expected: str
) -> None:
    ended = keys("create", *words)

    assert (ended.code, ended.out) == (2, "")
    assert expected in ended.err
    assert not keys.file.exists()


@pytest.mark.parametrize("name", ["laptop", "LAPTOP"])
def test_a_name_in_use_is_refused_with_the_command_to_rotate(keys: Command, name: str) -> None:
    keys("create", "laptop")

    ended = keys("create", name)

    assert (ended.code, ended.out) == (1, "")
    expected = f"the key laptop already exists; {keys.hint('rotate laptop')} gives it a new secret"
    assert ended.err == f"ollama-gateway: {expected}\n"


def test_rotate_prints_only_the_new_key_and_ends_the_old_one(keys: Command) -> None:
    old = keys("create", "laptop", "--rpm", "7").out.strip()

    ended = keys("rotate", "Laptop")

    secret = ended.out.removesuffix("\n")
    assert ended.code == 0
    assert KEY.fullmatch(secret)
    assert secret != old
    assert (keys.key("laptop").digest, keys.key("laptop").rpm) == (digest_of(secret), 7)
    assert "The old secret is refused from now on." in ended.err
    assert keys.key("laptop").overlap_end(datetime.now(UTC)) is None


def test_rotate_with_an_overlap_says_until_when_both_are_valid(keys: Command) -> None:
    keys("create", "laptop", "--expires", "90d")

    ended = keys("rotate", "laptop", "--overlap", "24h")

    key = keys.key("laptop")
    assert key.previous[0].until == key.created + timedelta(hours=24)
    assert key.expires == key.created + 90 * DAY
    assert re.search(r"The old secret is valid until \d{4}-\d\d-\d\d \d\d:\d\d UTC\.", ended.err)
    assert "The new one has the same lifetime: it expires " in ended.err


def test_revoke_prints_nothing_to_stdout_and_can_be_repeated(keys: Command) -> None:
    keys("create", "laptop")

    ended = keys("revoke", "laptop")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err.startswith("Revoked key laptop. ")
    assert keys.key("laptop").revoked is not None
    assert keys("revoke", "laptop").code == 0


def test_a_revoked_key_cannot_be_rotated_but_created_again(keys: Command) -> None:
    keys("create", "laptop")
    keys("revoke", "laptop")

    ended = keys("rotate", "laptop")
    assert (ended.code, ended.out) == (1, "")
    assert f"{keys.hint('create laptop')} creates a new one of that name" in ended.err

    assert keys("create", "laptop").code == 0
    assert keys.key("laptop").revoked is None


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_an_unknown_name_is_refused_with_the_command_to_list(keys: Command, command: str) -> None:
    ended = keys(command, "laptop")

    assert (ended.code, ended.out) == (1, "")
    expected = f"there is no key laptop; {keys.hint('list')} lists the keys"
    assert ended.err == f"ollama-gateway: {expected}\n"


def test_list_shows_neither_keys_nor_digests(keys: Command) -> None:
    secret = keys("create", "laptop", "--rpm", "60").out.strip()
    keys("create", "phone", "--scope", "discovery", "--models", "llama*")
    new = keys("rotate", "laptop", "--overlap", "24h").out.strip()

    for ended in (keys("list"), keys("list", "--json")):
        assert ended.code == 0
        assert "laptop" in ended.out
        assert "60" in ended.out
        for text in (secret, new, digest_of(secret), digest_of(new)):
            assert text not in ended.out + ended.err


def test_the_table_has_a_line_for_each_key() -> None:
    old = a_key("old", expires=NOW - DAY, models=("llama*", "phi4"))
    gone = a_key("gone", revoked=NOW, scopes=frozenset({Scope.ADMIN}))
    young = a_key("young", expires=NOW + DAY, rpm=60, max_active=2)
    moved = a_key("moved").rotated(digest=digest_of("x"), now=NOW, overlap=DAY)

    lines = table([old, gone, young, moved], NOW).splitlines()

    both = "discovery,inference"
    assert [re.split(r" {2,}", line) for line in lines] == [
        ["NAME", "SCOPES", "MODELS", "LIMITS", "CREATED", "STATE"],
        ["old", both, "llama* phi4", "-", "2030-01-30", "expired 2030-01-30 12:00 UTC"],
        ["gone", "admin", "*", "-", "2030-01-30", "revoked 2030-01-31 12:00 UTC"],
        [
            *("young", both, "*", "60 per minute, 2 at once", "2030-01-30"),
            "active, expires 2030-02-01 12:00 UTC",
        ],
        ["moved", both, "*", "-", "2030-01-31", "active, old secret until 2030-02-01 12:00 UTC"],
    ]
    states = ("STATE", "expired", "revoked", "active", "active")
    assert len({line.index(state) for line, state in zip(lines, states, strict=True)}) == 1


def test_list_as_json_has_every_field(keys: Command) -> None:
    keys("create", "laptop", "--rpm", "60", "--expires", "2999-01-31")

    (entry,) = json.loads(keys("list", "--json").out)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.pop("created"))
    assert entry == {
        "name": "laptop",
        "state": "active",
        "scopes": ["discovery", "inference"],
        "models": ["*"],
        "cloud": [],
        "tune": False,
        "rpm": 60,
        "max_active": None,
        "weight": 1.0,
        "class": "interactive",
        "expires": "2999-01-31T00:00:00Z",
        "revoked": None,
        "overlap_until": None,
    }


def test_list_without_keys_says_how_to_create_one(keys: Command) -> None:
    """For a program it is an empty list."""
    ended = keys("list")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"{keys.file} has no keys yet. {keys.hint('create NAME')} creates one.\n"
    assert json.loads(keys("list", "--json").out) == []


@pytest.mark.parametrize(
    "words", [["create", "n"], ["list"], ["list", "--json"], ["rotate", "n"], ["revoke", "n"]]
)
def test_a_broken_file_is_refused_and_left_unchanged(keys: Command, words: list[str]) -> None:
    keys.file.write_text("[keys.n\n")

    ended = keys(*words)

    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(
        rf"ollama-gateway: {re.escape(str(keys.file))}: not valid TOML: .*line 1.*\n", ended.err
    )
    assert keys.file.read_text() == "[keys.n\n"


@pytest.mark.parametrize("words", [["create", "m"], ["list"], ["rotate", "n"], ["revoke", "n"]])
def test_every_command_warns_about_a_file_that_other_users_can_access(
    keys: Command, words: list[str]
) -> None:
    keys("create", "n")
    keys.file.chmod(0o644)

    ended = keys(*words)

    assert ended.code == 0
    assert f"warning: {keys.file} has mode 0644: other users can access it" in ended.err
    assert keys.file.stat().st_mode & 0o777 == 0o644


def test_wrong_settings_are_raised(keys: Command) -> None:
    keys.config.write_text("nonsense = 1\n")

    with pytest.raises(SettingsError):
        keys("list")


def test_the_settings_name_the_keys_file(keys: Command, tmp_path: Path) -> None:
    keys.config.write_text(f'[keys]\nfile = "{tmp_path}/elsewhere/k.toml"\n')

    keys("create", "n")

    assert [key.name for key in load(tmp_path / "elsewhere" / "k.toml")] == ["n"]


def test_keys_without_a_command_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser(prog="ollama-gateway")
    keys_command.register(parser.add_subparsers())

    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["keys"])

    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
