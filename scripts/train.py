"""Train a network: python scripts/train.py --dataset mnist --accelerator gpu"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("train")
