"""Train many networks at once: python scripts/sweep.py --seeds 32 --learning-rates 0.3 1 3 10"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("sweep")
