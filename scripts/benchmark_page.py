"""Time the page's server: python scripts/serve.py in one terminal, python scripts/benchmark_page.py in another."""

import io
import json
import socket
from http.client import HTTPConnection, HTTPException
from statistics import median, quantiles
from time import perf_counter
from urllib.parse import urlsplit

from PIL import Image

from torchdigits.cli import OptionalPath, main
from torchdigits.datasets import load_splits
from torchdigits.errors import OptionError


def benchmark_page(
    *, url: str = "http://127.0.0.1:8000", pictures: int = 1000, size: int = 224, data_dir: OptionalPath = None
) -> None:
    """Ask a running server to recognise test images of MNIST, one after the other, and show how long it takes.

    Args:
        url: where it is.
        pictures: how many.
        size: in pixels; the page sends its drawings in 224.
        data_dir: the folder of MNIST (default: $TORCHDIGITS_DATA_DIR, else data).

    Raises:
        OptionError: there is no such server, or fewer than two pictures, or more than there are.
        DataError: MNIST cannot be had.
    """
    test = load_splits("mnist", data_dir).test
    if not 2 <= pictures <= len(test.labels):
        raise OptionError(f"--pictures {pictures}: it must be 2 to {len(test.labels):,}")
    connection = HTTPConnection(urlsplit(url).netloc, timeout=10)
    milliseconds, correct = [], 0
    try:
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pixels, label in zip(test.images[:pictures].view(-1, 28, 28).numpy(), test.labels.tolist(), strict=False):
            picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
            picture.save(file := io.BytesIO(), "PNG")
            start = perf_counter()
            connection.request("POST", "/recognize", file.getvalue(), {"Content-Type": "image/png"})
            answer = connection.getresponse().read()
            milliseconds.append((perf_counter() - start) * 1000)
            correct += json.loads(answer)["digit"] == label
    except (OSError, HTTPException, ValueError, LookupError) as error:
        raise OptionError(f"--url {url}: no answer of scripts/serve.py: {error}") from error
    print(f"median {median(milliseconds):.1f} ms, p95 {quantiles(milliseconds, n=20)[-1]:.1f} ms", end="")
    print(f", longest {max(milliseconds):.1f} ms; {correct:,} of {pictures:,} recognised")


if __name__ == "__main__":
    main(benchmark_page)
