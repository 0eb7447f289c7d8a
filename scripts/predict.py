"""Recognise the digits in pictures: python scripts/predict.py PICTURE ..."""

from torchdigits.cli import main
from torchdigits.inference import predict

if __name__ == "__main__":
    main(predict)
