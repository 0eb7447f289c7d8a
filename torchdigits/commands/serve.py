"""Serve the page to draw digits on, and its API."""

from functools import partial
from pathlib import Path

import torch

from torchdigits.commands.cli import command_line
from torchdigits.data.datasets import has_mnist
from torchdigits.errors import OptionError, printable

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where this machine finds what listens at all addresses


def serve(
    *, host: str = "127.0.0.1", port: int = 8000, checkpoint: Path | None = None, data_dir: Path | None = None
) -> None:
    """Serve a page to draw digits on and to watch a network learn, and its API.

    Ctrl-C ends it. With --host 0.0.0.0, everyone in your network can open it.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        checkpoint: the network (default: the shipped one).
        data_dir: MNIST's folder, to learn from (default: $TORCHDIGITS_DATA_DIR or data); nothing is downloaded.

    Raises:
        OptionError: the packages of the extra `web` are missing, the address or port cannot be had, or `data_dir` has
            no MNIST.
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
        SystemExit: with status 130, after Ctrl-C.
    """
    try:
        from torchdigits.web.app import application
        from torchdigits.web.protocol import listen, server
    except ImportError as error:
        raise OptionError(f"the page needs {error.name}: pip install 'torchdigits[web]'") from error
    if data_dir is not None and not has_mnist(data_dir):
        raise OptionError(f"--data-dir {printable(data_dir)[:300]}: there is no MNIST in it; `train` downloads it")
    app = application(checkpoint, host, data_dir, partial(command_line, "train"))
    with listen(host, port) as listener:
        torch.set_num_threads(1)  # one picture does not keep two threads busy
        shown = _LOOPBACK.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        try:
            print(f"Draw at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
            server(app).run([listener])
        except KeyboardInterrupt:
            raise SystemExit(130) from None
