"""The clocks, for all models and for some; see ``gateway.settings.tables``."""

from typing import Annotated, Self

from pydantic import BaseModel, model_validator

from gateway.settings.table import TABLE, contradiction
from gateway.settings.values import Pattern, Seconds, SecondsOrAuto, whole_number


class TimeoutsSettings(BaseModel):
    model_config = TABLE

    head_timeout: Seconds = 15.0
    """From a new connection to the end of its first request's headers; then it is closed."""

    body_timeout: Seconds = 30.0
    """From the headers to the last byte of the request; then the answer is 408. Raise it when large
    requests come over a slow line."""

    queue_timeout: Seconds = 300.0
    """How long a request waits for its turn; then the answer is 503 with the advice to come back.
    Never longer than the caller itself is willing to wait, unless heartbeats keep it waiting; see
    [tunnel]."""

    connect_timeout: Seconds = 5.0
    """How long to try to connect to Ollama; then the answer is 502."""

    first_byte_timeout: SecondsOrAuto = "auto"
    """For streams: from the request to Ollama until its first byte, which includes loading the
    model and reading the prompt. "auto" goes by the model's size: 60 seconds up to 1.5B
    parameters, 90 up to 4B, 120 up to 9B, 180 up to 15B, 300 up to 34B, 600 up to 72B, 1800
    above."""

    idle_timeout: SecondsOrAuto = "auto"
    """For streams: the longest silence between two pieces of the answer. "auto" is the same as
    first_byte_timeout, for Ollama is silent while it puts a tool call together."""

    total_timeout: SecondsOrAuto = "auto"
    """For answers in one piece: from the request to Ollama until the answer is whole. "auto" goes
    by the model's size as above, or is the ceiling where heartbeats keep the answer alive. Raise it
    (or use [[models]]) when long answers end in 504."""

    stream_total_timeout: Seconds = 1800.0
    """For streams: from the request to Ollama until the last byte."""

    ceiling: Seconds = 1800.0
    """Callers can say how long they will wait, and get that much when it is more than "auto" gives
    them; this is the most they get. Answers in one piece that heartbeats keep alive may take this
    long; see [tunnel]."""

    learned_floor: SecondsOrAuto = "auto"
    """The gateway learns how long each model takes here, and gives a slow one more time than its
    size says. A number lets it also give a quick one less, down to so many seconds; "auto" never
    gives less than the size says."""

    write_timeout: Seconds = 30.0
    """How long a caller may take nothing of an answer that is ready; then it is cut off."""

    keepalive_timeout: Seconds = 120.0
    """How long an idle connection of a caller stays open. Above 90 seconds, or cloudflared will at
    times use a connection that has just been closed."""

    drain_timeout: Seconds = 120.0
    """How long running answers may go on after the gateway was told to stop. What stops it
    (systemd, a container engine) must wait longer than this."""

    @model_validator(mode="after")
    def _first_byte_within_all(self) -> Self:
        first = self.first_byte_timeout
        if first != "auto" and first > self.stream_total_timeout:
            raise contradiction(
                "the whole stream would end before its first byte is late: lower the first or "
                "raise the second",
                first_byte_timeout=self.first_byte_timeout,
                stream_total_timeout=self.stream_total_timeout,
            )
        return self


class ModelRule(BaseModel):
    model_config = TABLE

    match: Pattern
    """Which models: a name in which * and ? are wildcards, such as "llama3.3:70b" or "qwen*". Of
    several entries that match, the first counts."""

    total_timeout: Seconds | None = None
    """As in [timeouts], for these models; it holds as it is, whatever a caller says."""

    first_byte_timeout: Seconds | None = None
    """As in [timeouts], for these models; it holds as it is, whatever a caller says."""

    max_active: Annotated[int, whole_number(1, 1024)] | None = None
    """How many requests may use each of these models at once."""
