"""Engramia as a client: what a person enters there, and the requests that it sends."""

import ssl
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import openai

from tests.harness import Running

Verdict = Literal["ok", "unreachable", "config", "model_missing"]

PROBE_TIMEOUT = 5.0

# Root certificates are of no use here, and reading them takes longer than most tests.
_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True, slots=True)
class Tenant:
    """What a person enters in Engramia's dashboard, and what Engramia does with it."""

    base_url: str
    api_key: str

    @property
    def root(self) -> str:
        return self.base_url.rstrip("/").removesuffix("/v1")

    def probe(self, method: str, path: str, **body: Any) -> httpx.Response:
        """One probe. Its client is new each time, sends no header of its own, follows nothing."""
        with httpx.Client(timeout=PROBE_TIMEOUT, follow_redirects=False, verify=_PLAIN) as client:
            return client.request(method, self.root + path, json=body or None)

    def validate(self, default_model: str) -> Verdict:
        """The result of "Validate & save"."""
        try:
            answer = self.probe("GET", "/api/tags")
            answer.raise_for_status()
        except httpx.HTTPError:
            return "unreachable"
        names = [model["name"] for model in answer.json()["models"]]
        if not names:
            return "config"
        wanted = default_model if ":" in default_model else f"{default_model}:latest"
        return "ok" if wanted in names else "model_missing"

    def client(self, *, client_timeout: float = 300.0, retries: int = 0) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key,
            timeout=client_timeout,
            max_retries=retries,
        )


def by_path(gateway: Running) -> Tenant:
    """What the gateway's ``init`` prints: a discovery key in the path, the other one as the key."""
    return Tenant(f"{gateway.url}/k/{gateway.discovery}/v1", gateway.key)


def by_userinfo(gateway: Running) -> Tenant:
    """Name and key in the address. Basic then replaces the Bearer, so one key does everything."""
    return Tenant(f"http://tester:{gateway.key}@127.0.0.1:{gateway.port}/v1", "ollama-no-key")
