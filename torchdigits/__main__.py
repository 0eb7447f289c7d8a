"""The command `torchdigits`, as `python -m torchdigits`."""

from torchdigits.commands.cli import torchdigits

if __name__ == "__main__":
    torchdigits()
