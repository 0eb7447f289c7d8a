"""Check your own back-propagation: python scripts/check.py FILE"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("check")
