"""What a user can get wrong: a command prints such an error as one line and exits with its status."""

from collections.abc import Mapping
from typing import Any


class TorchDigitsError(Exception):
    """Base of the errors that a caller can put right. The text is one line: what, where, and the way out."""

    status = 2


class OptionError(TorchDigitsError, ValueError):
    """An option that makes no sense, or that this machine cannot fulfil."""


class DivergedError(TorchDigitsError):
    """Weights or costs have become NaN or infinite in training."""

    status = 1


class DataError(TorchDigitsError):
    """A dataset that is missing, damaged, or not what its name says."""


class CheckpointError(TorchDigitsError):
    """A file of a network that is missing, damaged, hostile, or of another program."""


class ImageError(TorchDigitsError):
    """A picture that cannot be read, or that shows no digit."""


class CandidateError(TorchDigitsError):
    """A program to be checked that cannot be: what was found, where, and what was expected, in some lines."""


class NoInkError(ImageError):
    """A picture without a digit: blank, or with too little contrast."""


class SlowImageError(ImageError):
    """A picture that takes longer to decode than it may."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. The text says what was kept, and how to go on."""

    def __init__(self, signal_number: int, text: str) -> None:
        super().__init__(text)
        self.status = 128 + signal_number  # by convention: 130 or 143


def printable(text: object) -> str:
    """The text in one line, with `?` for every character that a terminal would obey or cannot show."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def reason(error: Exception) -> str:
    """What the exception says that reading a file raised: one printable line, cut after 300 characters."""
    text = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error)[:10_000].split())
    return printable(text if len(text) <= 300 else f"{text[:300]}...") or type(error).__name__


def check_count(what: str, count: int, most: int = 2**31 - 1) -> None:
    """Raise OptionError if a number of things (epochs, devices, examples in a mini-batch) is less than 1, or absurd."""
    if count < 1:
        raise OptionError(f"{what} {count}: it must be 1 or more")
    if count > most:  # it may have thousands of digits
        raise OptionError(f"{what}: it must be at most {most:,}")


def check_same_options(options: Mapping[str, Any], saved: Mapping[str, Any], what: str) -> None:
    """Raise OptionError if `what`, a run or a sweep, was begun with other options, those that it saved."""
    for name, value in options.items():
        if (there := saved.get(name)) != value:
            here, there = (" ".join(map(str, v)) if isinstance(v, list | tuple) else v for v in (value, there))
            raise OptionError(f"--{name.replace('_', '-')} {here}: {what} has {there}")


def root_cause(error: BaseException) -> str:
    """The class and the first line of the exception that caused this one; or what this one says, if it is ours."""
    if isinstance(error, TorchDigitsError):
        return str(error)
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
