"""What more than one part of the API is described by."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from torchdigits.errors import TorchDigitsError


class NotHereError(TorchDigitsError):
    """Something that is asked for is not on this machine."""


class CannotNowError(TorchDigitsError):
    """What is asked for is sound, but cannot be done here, or not yet."""


class Error(BaseModel):
    error: str = Field(description="one line: what is wrong, and the way out")


def _whole(value: Any) -> Any:
    """3 for 3.0, as for JSON both are whole numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Digit = Annotated[int, Field(ge=0, le=9), WHOLE]
Activation = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[list[Annotated[int, Field(ge=0, le=255), WHOLE]], Field(min_length=28, max_length=28)]


def errors(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Responses with an error, by their status."""
    return {status: {"model": Error, "description": text} for status, text in descriptions.items()}
