"""What a user can get wrong: a command prints such an error as one line and exits with its status."""


class TorchDigitsError(Exception):
    """Base of every error that the caller can mend; its text is one line: what, where, and the way out."""

    status = 2


class OptionError(TorchDigitsError, ValueError):
    """A setting that makes no sense, or that this machine cannot honour."""


class DivergedError(TorchDigitsError):
    """Training has left the finite numbers."""

    status = 1


class DataError(TorchDigitsError):
    """A dataset that is missing, damaged, or not what its name says."""


class CheckpointError(TorchDigitsError):
    """A checkpoint that is missing, damaged, hostile, or of another program."""


class ImageError(TorchDigitsError):
    """A picture that cannot be read, or not as a digit."""


class NoInkError(ImageError):
    """A picture without a digit: blank, or with too little contrast."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the text says what was kept, and how to go on.

    Attributes:
        status: what a process so ended exits with by convention, 128 and the signal's number: 130 or 143.
    """

    def __init__(self, signal_number: int, text: str) -> None:
        super().__init__(text)
        self.status = 128 + signal_number


def printable(text: object) -> str:
    """In one line, and with nothing that a terminal would obey or cannot show."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def reason(error: Exception) -> str:
    """What a file is said to be refused for: one line, not too long, and nothing that a terminal would obey."""
    text = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
    return printable(text if len(text) <= 300 else f"{text[:300]}...") or type(error).__name__
