"""A page to draw digits on, and an API that recognises them: python scripts/serve.py"""

from torchdigits.commands.cli import main

if __name__ == "__main__":
    main("serve")
