"""A page to draw digits on, and an API that recognises them."""

import socket

import torch

from torchdigits.cli import OptionalPath
from torchdigits.errors import OptionError
from torchdigits.images import quiet_pillow

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
        import uvicorn

        from torchdigits.web.app import application
    except ImportError as error:
        raise OptionError(f"the page: {error.name} is missing; pip install -e '.[web]'") from error
    quiet_pillow()
    app = application(checkpoint, host)
    with listen(host, port) as listener:
        torch.set_num_threads(1)  # one picture does not keep two busy
        # The application logs what goes wrong; uvicorn would also log what Ctrl-C interrupts.
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        shown = _LOOPBACK.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        try:
            print(f"Draw at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
            uvicorn.Server(config).run([listener])
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
