"""Measure a trained network on a dataset: python scripts/evaluate.py --dataset mnist"""

from torchdigits.cli import main
from torchdigits.evaluation import evaluate

if __name__ == "__main__":
    main(evaluate)
