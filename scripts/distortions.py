"""Measure what distorted pictures cost: python scripts/distortions.py"""

from torchdigits.cli import main
from torchdigits.distortions import measure

if __name__ == "__main__":
    main(measure)
