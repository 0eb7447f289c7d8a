"""Measure a trained network on a dataset: python scripts/evaluate.py --dataset mnist"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("evaluate")
