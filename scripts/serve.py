"""A page to draw digits on, and an API that recognises them: python scripts/serve.py"""

from torchdigits.cli import main
from torchdigits.web import serve

if __name__ == "__main__":
    main(serve)
