"""Check this machine's torch against back-propagation by hand: python scripts/parity.py"""

from torchdigits.cli import main
from torchdigits.parity_report import parity

if __name__ == "__main__":
    main(parity)
