"""Check this machine's torch against back-propagation by hand: python scripts/parity.py"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("parity")
