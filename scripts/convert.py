"""Convert a trained network to another format: python scripts/convert.py IN OUT"""

from torchdigits.checkpoints import convert
from torchdigits.cli import main

if __name__ == "__main__":
    main(convert)
