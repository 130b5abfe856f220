"""From a body to what it asks for: pure."""

import msgspec
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.dialects import Dialect
from gateway.errors import InvalidRequestBody
from gateway.proxy.fields import Fields, build, model_name, parse
from gateway.proxy.inference import Target
from gateway.proxy.prompt import Prompt, most_objects, prompt_of, refuses_to_be_cut
from gateway.proxy.sanitize import apply

_BOOLEANS = (b"true", b"false", b"null")


class Asked(Struct, frozen=True):
    """What a body asks for, before it is known which model its name means."""

    fields: Fields
    model: str
    streaming: bool
    dropped: tuple[str, ...]
    prompt: Prompt

    def body_for(self, canonical: str) -> bytes:
        """The body that goes to Ollama, for the model whose canonical name this is.

        The name stays as the caller wrote it, for Ollama repeats it in its answer; a spelling that
        says more than a tag left out or another case is replaced, so that Ollama cannot read
        another model out of it than we did.
        """
        sent = self.model.lower()
        if sent in (canonical.lower(), canonical.lower().removesuffix(":latest")):
            return build(self.fields)
        name = msgspec.Raw(msgspec.json.encode(canonical))
        return build({**self.fields, "model": name})


def understand(
    data: bytes | bytearray, target: Target, principal: Principal, *, whole_prompts: bool = False
) -> Asked:
    """What ``data`` asks of ``target``, as far as this key may.

    ``whole_prompts``: Ollama is told not to cut the prompt, where it can be told and the caller
    does not tell it.

    Raises InvalidRequestBody, TuningNotAllowed, CloudNotAllowed.
    """
    fields = parse(data)
    model = model_name(fields, "model")
    streaming = _streams(fields, target.dialect) and target.can_stream
    ruled = apply(fields, principal, target.path)
    sent = refuses_to_be_cut(ruled.fields, target.path) if whole_prompts else ruled.fields
    prompt = prompt_of(sent, target.path, objects=most_objects(data))
    return Asked(sent, model, streaming, ruled.dropped, prompt)


def _streams(fields: Fields, dialect: Dialect) -> bool:
    raw = fields.get("stream")
    if raw is None:
        return dialect.streams(None)
    value = bytes(memoryview(raw)[:6]).strip()
    if value not in _BOOLEANS:
        raise InvalidRequestBody("`stream` must be true or false.", param="stream")
    return dialect.streams(value)
