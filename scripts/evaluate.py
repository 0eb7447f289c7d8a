"""Measure a trained network on a dataset: python scripts/evaluate.py --dataset mnist"""

from torchdigits.commands.cli import main
from torchdigits.commands.evaluate import evaluate

if __name__ == "__main__":
    main(evaluate)
