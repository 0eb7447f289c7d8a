"""What a user can get wrong: a command prints such an error as one line and exits with status 2."""


class TorchDigitsError(Exception):
    """Base of every error that the caller can mend; its text is one line: what, where, and the way out."""


class OptionError(TorchDigitsError, ValueError):
    """A setting that makes no sense, or that this machine cannot honour."""


class DataError(TorchDigitsError):
    """A dataset that is missing, damaged, or not what its name says."""


class CheckpointError(TorchDigitsError):
    """A checkpoint that is missing, damaged, hostile, or of another program."""


class ImageError(TorchDigitsError):
    """A picture that cannot be read, or not as a digit."""


class NoInkError(ImageError):
    """A picture without a digit: blank, or with too little contrast."""


def printable(text: object) -> str:
    """In one line, and with nothing that a terminal would obey or cannot show."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
