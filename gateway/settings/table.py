"""What all tables of settings have in common."""

from typing import Final

from pydantic import ConfigDict
from pydantic_core import PydanticCustomError

TABLE: Final = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def contradiction(why: str, **values: object) -> PydanticCustomError:
    """Settings of one table, with their values, that are each fine and cannot hold together.

    ``why`` says so, and what to do.
    """
    return PydanticCustomError("contradiction", "{why}", {"why": why, "values": values})
