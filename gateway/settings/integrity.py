"""What becomes of answers on their way: kept alive through a tunnel, and told as they are."""

from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, model_validator

from gateway.settings.table import TABLE, contradiction
from gateway.settings.values import SecondsOrAuto, one_of

_CUT_AFTER: Final = MappingProxyType({"cloudflare": 100.0, "ngrok": 300.0})
"""Seconds without a byte of the body, as these were seen to allow."""


class TunnelSettings(BaseModel):
    model_config = TABLE

    profile: Annotated[
        Literal["auto", "cloudflare", "ngrok", "tailscale", "none"],
        one_of("auto", "cloudflare", "ngrok", "tailscale", "none"),
    ] = "auto"
    """What stands between the callers and this gateway. Tunnels cut an answer that is silent for
    too long, so a slow one gets a byte now and then that its reader skips: a heartbeat. "auto"
    tells each request's tunnel by what it adds; "none" sends no heartbeats, unless commit_after is
    given."""

    commit_after: SecondsOrAuto = "auto"
    """How long an answer may be silent before heartbeats begin. Until then failures keep their
    status; afterwards the status is 200 and a failure is told by a cut. "auto" goes by the profile:
    20 seconds for Cloudflare and where nothing is known, 90 for ngrok and Tailscale. Never more
    than half of what the caller says it will wait."""

    heartbeat_interval: SecondsOrAuto = "auto"
    """The longest silence from then on. "auto" goes by the profile: 15 seconds for Cloudflare and
    where nothing is known, 60 for ngrok and Tailscale. Never more than half of what the caller says
    it will wait."""

    client_timeout: Annotated[Literal["extend", "respect"], one_of("extend", "respect")] = "extend"
    """Heartbeats also keep a caller from giving up. "extend": a call that they keep alive may wait
    as long as timeouts.queue_timeout and take as long as timeouts.ceiling. "respect": what cannot
    be ready within the caller's own read timeout is refused at once."""

    late_error: Annotated[Literal["cut", "object"], one_of("cut", "object")] = "cut"
    """How an answer in one piece fails after heartbeats have begun. "cut" closes the connection, so
    that no client takes it for an answer, and tells the failure to the retry that follows. "object"
    sends the error's JSON with status 200, for callers that look for it there."""

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        limit = _CUT_AFTER.get(self.profile)
        for name in ("commit_after", "heartbeat_interval"):
            seconds = getattr(self, name)
            if limit is not None and seconds != "auto" and seconds >= limit:
                why = (
                    f"{self.profile} cuts what is silent for {limit:g} s: set {name} well below it"
                )
                raise contradiction(why, profile=self.profile, **{name: seconds})
        return self


class IntegritySettings(BaseModel):
    model_config = TABLE

    incomplete: Annotated[Literal["pass", "error"], one_of("pass", "error")] = "pass"
    """What becomes of an answer in one piece of which Ollama says that it broke it off, as it does
    when a model repeats itself. "pass" hands it on and counts it; "error" answers 502."""

    truncated_prompt: Annotated[Literal["pass", "error"], one_of("pass", "error")] = "pass"
    """Ollama silently cuts a prompt that is longer than the model's context. "pass" lets it, and
    says so in the answer's headers, the log, a metric and the model's status; "error" answers 400,
    before Ollama works wherever that is certain."""
