"""Recognise the digits in pictures: python scripts/predict.py PICTURE ..."""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("predict")
