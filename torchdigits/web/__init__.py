"""A page to draw digits on, and an API that recognises them."""

import socket

import torch
from PIL import Image

from torchdigits.cli import OptionalPath
from torchdigits.errors import OptionError
from torchdigits.images import quiet_pillow

MAX_PIXELS = 64_000_000  # of a picture: a WebP takes 15 bytes for each
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a listener at every address is found from its own machine


def serve(*, host: str = "127.0.0.1", port: int = 8000, checkpoint: OptionalPath = None) -> None:
    """Serve a page to draw digits on, and an API that recognises them, until Ctrl-C.

    Args:
        host: the address to listen on. With 0.0.0.0 or ::, every address of this machine: others in its network can
            open the page, by address or by the machine's name.
        port: the port; 0 takes a free one.
        checkpoint: the trained network; the shipped one by default.
    """
    try:
        from torchdigits.web.app import application
        from torchdigits.web.patience import server
    except ImportError as error:
        raise OptionError(f"the page: {error.name} is missing; pip install -e '.[web]'") from error
    quiet_pillow()
    app = application(checkpoint, host)
    with listen(host, port) as listener:
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        # Pillow's blocks so large that glibc gives them back to the system; of smaller ones it keeps 400 MB.
        Image.core.set_block_size(2**26)  # type: ignore[attr-defined]  # which Pillow documents
        torch.set_num_threads(1)  # one picture does not keep two busy
        shown = _LOOPBACK.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        try:
            print(f"Draw at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
            server(app).run([listener])
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens: two that are only bound can have the same port."""
    if not 0 <= port <= 65535:
        raise OptionError(f"--port {port}: ports are 0 to 65535")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason, *_ = str(getattr(error, "strerror", None) or error).partition(" (")  # which names the place again
        raise OptionError(f"cannot listen at {host}, port {port}: {reason}") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else half an answer waits 40 ms for the other
    return listener
