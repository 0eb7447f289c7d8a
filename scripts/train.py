"""Train a network: python scripts/train.py --dataset mnist --accelerator gpu"""

from torchdigits.cli import main
from torchdigits.training import train

if __name__ == "__main__":
    main(train)
