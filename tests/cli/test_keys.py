import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.auth.keyfile import load
from gateway.auth.keys import Key, digest_of
from gateway.auth.principal import Scope
from gateway.cli import keys as keys_command
from gateway.cli.key_table import table
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


def test_create_prints_the_key_alone(keys: Command) -> None:
    """On stdout, so that a shell can take it; what it is, on stderr, without it."""
    ended = keys("create", "laptop")

    secret = ended.out.removesuffix("\n")
    assert ended.code == 0
    assert KEY.fullmatch(secret)
    assert keys.key("laptop").digest == digest_of(secret)
    assert not KEY.search(ended.err)
    assert "It is shown this once" in ended.err
    assert "https://laptop:<key>@<your tunnel>/v1" in ended.err
    assert keys.hint("rotate laptop") in ended.err


def test_a_key_without_options(keys: Command) -> None:
    """It may infer and discover with every model here, for ever, and nothing else."""
    keys("create", "laptop")

    key = keys.key("laptop")
    expected = a_key("laptop", created=key.created)
    assert key.principal == expected.principal
    assert key.scopes == {Scope.INFERENCE, Scope.DISCOVERY}
    assert key.expires is None


def test_every_option_reaches_the_key(keys: Command) -> None:
    """And is said on stderr."""
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


def test_a_discovery_key_is_shown_in_the_path(keys: Command) -> None:
    """Only that one: nobody is told to put another there."""
    assert "/k/<key>/v1" in keys("create", "a", "--scope", "discovery").err
    assert "/k/<key>/v1" not in keys("create", "b").err


def test_an_expiry_by_date(keys: Command) -> None:
    """Midnight in UTC, and it says so."""
    ended = keys("create", "n", "--expires", "2999-01-31")

    assert keys.key("n").expires == datetime(2999, 1, 31, tzinfo=UTC)
    assert "expires  2999-01-31 00:00 UTC" in ended.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["n", "--expires", "2020-01-01"], "--expires must be in the future"),
        (["n", "--expires", "0"], "--expires must be in the future"),
        (["n", "--expires", "soon"], "'soon' must be a duration such as 12h or 90d, or a date"),
        (["n", "--scope", "root"], "'root' must be out of discovery, inference, admin"),
        (["n", "--scope", ","], "',' must be out of"),
        (["n", "--rpm", "0"], "key n: rpm must be a whole number from 1 to 1000000, not 0"),
        (["n", "--rpm", "many"], "invalid int value: 'many'"),
        (["n", "--weight", "nan"], "key n: weight must be a number from 0.01 to 100"),
        (["n", "--class", "bulk"], "invalid choice: 'bulk'"),
        (["n", "--models", "a b"], "key n: models must hold model names"),
        (["a b"], "'a b' cannot name a key: a name is 1 to 64 characters out of"),
        ([], "the following arguments are required: NAME"),
    ],
)
def test_wrong_usage_of_create(keys: Command, words: list[str], expected: str) -> None:
    """Exit code 2, a line that says what is allowed, and no file."""
    ended = keys("create", *words)

    assert (ended.code, ended.out) == (2, "")
    assert expected in ended.err
    assert not keys.file.exists()


@pytest.mark.parametrize("name", ["laptop", "LAPTOP"])
def test_a_name_that_is_taken(keys: Command, name: str) -> None:
    """Exit code 1, and the command that does what was probably meant."""
    keys("create", "laptop")

    ended = keys("create", name)

    assert (ended.code, ended.out) == (1, "")
    expected = f"there is a key laptop already; {keys.hint('rotate laptop')} gives it a new secret"
    assert ended.err == f"ollama-gateway: {expected}\n"


def test_rotate_prints_the_new_key_alone(keys: Command) -> None:
    """The old one ends at once unless it is told otherwise."""
    old = keys("create", "laptop", "--rpm", "7").out.strip()

    ended = keys("rotate", "Laptop")

    secret = ended.out.removesuffix("\n")
    assert ended.code == 0
    assert KEY.fullmatch(secret)
    assert secret != old
    assert (keys.key("laptop").digest, keys.key("laptop").rpm) == (digest_of(secret), 7)
    assert "The old one is refused from now on." in ended.err
    assert keys.key("laptop").overlap_end(datetime.now(UTC)) is None


def test_rotate_with_an_overlap(keys: Command) -> None:
    """It says until when the old one is valid, and for how long the new one is."""
    keys("create", "laptop", "--expires", "90d")

    ended = keys("rotate", "laptop", "--overlap", "24h")

    key = keys.key("laptop")
    assert key.previous[0].until == key.created + timedelta(hours=24)
    assert key.expires == key.created + 90 * DAY
    assert re.search(r"The old one is valid until \d{4}-\d\d-\d\d \d\d:\d\d UTC\.", ended.err)
    assert "The new one has the lifetime of the old: until " in ended.err


