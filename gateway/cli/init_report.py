"""What `init` says. What is to be pasted goes to standard output, everything else beside it."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.program import command_name

if TYPE_CHECKING:
    from gateway.cli.init_ollama import Sight
    from gateway.settings import Address

INFERENCE_KEY: Final = "engramia"
DISCOVERY_KEY: Final = "engramia-discovery"
PLACEHOLDER: Final = "<your tunnel>"

_BOTH: Final = frozenset({INFERENCE_KEY, DISCOVERY_KEY})

_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  - recognised, not bound to


def failed(problem: str) -> int:
    print(f"ollama-gateway: {problem}", file=sys.stderr)
    return 1


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of new keys by name, the names of revoked ones, and why some may be missing."""

    secrets: Mapping[str, str] = field(repr=False)
    revoked: frozenset[str] = frozenset()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run made and found; ``asked_for`` is the config file as the command line named it.

    ``chosen`` says which setting of a new config file is not at its default, and why. ``serves``:
    the gateway is started next, in this very process.
    """

    config: Path
    new_config: bool
    chosen: str | None
    keys_file: Path
    keys: Keys
    public: "Address"
    admin: "Address"
    ollama: "Sight"
    tunnel_host: str
    asked_for: Path | None
    serves: bool

    def show(self) -> int:
        """Print it; return the exit code."""
        secrets, problem = self.keys.secrets, self.keys.problem
        if not (self.new_config or secrets or problem):
            _say(self._nothing_new())
            return 0
        _say(self._made())
        if secrets and not _print_once(self._fields()):
            again = " and ".join(f"`{self._rotate(name)}`" for name in secrets)
            return failed(f"the new keys could not be shown and are lost; have others: {again}")
        if problem is not None:
            return failed(f"{problem}. What is missing is made when this is run again.")
        _say(self._next_steps())
        return 0

    def _nothing_new(self) -> Iterable[str]:
        yield f"Nothing to make: {self.config} and the keys in {self.keys_file} are there."
        if INFERENCE_KEY not in self.keys.revoked:
            yield f"Keys are shown once. Instead of a lost one: {self._rotate(INFERENCE_KEY)}"
        yield from self._revoked()
        yield " ".join(filter(None, (self.ollama.found, self.ollama.missing)))
        yield self._starting()

    def _revoked(self) -> Iterable[str]:
        for name in sorted(_BOTH & self.keys.revoked):
            yield f"The key {name} is revoked. A new one: {self._create(name)}"

    def _made(self) -> Iterable[str]:
        secrets = self.keys.secrets
        if self.new_config:
            but = "" if self.chosen is None else f" but for {self.chosen}"
            yield f"Made {self.config}: every setting is explained there, and at its default{but}."
        if secrets:
            plural = "s" if len(secrets) > 1 else ""
            yield f"Made the key{plural} {' and '.join(secrets)} in {self.keys_file}."
        if self.keys.problem is None:
            for name in sorted(_BOTH - self.keys.revoked - secrets.keys()):
                yield f"The key {name} is there. Instead of a lost one: {self._rotate(name)}"
            yield from self._revoked()
            yield self.ollama.found
        if secrets:
            yield "\nFor Engramia, shown this once:\n"

    def _fields(self) -> Iterable[str]:
        if DISCOVERY_KEY in self.keys.secrets:
            yield f"Base URL  https://{self.tunnel_host}/k/{self.keys.secrets[DISCOVERY_KEY]}/v1"
        if INFERENCE_KEY in self.keys.secrets:
            yield f"API key   {self.keys.secrets[INFERENCE_KEY]}"

    def _next_steps(self) -> Iterable[str]:
        yield ""
        if self.tunnel_host == PLACEHOLDER and DISCOVERY_KEY in self.keys.secrets:
            yield f"Put the public name of your tunnel in the place of {PLACEHOLDER}."
            yield ""
        yield "Next:"
        for number, (step, *details) in enumerate(self._steps(), 1):
            yield f"  {number}. {step}"
            yield from (f"     {line}" for line in details)
        if self.serves:
            yield ""
            yield self._starting()

    def _steps(self) -> Iterable[Sequence[str]]:
        here = _reachable(self.public)
        if self.ollama.missing is not None:
            yield (self.ollama.missing,)
        if not self.serves:
            yield (self._starting(),)
        yield (f"Point your tunnel at http://{here}, and at nothing else.",)
        if INFERENCE_KEY in self.keys.secrets:
            when = "in another terminal" if self.serves else "once it runs"
            yield (
                f"Try it on this machine, {when}:",
                f"curl http://{here}/v1/models \\",
                f"  -H 'Authorization: Bearer {self.keys.secrets[INFERENCE_KEY]}'",
            )
        yield (f"See how it does: http://{_reachable(self.admin)}/status",)

    def _starting(self) -> str:
        if self.serves:
            return f"The gateway starts now, at http://{_reachable(self.public)}. Ctrl-C ends it."
        return f"Start the gateway: {self._command('serve')}"

    def _create(self, name: str) -> str:
        scope = ("--scope", "discovery") if name == DISCOVERY_KEY else ()
        return self._command("keys", "create", name, *scope)

    def _rotate(self, name: str) -> str:
        return self._command("keys", "rotate", name)

    def _command(self, *words: str) -> str:
        option = () if self.asked_for is None else ("--config", str(self.asked_for))
        return f"{command_name()} {shlex.join((*words, *option))}"


def _reachable(address: "Address") -> str:
    """How this machine itself gets there."""
    host = "127.0.0.1" if address.host in _EVERYWHERE else address.host
    port = str(address.port) if address.port else "<port>"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _print_once(lines: Iterable[str]) -> bool:
    """Whether it got out: a full disk or a reader who left must not lose a key in silence."""
    try:
        print("\n".join(lines), flush=True)
    except OSError:
        return False
    return True
