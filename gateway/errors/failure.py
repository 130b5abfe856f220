"""A way to fail: what all of them have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

MAX_RETRY_AFTER = 60.0
"""Seconds. The OpenAI SDKs do not retry at all above 60 (older ones) or 120 seconds."""


class GatewayError(Exception):
    """A call that failed, in our words.

    ``retry_after`` is in seconds and becomes a ``Retry-After`` of at least 1 and at most
    ``MAX_RETRY_AFTER``; ``should_retry`` becomes ``x-should-retry``, which the OpenAI SDKs obey
    above everything else; None leaves the decision to the caller.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "api_error"
    should_retry: ClassVar[bool | None] = None
    default_message: ClassVar[str] = ""
    default_retry_after: ClassVar[float | None] = None
    default_headers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        should_retry: bool | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.param = param
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.advice = self.should_retry if should_retry is None else should_retry
        self._headers = self.default_headers if headers is None else headers
        super().__init__(self.message)

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head carries besides its body's type and length."""
        headers = dict(self._headers)
        if self.retry_after is not None:
            seconds = min(max(self.retry_after, 1.0), MAX_RETRY_AFTER)
            headers["Retry-After"] = str(int(-(-seconds // 1)))
        if self.advice is not None:
            headers["x-should-retry"] = "true" if self.advice else "false"
        return headers
