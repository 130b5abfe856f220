"""What a real Ollama answered in one piece, as every dialect reads it."""

import json

import pytest

from gateway.dialects import OLLAMA, Body, Timings, Usage

from .recorded import Reply, bodies

GAVE_UP = {
    "repeat-limit-chat",
    "repeat-limit-completions",
    "repeat-limit-messages",
    "repeat-limit-native-generate",
    "repeat-limit-responses",
}

USAGE = {
    "api-chat": Usage(27, 5),
    "api-embed": Usage(7, None),
    "api-embed-string": Usage(3, None),
    "api-embeddings": Usage(),
    "api-generate": Usage(18, 5),
    "api-generate-load": Usage(),
    "chat": Usage(27, 6),
    "chat-logprobs": Usage(27, 6),
    "completions": Usage(21, 5),
    "embeddings": Usage(7, None),
    "embeddings-base64": Usage(6, None),
    "embeddings-long": Usage(512, None),
    "messages": Usage(27, 5),
    "repeat-limit-chat": Usage(),
    "repeat-limit-responses": Usage(),
    "responses": Usage(21, 5),
}


def fed(reply: Reply) -> Body:
    body = reply.dialect.body()
    for chunk in reply.chunks:
        body.feed(chunk)
    return body


@pytest.mark.parametrize("reply", bodies(), ids=str)
def test_incomplete(reply: Reply) -> None:
    """Only the answers that Ollama gave up on say so; no good one and no error does."""
    assert (reply.case in GAVE_UP) == fed(reply).incomplete


@pytest.mark.parametrize("reply", [r for r in bodies() if r.case in USAGE], ids=str)
def test_usage(reply: Reply) -> None:
    """Tokens as reported, and 0 taken for what it is: nothing."""
    if (reply.version, reply.case) == ("0.33.0", "embeddings-chat-model"):
        pytest.skip("an error there")

    assert USAGE[reply.case] == fed(reply).usage


@pytest.mark.parametrize("reply", [r for r in bodies() if r.status < 300], ids=str)
def test_a_good_answer_is_no_failure(reply: Reply) -> None:
    """Nothing of an answer is ever taken for Ollama's error text."""
    assert fed(reply).failure is None


@pytest.mark.parametrize("reply", [r for r in bodies() if r.status >= 400 and r.body], ids=str)
def test_failure(reply: Reply) -> None:
    """Ollama's own words, in whichever of its shapes; its plain-text errors have none."""
    try:
        error = json.loads(reply.body)["error"]
        words = error if isinstance(error, str) else error["message"]
    except ValueError:
        words = None

    assert words == fed(reply).failure


@pytest.mark.parametrize("reply", bodies(), ids=str)
def test_at_every_split(reply: Reply) -> None:
    """In two parts, or bytewise, the answers are the same."""
    whole = fed(reply)
    for at in range(0, len(reply.body), 7):
        body = reply.dialect.body()
        body.feed(reply.body[:at])
        body.feed(reply.body[at:])

        assert (whole.usage, whole.incomplete, whole.failure, whole.timings) == (
            body.usage,
            body.incomplete,
            body.failure,
            body.timings,
        )


def test_timings_of_a_native_answer() -> None:
    """The model's own account, in seconds; others have none."""
    by_name = {str(reply): fed(reply) for reply in bodies() if reply.dialect is OLLAMA}

    assert by_name["0.33.0-api-embed"].timings == Timings(
        total_duration=0.007625203,
        load_duration=0.001237346,
        prompt_eval_count=7,
    )
    assert by_name["0.33.0-api-generate-load"].timings is None
