"""A process of its own, and the pipe to it."""

import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any


def start(
    module: str, function: str, *arguments: object, **options: Any
) -> tuple["subprocess.Popen[bytes]", Connection]:
    """Start a process that calls a function with the descriptor of its end of a pipe.

    It imports from where this process does, reads and prints nothing, and does not hear this one's Ctrl-C.

    Args:
        module: the function's.
        function: its name; it gets the descriptor, then the arguments.
        arguments: that `repr` can write.
        options: more for `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    ours, theirs = Pipe()
    called = ", ".join(map(repr, (theirs.fileno(), *arguments)))
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:] = {sys.path!r}\nimport {module} as m; m.{function}({called})",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
            **options,
        )
    return process, ours
