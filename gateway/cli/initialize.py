"""The work of `init`: create what is missing, look for Ollama, and say what to do next.

Everything that exists stays unchanged, so a run that was interrupted is completed by the next one.
What is to be pasted is written to standard output, everything else to standard error.
"""

import http.client
import shlex
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.auth.keyfile import KeyFileError, create_key, load
from gateway.auth.keys import KeySpec, Scope
from gateway.cli import DONE, FAILED, command_name
from gateway.cli.config import new_config_text
from gateway.files import create_readable_file
from gateway.settings import Address, Loaded, OllamaSettings, config_path, ollama_host
from gateway.settings import load as load_settings

INFERENCE_KEY: Final = "engramia"
DISCOVERY_KEY: Final = "engramia-discovery"
KEYS: Final = (
    KeySpec(name=INFERENCE_KEY, scopes=frozenset({Scope.INFERENCE, Scope.DISCOVERY})),
    KeySpec(name=DISCOVERY_KEY, scopes=frozenset({Scope.DISCOVERY})),
)

PROBE_TIMEOUT: Final = 2.0
"""Seconds without a byte. Ollama lists its models in milliseconds, also while it computes."""

_MAX_BODY: Final = 16 << 20
_TUNNEL_PLACEHOLDER: Final = "<your tunnel>"
_ALL_INTERFACES: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  - recognised, not bound


def initialize(
    *, config: Path | None, tunnel_host: str | None, ollama: str | None, serves: bool
) -> tuple[int, Loaded | None]:
    """Create the config file and the keys, and report it.

    Args:
        config: the config file given with --config.
        tunnel_host: the public host name of the tunnel.
        ollama: the URL of Ollama given with --ollama.
        serves: the gateway is started next, in this process.

    Returns:
        The exit code and, where it is 0, the settings in force.

    Raises:
        SettingsError: the existing config file is wrong.
    """
    path = config_path(config)
    new_config = not _exists(path)
    chosen = _chosen_url(ollama)
    if new_config and (problem := create_config(path, chosen)):
        return _failed(problem), None
    loaded = load_settings(path)
    url, source = loaded.settings.ollama.url, loaded.sources["ollama.url"]
    setting = (
        f"the variable {source.removeprefix('environment ')}"
        if source.startswith("environment ")
        else f"`url` below [ollama] in {path}"
    )
    if ollama not in {None, url}:
        return _failed(f"The settings still point to {url}. To use {ollama}, set {setting}."), None
    # Before the keys are created: an interrupt while this waits must not lose secrets.
    probe = probe_ollama(url, setting=setting)
    report = Report(
        loaded=loaded,
        path=path,
        new_config=new_config,
        chosen=chosen,
        keys=create_keys(loaded.keys_file, datetime.now(UTC)),
        ollama=probe,
        tunnel_host=tunnel_host,
        config=config,
        serves=serves,
    )
    code = report.show()
    return code, loaded if code == DONE else None


# The config file.


@dataclass(frozen=True, slots=True)
class ChosenUrl:
    """The URL of Ollama for a new config file, and what it comes from."""

    url: str
    source: str


def _chosen_url(ollama: str | None) -> ChosenUrl | None:
    """Return the URL that differs from the default, or None: the default stays commented out."""
    if ollama is not None:
        return ChosenUrl(ollama, "--ollama")
    url = ollama_host()
    return None if url is None or url == OllamaSettings().url else ChosenUrl(url, "OLLAMA_HOST")


def _exists(path: Path) -> bool:
    """Return False also if we may not look; creating the file then fails with the reason."""
    try:
        return path.exists()
    except OSError:
        return False


def create_config(path: Path, chosen: ChosenUrl | None = None) -> str | None:
    """Create the config file. Return why it failed and what to do, or None."""
    try:
        create_readable_file(
            path, new_config_text({} if chosen is None else {"ollama.url": chosen.url})
        )
    except OSError as error:
        if error.errno in {ENOSPC, EDQUOT}:
            advice = "Free some space and run this again."
        elif error.errno in {EACCES, EPERM, EROFS}:
            advice = (
                "Run this as a user who may write there, or choose another path with --config FILE."
            )
        else:
            advice = "Choose another path with --config FILE."
        return f"{path} cannot be created: {error.strerror or error}. {advice}"
    return None


