"""What more than one part of the API is described by."""

from typing import Annotated, Any

from pydantic import BaseModel, Field


class Error(BaseModel):
    error: str = Field(description="one line: what is wrong, and the way out")


Digit = Annotated[int, Field(ge=0, le=9)]
Activation = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=28, max_length=28)]


def errors(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Responses with an error, by their status."""
    return {status: {"model": Error, "description": text} for status, text in descriptions.items()}
