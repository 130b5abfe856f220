"""The image: small, pinned, without root and without secrets."""

import asyncio
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from gateway.settings import config_path, load
from tests.deploy.paths import ROOT, dockerfile, text

INSTRUCTIONS = dockerfile()
LAST = max(instruction.stage for instruction in INSTRUCTIONS)
FINAL = [instruction for instruction in INSTRUCTIONS if instruction.stage == LAST]


def _of(word: str) -> str:
    (found,) = [instruction.rest for instruction in FINAL if instruction.word == word]
    return found


def _environ() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in _of("ENV").split())


def _health_command() -> list[str]:
    words: list[str] = json.loads(_of("HEALTHCHECK").partition("CMD ")[2])
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


def test_every_stage_starts_from_a_pinned_official_python() -> None:
    """Neither a moving tag nor a third-party image of that name."""
    images = [each.rest.split()[0] for each in INSTRUCTIONS if each.word == "FROM"]

    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+", image) for image in images)
    assert len(images) == 2
    assert len(set(images)) == 1


def test_image_runs_as_a_numeric_non_root_user() -> None:
    """Said before what it runs; a number, for engines refuse names where root is forbidden."""
    words = [instruction.word for instruction in FINAL]

    user, group = _of("USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert words.index("USER") < words.index("ENTRYPOINT")


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD", "VOLUME"])
def test_image_starts_the_program_without_a_shell(word: str) -> None:
    """A shell would get the signal to stop, and keep it to itself."""
    assert isinstance(json.loads(_of(word)), list)


def test_image_runs_serve_by_default() -> None:
    """`docker run IMAGE init` runs another command; `docker stop` asks politely."""
    assert json.loads(_of("ENTRYPOINT")) == ["ollama-gateway"]
    assert json.loads(_of("CMD")) == ["serve"]
    assert _of("STOPSIGNAL") == "SIGTERM"


def test_image_installs_only_locked_packages() -> None:
    """No ADD (it fetches addresses), no other index, and every package by its hash."""
    content = text(ROOT / "Dockerfile")

    assert "ADD" not in {instruction.word for instruction in INSTRUCTIONS}
    assert re.search(r"https?://(?!127\.)|index-url|INDEX_URL|trusted-host", content) is None
    installs = re.findall(r"pip [^&]*install [^&]*", "\n".join(i.rest for i in INSTRUCTIONS))
    assert installs
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


def test_image_contains_no_secret() -> None:
    """What stands in ARG and ENV can be read in every copy of the image."""
    assert "ARG" not in {instruction.word for instruction in INSTRUCTIONS}
    assert not [name for name in _environ() if re.search("KEY|TOKEN|SECRET|PASSW", name)]


def test_build_context_contains_the_complete_package() -> None:
    """What pyproject.toml names is copied, and what is copied gets past .dockerignore."""
    project = tomllib.loads(text(ROOT / "pyproject.toml"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        *wheel["packages"],
        *(Path(source).parts[0] for source in wheel["force-include"]),
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    copied = {
        source
        for instruction in INSTRUCTIONS
        if instruction.word == "COPY" and instruction.stage < LAST
        for source in instruction.rest.split()[:-1]
    }
    ignored, *lines = [
        line for line in text(ROOT / ".dockerignore").splitlines() if line and line[0] != "#"
    ]
    let_through = {line[1:].partition("/")[0] for line in lines if line.startswith("!")}

    assert needed <= copied
    assert ignored == "*"
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_image_environment_contains_valid_settings() -> None:
    """Open inside the container, the admin listener to itself alone; config in the volume."""
    environ = _environ()
    listen = load(environ=environ).settings.listen

    assert str(listen.public) == "0.0.0.0:11435"
    assert str(listen.admin) == "127.0.0.1:11436"
    assert _of("EXPOSE") == str(listen.public.port)
    (volume,) = json.loads(_of("VOLUME"))
    assert config_path(environ=environ).is_relative_to(volume)


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Service Unavailable", 1)])
async def test_health_check_passes_while_the_gateway_runs(status: str, code: int) -> None:
    """It asks the admin listener, wherever that is, past any proxy of the environment."""
    seen_request = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen_request.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environ = {
            "GATEWAY_LISTEN__ADMIN": f"127.0.0.1:{port}",
            "http_proxy": "http://127.0.0.1:1",
        }
        check = await asyncio.create_subprocess_exec(*_health_command(), env=environ)
        result = await check.wait()

    assert result == code
    assert seen_request == [b"GET /healthz HTTP/1.1"]


async def test_health_check_fails_without_a_listener(unused_tcp_port: int) -> None:
    """A gateway that hangs or is gone is not healthy."""
    check = await asyncio.create_subprocess_exec(
        *_health_command(),
        env={"GATEWAY_LISTEN__ADMIN": f"127.0.0.1:{unused_tcp_port}"},
        stderr=asyncio.subprocess.DEVNULL,
    )

    assert await check.wait() != 0