def test_revoke(keys: Command) -> None:
    """It prints nothing on stdout, and can be repeated."""
    keys("create", "laptop")

    ended = keys("revoke", "laptop")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err.startswith("The key laptop is revoked. ")
    assert keys.key("laptop").revoked is not None
    assert keys("revoke", "laptop").code == 0


def test_a_revoked_key_cannot_be_rotated_but_made_anew(keys: Command) -> None:
    """The error says how."""
    keys("create", "laptop")
    keys("revoke", "laptop")

    ended = keys("rotate", "laptop")
    assert (ended.code, ended.out) == (1, "")
    assert f"{keys.hint('create laptop')} makes a new one of that name" in ended.err

    assert keys("create", "laptop").code == 0
    assert keys.key("laptop").revoked is None


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_a_name_that_is_not_there(keys: Command, command: str) -> None:
    """Exit code 1, and where to look."""
    ended = keys(command, "laptop")

    assert (ended.code, ended.out) == (1, "")
    expected = f"there is no key laptop; {keys.hint('list')} shows those there are"
    assert ended.err == f"ollama-gateway: {expected}\n"


def test_list_shows_keys_but_no_secret(keys: Command) -> None:
    """Neither key nor digest, old or new."""
    secret = keys("create", "laptop", "--rpm", "60").out.strip()
    keys("create", "phone", "--scope", "discovery", "--models", "llama*")
    new = keys("rotate", "laptop", "--overlap", "24h").out.strip()

    for ended in (keys("list"), keys("list", "--json")):
        assert ended.code == 0
        assert "laptop" in ended.out
        assert "60" in ended.out
        for text in (secret, new, digest_of(secret), digest_of(new)):
            assert text not in ended.out + ended.err


def test_the_table() -> None:
    """One line each, and what each state means."""
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
        ["moved", both, "*", "-", "2030-01-31", "active, old one until 2030-02-01 12:00 UTC"],
    ]
    states = ("STATE", "expired", "revoked", "active", "active")
    assert len({line.index(state) for line, state in zip(lines, states, strict=True)}) == 1


def test_list_as_json(keys: Command) -> None:
    """Every field is there, and times are ISO 8601 in UTC."""
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


def test_list_without_keys(keys: Command) -> None:
    """Done, and what to do next; for a program it is an empty list."""
    ended = keys("list")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"{keys.file} has no key yet. {keys.hint('create NAME')} makes one.\n"
    assert json.loads(keys("list", "--json").out) == []


@pytest.mark.parametrize(
    "words", [["create", "n"], ["list"], ["list", "--json"], ["rotate", "n"], ["revoke", "n"]]
)
def test_a_broken_file_is_refused_and_left(keys: Command, words: list[str]) -> None:
    """Exit code 1, one line that names the place, and no key that nobody stored."""
    keys.file.write_text("[keys.n\n")

    ended = keys(*words)

    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(
        rf"ollama-gateway: {re.escape(str(keys.file))}: not valid TOML: .*line 1.*\n", ended.err
    )
    assert keys.file.read_text() == "[keys.n\n"


@pytest.mark.parametrize("words", [["create", "m"], ["list"], ["rotate", "n"], ["revoke", "n"]])
def test_a_file_that_others_can_read_is_warned_about(keys: Command, words: list[str]) -> None:
    """By every command, and the mode is left as the owner has it."""
    keys("create", "n")
    keys.file.chmod(0o644)

    ended = keys(*words)

    assert ended.code == 0
    assert f"warning: {keys.file} has mode 0644: others can reach it" in ended.err
    assert keys.file.stat().st_mode & 0o777 == 0o644


def test_wrong_settings_are_the_callers_to_report(keys: Command) -> None:
    """They reach the program's end, which prints them and exits with 2 for all commands."""
    keys.config.write_text("nonsense = 1\n")

    with pytest.raises(SettingsError):
        keys("list")


def test_the_keys_file_is_where_the_settings_say(keys: Command, tmp_path: Path) -> None:
    """Beside the config file unless that says otherwise."""
    keys.config.write_text(f'[keys]\nfile = "{tmp_path}/elsewhere/k.toml"\n')

    keys("create", "n")

    assert [key.name for key in load(tmp_path / "elsewhere" / "k.toml")] == ["n"]


def test_keys_alone_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says which commands there are."""
    parser = argparse.ArgumentParser(prog="ollama-gateway")
    keys_command.register(parser.add_subparsers())

    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["keys"])

    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
