"""What differs between the two Ollamas that were recorded."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wire:
    """The habits of one version. Everything not named here is the same in both."""

    version: str
    role_in_every_delta: bool
    """``/v1/chat/completions`` repeats ``role`` and ``content`` in each chunk, the last too."""
    tags_tell_more: bool
    """``/api/tags`` has capabilities, context and embedding length, and the parent's path."""
    missing_name_has_tag: bool
    """``show`` says that ``nope:latest`` was not found where the caller said ``nope``."""
    keeps_half_of_context: bool
    """A prompt that does not fit is cut to half of the context plus 3, not to all of it."""
    any_model_embeds: bool
    """``/v1/embeddings`` answers for chat models too."""
    refuses_images: bool
    """A picture for a model without eyes is a 400 and not ignored."""
    one_created: bool
    """All chunks of a stream carry the same ``created``."""

    def prompt_tokens(self, length: int, context: int) -> int:
        """How many tokens of a prompt of ``length`` are read."""
        if length <= context:
            return length
        return context // 2 + 3 if self.keeps_half_of_context else context


_WIRES = (
    Wire(
        version="0.24.0",
        role_in_every_delta=True,
        tags_tell_more=False,
        missing_name_has_tag=False,
        keeps_half_of_context=False,
        any_model_embeds=True,
        refuses_images=False,
        one_created=False,
    ),
    Wire(
        version="0.33.0",
        role_in_every_delta=False,
        tags_tell_more=True,
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
    """Return the habits of ``version``; ``ValueError`` names those that are known."""
    for known in _WIRES:
        if known.version == version:
            return known
    raise ValueError(f"version {version!r} was not recorded; known are {', '.join(VERSIONS)}")
