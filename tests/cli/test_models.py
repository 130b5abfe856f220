"""`ollama-gateway models` as it is called, beside a real gateway."""

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.auth.keys import Scope
from gateway.cli import main
from gateway.cli.admin_client import AdminFailed, read_key
from gateway.simulator import SimulatedModel, Simulator
from tests.admin.fakes import model_stats
from tests.harness import Running, running

CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True, slots=True)
class Output:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Command:
    """Runs `models` as its own process, with a config file that names the admin listener."""

    config: Path

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import sys; from gateway.cli import main; sys.exit(main())"),
            *("models", "--config", str(self.config), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        return Output(process.returncode or 0, out.decode(), err.decode())


def command_for(folder: Path, admin: str) -> Command:
    config = folder / "gateway.toml"
    config.write_text(f'[listen]\nadmin = "{admin}"\npublic = "127.0.0.1:1"\n')
    return Command(config)


@pytest.fixture
async def models(gateway: Running, tmp_path: Path) -> Command:
    await gateway.gateway.host.catalog.get(max_age=0.0)
    return command_for(tmp_path, str(gateway.serving.admin))


@asynccontextmanager
async def server_with(reply: bytes) -> AsyncIterator[str]:
    """A server that sends every client the same bytes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_each_model_has_a_line(models: Command) -> None:
    """The age of the list goes to stderr."""
    output = await models()
    headings, *lines = output.out.splitlines()

    assert output.code == 0
    assert headings.split("  ")[0] == "MODEL"
    why = "timeouts.ceiling: heartbeats keep the connection open; first byte: 1.2B parameters"
    assert f"llama3.2:1b 1.2B 1.3 GB no - - 30 min 60 s 1 - {why}" in {
        " ".join(line.split()) for line in lines
    }
    assert output.err.startswith(f"{len(lines)} models, as Ollama listed them ")
    assert output.err.count("\n") == 1


async def test_truncated_prompts_come_with_a_remedy(gateway: Running, models: Command) -> None:
    """On stderr, below the table: what to type on Ollama's machine."""
    messages = [{"role": "user", "content": "water " * 3000}]
    async with httpx.AsyncClient(base_url=gateway.url, headers=gateway.bearer) as client:
        await client.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    output = await models()
    (line,) = output.err.splitlines()[1:]

    assert line.startswith("llama3.2:1b: 1 prompt truncated and 0 rejected because ")
    assert "`ollama create llama3.2:1b-8k -f Modelfile`" in line
    assert re.search(r"^llama3\.2:1b .* 1  +4,096 ", output.out, re.MULTILINE)


async def test_refresh_shows_what_was_pulled_a_moment_ago(sim: Simulator, models: Command) -> None:
    """Without it the list may be as old as `catalog.ttl`."""
    sim.pull(SimulatedModel("brandnew:1b", "1.0B", 700_000_000))
    before, after = await models(), await models("--refresh")

    assert (before.code, after.code) == (0, 0)
    assert "brandnew:1b" not in before.out
    assert "brandnew:1b" in after.out
    assert "listed them 0 s ago" in after.err


async def test_refresh_fails_if_ollama_does_not_respond(sim: Simulator, models: Command) -> None:
    """The last list is shown anyway."""
    await sim.stop()
    output = await models("--refresh")

    assert output.code == 1
    assert "llama3.2:1b" in output.out
    assert f"It does not respond at {sim.url} now." in output.err
    assert f"ollama-gateway: Ollama does not respond at {sim.url}" in output.err


async def test_json_has_every_field_of_the_models(models: Command) -> None:
    output = await models("--json")
    content = json.loads(output.out)

    assert (output.code, output.err) == (0, "")
    assert content["ollama"]["up"] is True
    small = next(model for model in content["models"] if model["name"] == "llama3.2:1b")
    assert (small["timeouts"]["total"]["seconds"], small["max_active"]) == (1800, 1)
    assert (small["resident"], small["loaded"]) == (False, False)
    assert small["statistics"]["service"]["count"] == 0
    assert small["timeouts"]["first_byte"]["reason"] == "1.2B parameters"


async def test_statistics_of_earlier_requests_are_shown(gateway: Running, models: Command) -> None:
    """Whether the model is loaded, its load time, its speed."""
    gateway.gateway.host.statistics.restore({"llama3.2:1b": model_stats()})
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        response = await client.post("/v1/chat/completions", json=CHAT, headers=gateway.bearer)
    await gateway.finished()
    content = json.loads((await models("--json")).out)
    small = next(model for model in content["models"] if model["name"] == "llama3.2:1b")
    line = next(line for line in (await models()).out.splitlines() if "llama3.2:1b" in line)

    assert response.status_code == 200
    assert (small["resident"], small["loaded"]) == (True, True)
    assert small["statistics"]["service"]["count"] == model_stats().service.count + 1
    assert re.split(r" {2,}", line)[3:6] == ["yes", "8.0 s", "48"]


async def test_without_a_gateway_one_line_says_what_to_do(tmp_path: Path) -> None:
    """The address, the setting it comes from, the command that starts a gateway."""
    port = free_port()
    output = await command_for(tmp_path, f"127.0.0.1:{port}")()

    assert (output.code, output.out) == (1, "")
    assert output.err.count("\n") == 1
    place = f"127.0.0.1:{port} (listen.admin, file {tmp_path / 'gateway.toml'})"
    assert f"no gateway responds at {place}: connection refused" in output.err
    assert f"ollama-gateway serve --config {tmp_path / 'gateway.toml'}" in output.err


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"\xff"',
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    ],
)
async def test_another_server_is_content_from_a_gateway(tmp_path: Path, reply: bytes) -> None:
    """Another program may have the port."""
    async with server_with(reply) as address:
        output = await command_for(tmp_path, address)()

    assert (output.code, output.out) == (1, "")
    assert f"the server at {address} " in output.err
    assert "is not the admin listener" in output.err


