"""The differences between the two recorded versions of Ollama."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wire:
    """The behaviour of one version. Everything not listed here is the same in both."""

    version: str
    role_in_every_delta: bool
    """``/v1/chat/completions`` repeats ``role`` and ``content`` in each chunk, also in the last."""
    tags_have_details: bool
    """``/api/tags`` has capabilities, context and embedding length, and the parent's path."""
    missing_name_has_tag: bool
    """``show`` reports ``nope:latest`` as not found for a request for ``nope``."""
    keeps_half_of_context: bool
    """A prompt that does not fit is truncated to half of the context plus 3 tokens."""
    any_model_embeds: bool
    """``/v1/embeddings`` accepts chat models, too."""
    refuses_images: bool
    """An image for a model without vision is a 400 instead of being ignored."""
    one_created: bool
    """All chunks of a stream have the same ``created``."""

    def prompt_tokens(self, length: int, context: int) -> int:
        """Return how many tokens of a prompt of ``length`` are used."""
        if length <= context:
            return length
        return context // 2 + 3 if self.keeps_half_of_context else context


_WIRES = (
    Wire(
        version="0.24.0",
        role_in_every_delta=True,
        tags_have_details=False,
        missing_name_has_tag=False,
        keeps_half_of_context=False,
        any_model_embeds=True,
        refuses_images=False,
        one_created=False,
    ),
    Wire(
        version="0.33.0",
        role_in_every_delta=False,
        tags_have_details=True,
        missing_name_has_tag=True,
        keeps_half_of_context=True,
        any_model_embeds=False,
        refuses_images=True,
        one_created=True,
    ),
)

VERSIONS = tuple(wire.version for wire in _WIRES)
NEWEST = VERSIONS[-1]


def wire(version: str) -> Wire:
    """Return the behaviour of ``version``. Raises ``ValueError`` with the known versions."""
    for known in _WIRES:
        if known.version == version:
            return known
    raise ValueError(f"version {version!r} was not recorded; known are {', '.join(VERSIONS)}")
