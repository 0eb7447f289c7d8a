"""Train a network: python scripts/train.py --dataset mnist --accelerator gpu"""

from torchdigits.commands.cli import main
from torchdigits.commands.train import train
from torchdigits.training.folder import resumed

if __name__ == "__main__":
    main(train, resumed)
