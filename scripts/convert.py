"""Convert a trained network to another format: python scripts/convert.py SOURCE TARGET"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("convert")