# The keys.


@dataclass(frozen=True, slots=True)
class CreatedKeys:
    """The secrets of new keys by name, the names of revoked keys, and why keys may be missing."""

    secrets: Mapping[str, str] = field(repr=False)
    revoked: frozenset[str] = frozenset()
    problem: str | None = None


def create_keys(path: Path, now: datetime) -> CreatedKeys:
    """Create the missing keys.

    A key that was created is returned even if the next one fails: its secret is nowhere else.
    """
    secrets: dict[str, str] = {}
    revoked: frozenset[str] = frozenset()
    try:
        existing = {key.name.casefold(): key for key in load(path)}
        # A revoked key is not created again: it was revoked on purpose.
        revoked = frozenset(name for name, key in existing.items() if key.revoked is not None)
        for spec in KEYS:
            if spec.name not in existing:
                secrets[spec.name] = create_key(path, spec, now)
    except KeyFileError as error:
        return CreatedKeys(secrets, revoked, str(error))
    return CreatedKeys(secrets, revoked)


# Ollama.


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What is at the address of Ollama, and what to do about it; None if nothing."""

    finding: str
    action: str | None = None


class _Tags(msgspec.Struct):
    models: list[msgspec.Raw] | None


def probe_ollama(url: str, *, setting: str) -> ProbeResult:
    """Ask the Ollama at ``url`` for its models; ``setting`` is where the URL can be corrected."""
    try:
        status, body = _get_tags(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # http.client raises ValueError for a chunk of negative size.
        return ProbeResult(
            f"Ollama is not reachable at {url}: {_reason(error)}.",
            f"Start Ollama: `ollama serve`. If it runs elsewhere, correct {setting}.",
        )
    try:
        # Go writes an empty list as null.
        models = len(msgspec.json.decode(body, type=_Tags).models or ()) if status == 200 else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        models = None
    if models is None:
        return ProbeResult(
            f"The server at {url} does not look like Ollama: it has no list of models "
            f"(status {status}).",
            f"If Ollama runs elsewhere, correct {setting}.",
        )
    if models == 0:
        return ProbeResult(
            f"Ollama is reachable at {url} and has no models.",
            "Download a model on the machine of Ollama: ollama pull llama3.2:1b",
        )
    plural = "" if models == 1 else "s"
    return ProbeResult(f"Ollama is reachable at {url} and has {models} model{plural}.")


def _get_tags(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    https = parts.scheme == "https"
    connection_class = http.client.HTTPSConnection if https else http.client.HTTPConnection
    connection = connection_class(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", "/api/tags", headers={"Accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(_MAX_BODY)
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no response in time"
        case ssl.SSLError():
            return "it does not support TLS, or this machine does not trust its certificate"
        case OSError():
            return (error.strerror or str(error)).lower()
        case _:
            return "it does not speak HTTP"


# The report.


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run created and found.

    Args:
        loaded: the settings in force.
        path: the config file.
        new_config: it was created.
        chosen: the URL of Ollama in a new config file, if it is not the default.
        keys: the keys that were created.
        ollama: what is at the address of Ollama.
        tunnel_host: the public host name of the tunnel, if known.
        config: the config file as given with --config; the printed commands repeat it.
        serves: the gateway is started next, in this process.
    """

    loaded: Loaded
    path: Path
    new_config: bool
    chosen: ChosenUrl | None
    keys: CreatedKeys
    ollama: ProbeResult
    tunnel_host: str | None
    config: Path | None
    serves: bool

    def show(self) -> int:
        """Print it. Return the exit code."""
        secrets, problem = self.keys.secrets, self.keys.problem
        if not (self.new_config or secrets or problem):
            _say(self._nothing_new())
            return DONE
        _say(self._created())
        if secrets and not _print_now(self._fields()):
            again = " and ".join(f"`{self._rotate(name)}`" for name in secrets)
            return _failed(f"the new keys could not be shown and are lost. Replace them: {again}")
        if problem is not None:
            return _failed(f"{problem}. Run this again to create what is missing.")
        _say(self._next_steps())
        return DONE

    def _nothing_new(self) -> Iterable[str]:
        yield f"Nothing to do: {self.path} and the keys in {self.loaded.keys_file} already exist."
        if INFERENCE_KEY not in self.keys.revoked:
            yield f"Keys are shown only once. To replace a lost one: {self._rotate(INFERENCE_KEY)}"
        yield from self._revoked()
        yield " ".join(filter(None, (self.ollama.finding, self.ollama.action)))
        yield self._start()

    def _created(self) -> Iterable[str]:
        secrets, revoked = self.keys.secrets, self.keys.revoked
        if self.new_config:
            defaults = "all are at their defaults"
            if self.chosen is not None:
                defaults += (
                    f", except ollama.url, which is {self.chosen.url} ({self.chosen.source})"
                )
            yield f"Created {self.path}. It explains every setting; {defaults}."
        if secrets:
            plural = "s" if len(secrets) > 1 else ""
            yield f"Created the key{plural} {' and '.join(secrets)} in {self.loaded.keys_file}."
        if self.keys.problem is None:
            for spec in KEYS:
                if spec.name not in secrets and spec.name not in revoked:
                    again = self._rotate(spec.name)
                    yield f"The key {spec.name} already exists. To replace a lost one: {again}"
            yield from self._revoked()
            yield self.ollama.finding
        if secrets:
            yield "\nFor Engramia (shown only now):\n"

    def _revoked(self) -> Iterable[str]:
        for spec in KEYS:
            if spec.name in self.keys.revoked:
                scope = ("--scope", "discovery") if spec.name == DISCOVERY_KEY else ()
                create = self._command("keys", "create", spec.name, *scope)
                yield f"The key {spec.name} is revoked. To create a new one: {create}"

    def _fields(self) -> Iterable[str]:
        secrets = self.keys.secrets
        if DISCOVERY_KEY in secrets:
            host = self.tunnel_host or _TUNNEL_PLACEHOLDER
            yield f"Base URL  https://{host}/k/{secrets[DISCOVERY_KEY]}/v1"
        if INFERENCE_KEY in secrets:
            yield f"API key   {secrets[INFERENCE_KEY]}"

    def _next_steps(self) -> Iterable[str]:
        yield ""
        if self.tunnel_host is None and DISCOVERY_KEY in self.keys.secrets:
            yield f"Replace {_TUNNEL_PLACEHOLDER} with the public name of your tunnel."
            yield ""
        yield "Next:"
        for number, (step, *details) in enumerate(self._steps(), 1):
            yield f"  {number}. {step}"
            yield from (f"     {line}" for line in details)
        if self.serves:
            yield ""
            yield self._start()

    def _steps(self) -> Iterable[Sequence[str]]:
        listen = self.loaded.settings.listen
        public = _local(listen.public)
        if self.ollama.action is not None:
            yield (self.ollama.action,)
        if not self.serves:
            yield (self._start(),)
        yield (f"Point your tunnel at http://{public}, and at nothing else.",)
        if INFERENCE_KEY in self.keys.secrets:
            when = "in another terminal" if self.serves else "once the gateway runs"
            yield (
                f"Try it on this machine, {when}:",
                f"curl http://{public}/v1/models \\",
                f"  -H 'Authorization: Bearer {self.keys.secrets[INFERENCE_KEY]}'",
            )
        yield (f"See how it is doing: http://{_local(listen.admin)}/status",)

    def _start(self) -> str:
        if self.serves:
            public = _local(self.loaded.settings.listen.public)
            return f"Starting the gateway at http://{public}. Press Ctrl-C to stop it."
        return f"Start the gateway: {self._command('serve')}"

    def _rotate(self, name: str) -> str:
        return self._command("keys", "rotate", name)

    def _command(self, *words: str) -> str:
        option = () if self.config is None else ("--config", str(self.config))
        return f"{command_name()} {shlex.join((*words, *option))}"


def _local(address: Address) -> str:
    """Return the address at which this machine itself reaches a listener."""
    host = "127.0.0.1" if address.host in _ALL_INTERFACES else address.host
    port = str(address.port) if address.port else "<port>"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _failed(problem: str) -> int:
    print(f"ollama-gateway: {problem}", file=sys.stderr)
    return FAILED


def _print_now(lines: Iterable[str]) -> bool:
    """Return True if the text was written: a full disk or a closed pipe must not hide a loss."""
    try:
        print("\n".join(lines), flush=True)
    except OSError:
        return False
    return True
