"""The compose files: what is reachable from where, and who stops before whom."""

import ipaddress
import json
import re
from typing import Any

import pytest

from gateway.settings import Settings, load
from gateway.settings.types import parse_seconds
from tests.deploy.paths import DEPLOY, from_yaml, text

FILES = ("compose.yaml", "compose.host.yaml")
COMPOSE = from_yaml(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OTHERS = sorted(SERVICES.keys() - {"gateway"})
TUNNELS = ("cloudflared", "tailscale")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _gateway(file: str) -> dict[str, Any]:
    service: dict[str, Any] = from_yaml(DEPLOY / file)["services"]["gateway"]
    return service


def _settings(file: str, **variables: str) -> Settings:
    """What the gateway makes of its environment, with what compose puts in for variables."""
    environ = {
        name: VARIABLE.sub(lambda found: variables.get(found[1], found[2]), value)
        for name, value in _gateway(file)["environment"].items()
    }
    return load(environ={"XDG_CONFIG_HOME": "/nowhere", **environ}).settings


def _networks(service: str) -> set[str]:
    return set(SERVICES[service]["networks"])


@pytest.mark.parametrize("file", FILES)
def test_gateway_container_has_no_privileges_and_a_read_only_filesystem(file: str) -> None:
    """An attacker inside the container could do little."""
    gateway = _gateway(file)

    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in gateway["security_opt"]
    assert "privileged" not in gateway
    assert "user" not in gateway


@pytest.mark.parametrize("file", FILES)
def test_stop_grace_period_exceeds_the_drain_timeout(file: str) -> None:
    """Else it kills the gateway in the middle of the answers that it lets end."""
    grace = parse_seconds(_gateway(file)["stop_grace_period"])

    assert grace > Settings().timeouts.drain_timeout + 5


@pytest.mark.parametrize("file", FILES)
def test_config_folder_is_mounted_not_single_files(file: str) -> None:
    """Config and keys are replaced, and a mounted file would stay the old one."""
    (mount,) = _gateway(file)["volumes"]
    volume, _, target = mount.partition(":")

    assert target == "/config"
    assert volume in from_yaml(DEPLOY / file)["volumes"]


@pytest.mark.parametrize("file", FILES)
def test_the_gateway_is_built_and_never_pulled(file: str) -> None:
    """With an image name, compose would first look for a third-party image in a registry."""
    assert (DEPLOY / _gateway(file)["build"] / "Dockerfile").is_file()
    assert "image" not in _gateway(file)


def test_ports_are_published_on_loopback_only() -> None:
    """Neither the admin listener nor Ollama is among it."""
    published = {
        name: [port.rsplit(":", 2) for port in service.get("ports", [])]
        for name, service in SERVICES.items()
    }
    ports = [port for service in published.values() for port in service]

    assert published["gateway"] == [["127.0.0.1", "11435", "11435"]]
    assert published["ollama"] == []
    assert {host for host, _, _ in ports} == {"127.0.0.1"}
    assert {"11434", "11436"}.isdisjoint({inside for _, _, inside in ports})


def test_only_the_gateway_can_reach_ollama() -> None:
    """A tunnel's container could otherwise be pointed at it."""
    beside = {name for name in SERVICES if _networks(name) & _networks("ollama")}

    assert beside == {"ollama", "gateway"}


def test_the_gateway_finds_ollama_and_keeps_its_admin_listener() -> None:
    """As it stands: no other container reaches the admin listener."""
    settings = _settings("compose.yaml")

    assert settings.ollama.url == "http://ollama:11434"
    assert str(settings.listen.admin) == "127.0.0.1:11436"


def test_the_admin_listener_opens_for_prometheus_on_demand() -> None:
    """With the line of env.example, under the name by which prometheus.yml asks for it."""
    (line,) = re.findall(r"^#ADMIN_LISTEN=(.+)$", text(DEPLOY / "env.example"), re.MULTILINE)
    settings = _settings("compose.yaml", ADMIN_LISTEN=line)

    assert str(settings.listen.admin) == "0.0.0.0:11436"
    assert settings.listen.admin_hosts == ("gateway",)
    assert _networks("gateway") & _networks("prometheus")


def test_only_the_tunnels_addresses_are_trusted() -> None:
    """Each at its fixed address, which no other container can be given."""
    trusted = {str(row.address): row.header for row in _settings("compose.yaml").proxies.trusted}
    fixed = {name: SERVICES[name]["networks"]["tunnel"]["ipv4_address"] for name in TUNNELS}
    (pool,) = COMPOSE["networks"]["tunnel"]["ipam"]["config"]
    dynamic = ipaddress.ip_network(pool["ip_range"])

    assert trusted == {
        f"{fixed['cloudflared']}/32": "CF-Connecting-IP",
        f"{fixed['tailscale']}/32": "X-Forwarded-For",
    }
    for address in map(ipaddress.ip_address, fixed.values()):
        assert address in ipaddress.ip_network(pool["subnet"])
        assert address not in dynamic


def test_ollama_is_stopped_after_the_gateway() -> None:
    """Compose stops in the reverse order; the other way round there would be nothing to drain."""
    condition = SERVICES["gateway"]["depends_on"]["ollama"]["condition"]

    assert condition == "service_started"


@pytest.mark.parametrize("name", ["cloudflared", "tailscale", "prometheus"])
def test_optional_services_wait_for_a_healthy_gateway(name: str) -> None:
    """And is not there unless its profile is asked for."""
    assert name in SERVICES[name]["profiles"]
    assert SERVICES[name]["depends_on"]["gateway"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", OTHERS)
def test_third_party_images_are_pinned(name: str) -> None:
    """Updates are made on purpose."""
    _, colon, tag = SERVICES[name]["image"].partition(":")

    assert colon
    assert re.search(r"\d+\.\d+\.\d+", tag)


def test_mounted_files_exist() -> None:
    """For a missing one the engine makes an empty folder and says nothing."""
    sources = [
        mount.partition(":")[0]
        for service in SERVICES.values()
        for mount in service.get("volumes", [])
        if mount.startswith(".")
    ]

    assert sources
    assert all((DEPLOY / source).exists() for source in sources)


def test_every_variable_is_explained_and_has_a_default() -> None:
    """compose.yaml works without an .env, also for those who use none of it."""
    used = VARIABLE.findall(text(DEPLOY / "compose.yaml"))
    explained = re.findall(r"^#?([A-Z_]+)=", text(DEPLOY / "env.example"), re.MULTILINE)

    assert text(DEPLOY / "compose.yaml").count("${") == len(used)
    assert {name for name, _ in used} | {"COMPOSE_PROFILES"} == set(explained)


def test_host_network_variant_listens_on_loopback_only() -> None:
    """What the image opens for a network of its own would be open to the whole LAN there."""
    gateway = _gateway("compose.host.yaml")
    settings = _settings("compose.host.yaml")

    assert gateway["network_mode"] == "host"
    assert "ports" not in gateway
    assert settings.ollama.url == "http://127.0.0.1:11434"
    assert settings.listen.public.host == "127.0.0.1"
    assert settings.listen.admin.host == "127.0.0.1"


def test_both_compose_files_use_the_same_project() -> None:
    """So that changing over keeps config and keys."""
    host = from_yaml(DEPLOY / "compose.host.yaml")

    assert host["name"] == COMPOSE["name"]
    assert host["volumes"].keys() <= COMPOSE["volumes"].keys()


def test_tailscale_points_at_the_gateway() -> None:
    """And at nothing else, on the one port that serve.json opens."""
    serve = json.loads(text(DEPLOY / "tailscale" / "serve.json"))
    (site,) = serve["Web"].values()

    assert site == {"Handlers": {"/": {"Proxy": "http://gateway:11435"}}}
    assert serve["AllowFunnel"].keys() == serve["Web"].keys()
    assert SERVICES["tailscale"]["environment"]["TS_SERVE_CONFIG"] == "/serve/serve.json"


def test_cloudflared_points_at_the_gateway() -> None:
    """Its host name goes to the public listener; everything else is 404."""
    named, rest = from_yaml(DEPLOY / "cloudflared" / "config.yml")["ingress"]

    assert named["service"] == f"http://{Settings().listen.public}"
    assert rest == {"service": "http_status:404"}
    idle = parse_seconds(named["originRequest"]["keepAliveTimeout"])
    assert idle < Settings().timeouts.keepalive_timeout
