"""Train a network: python scripts/train.py --dataset mnist --accelerator gpu"""

from torchdigits.cli import main
from torchdigits.training import saved_options, train

if __name__ == "__main__":
    main(train, saved_options)