async def test_an_error_of_the_gateway_is_shown(tmp_path: Path) -> None:
    """Without its control characters."""
    body = b'{"error":{"message":"The page \\u001b[2J failed.","code":"internal_error"}}'
    head = b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with server_with(head + body) as address:
        output = await command_for(tmp_path, address)()

    assert output.code == 1
    assert "The page ?[2J failed." in output.err


async def test_off_loopback_a_key_comes_from_a_file_or_stdin(
    sim: Simulator, tmp_path: Path
) -> None:
    """The error names the option. 0.0.0.0 is reached on loopback."""
    async with running(sim.url, tmp_path, listen={"admin": "0.0.0.0:0"}) as gateway:
        await gateway.gateway.host.catalog.get(max_age=0.0)
        secret = gateway.new_key("owner", scopes=frozenset({Scope.ADMIN}))
        file = tmp_path / "owner.key"
        file.write_text(f"{secret}\n")
        models = command_for(tmp_path, f"0.0.0.0:{gateway.serving.admin.port}")
        without = await models()
        wrong = await models("--key-file", "-", stdin=gateway.key.encode())
        by_file = await models("--key-file", str(file))
        by_stdin = await models("--key-file", "-", stdin=secret.encode())

    assert (without.code, wrong.code, by_file.code, by_stdin.code) == (1, 1, 0, 0)
    assert "--key-file FILE" in without.err
    assert "keys create NAME --scope admin" in without.err
    assert "scope admin" in wrong.err
    assert "llama3.2:1b" in by_file.out
    assert secret not in by_file.out + by_file.err + without.err


def test_port_0_cannot_be_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings do not say which port the system chose."""
    code = main(["models", "--config", str(command_for(tmp_path, "127.0.0.1:0").config)])

    assert code == 1
    assert "listen.admin has port 0" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"two keys", b"ogw_short\nogw_other", b"\xff\xfe\x00"])
def test_a_file_without_a_key_is_rejected_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    """It may hold another secret."""
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(AdminFailed) as caught:
        read_key(str(file))

    assert str(caught.value) == f"--key-file: {file} must hold one key and nothing else"


def test_a_missing_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdminFailed, match="no such file"):
        read_key(str(tmp_path / "nothing"))
