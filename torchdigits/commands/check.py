"""Check somebody's own back-propagation, and say what is wrong with it."""

import json as json_
import sys
from pathlib import Path
from typing import Literal

from torchdigits.errors import CandidateError, OptionError, printable
from torchdigits.proof.diagnosis.file import check_file


def check(
    file: str, *, examples: Literal["auto", "one", "mini-batch"] = "auto", seconds: float = 60, json: bool = False
) -> None:
    """Check your own back-propagation, and say which line is wrong, and why.

    FILE runs, as under a test runner, in a process of its own. In it is a class as the book's Network(sizes), with
    weights, biases and backprop(x, y); a function backprop(weights, biases, x, y); or a torch.nn.Module. The exit
    status is 0 if all is right, 1 if something is wrong, 2 if it cannot be checked.

    Args:
        file: a Python file, or FILE:NAME if it has several candidates.
        examples: what it computes the gradient of: one example, or a mini-batch; auto finds out.
        seconds: how long it may take.
        json: print one JSON object.

    Raises:
        OptionError: there is no such file, or a time that makes no sense.
        SystemExit: with status 1 if something is wrong, 2 if it cannot be checked.
    """
    if not 0 < seconds < 1e6:
        raise OptionError(f"--seconds {seconds}: it must be more than 0, and less than a million")
    path, name = Path(file), None
    if not path.exists() and ":" in file:
        before, name = file.rsplit(":", 1)
        path = Path(before)
    try:
        checked = check_file(path, name, examples, seconds)
    except CandidateError as error:
        first, *others = str(error).splitlines()
        sys.stderr.write("\n".join([f"error: {printable(f'{file}: {first}')}", *map(printable, others)]) + "\n")
        raise SystemExit(error.status) from None
    if json:
        print(json_.dumps(checked.found))
    else:
        print("\n".join(map(printable, checked.text.splitlines())))
    if not checked.right:
        raise SystemExit(1)
