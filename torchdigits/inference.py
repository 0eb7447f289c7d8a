"""Recognising digits with a trained network."""

import glob
import json as json_format
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro

from torchdigits.checkpoints import load_network
from torchdigits.cli import FIGURE_SUFFIXES, OptionalPath, check_new_file
from torchdigits.errors import CheckpointError, ImageError, OptionError, printable
from torchdigits.figures import plot_preparation
from torchdigits.images import SUFFIXES, Picture, preparation, prepare, quiet_pillow
from torchdigits.network import SigmoidMLP

_MAX_SHOWN = 12  # pictures in one figure


class Recognition(NamedTuple):
    """What a network answers to one picture.

    Attributes:
        digit: the one with the largest output.
        runner_up: the one with the second largest.
        activations: the ten outputs.
        hidden: the activations of every hidden layer.
        pixels: what the network was shown, `(784,)`, uint8.
    """

    digit: int
    runner_up: int
    activations: list[float]
    hidden: list[list[float]]
    pixels: np.ndarray


class Recognizer:
    """A trained network that reads pictures of digits.

    Args:
        checkpoint: a file for `load_network`. Default: the shipped network.

    Raises:
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
    """

    def __init__(self, checkpoint: Path | str | None = None) -> None:
        self.network = load_digit_network(checkpoint)

    def recognize(self, picture: Picture) -> Recognition:
        """Recognise one digit.

        Args:
            picture: a file, a Pillow image or an array, as `prepare` takes it.

        Raises:
            ImageError: the picture cannot be read, or there is no digit on it.
        """
        return self.answer(prepare(picture))

    @torch.inference_mode()
    def answer(self, pixels: np.ndarray) -> Recognition:
        """The answer to pixels that are prepared already, `(784,)`, uint8."""
        image = torch.tensor(pixels, dtype=next(self.network.parameters()).dtype) / 255
        *hidden, activations = self.network.forward_pass(image)[1][1:]
        digit, runner_up = activations.topk(2).indices.tolist()
        return Recognition(digit, runner_up, activations.tolist(), [layer.tolist() for layer in hidden], pixels)


def predict(
    pictures: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE ...", help_behavior_hint="")
    ],
    *,
    checkpoint: OptionalPath = None,
    show: OptionalPath = None,
    json: bool = False,
) -> None:
    """Print the digit in each picture, and the one that comes next, with the activations of their outputs.

    Args:
        pictures: files, folders of them, or patterns such as 'scans/*.png'. Any size and colours, one digit on each.
        checkpoint: the trained network; the shipped one by default.
        show: a file to draw the steps from a picture to what the network sees.
        json: print one JSON object a picture, with all ten activations.
    """
    quiet_pillow()
    files, failed = _files(pictures)
    if show is not None:
        check_new_file("--show", show, FIGURE_SUFFIXES)
        if len(files) > _MAX_SHOWN:
            raise OptionError(f"--show: {len(files):,} pictures; it shows {_MAX_SHOWN} at most")
    recognizer = Recognizer(checkpoint)
    strips: list[tuple[str, dict[str, np.ndarray]]] = []
    for path in _with_progress_bar(files):
        name = printable(path)
        try:
            steps = preparation(path)
        except ImageError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
            continue
        digit, runner_up, activations, *_ = recognizer.answer([*steps.values()][-1].reshape(784))
        if show is not None:
            strips.append((f"{Path(name).name}: {digit}", steps))
        if json:
            answer = {"file": str(path), "digit": digit, "runner_up": runner_up, "activations": activations}
            print(json_format.dumps(answer), flush=True)
        else:
            answers = f"{digit} ({activations[digit]:.3f}), then {runner_up} ({activations[runner_up]:.3f})"
            print(f"{name}: {answers}", flush=True)
    if show is not None and strips:
        plot_preparation(strips, show)
    if failed:
        raise SystemExit(2)


def _files(pictures: Sequence[Path]) -> tuple[list[Path], bool]:
    """The files that are meant, and whether something was meant that is not there, which is said."""
    if not pictures:
        raise ImageError("no picture named")
    files: list[Path] = []
    failed = False
    for path in pictures:
        try:
            if path.is_dir():
                found = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir()]
            elif glob.has_magic(str(path)) and not path.exists():
                matches = map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207 (of any folder)
                found = [file for file in matches if not file.is_dir()]
            else:
                found = [path]
            problem = "there are no pictures"
        except OSError as error:
            found, problem = [], error.strerror or str(error)
        if not found:
            failed = True
            print(f"error: {printable(path)}: {problem}", file=sys.stderr)
        files += sorted(found)
    return files, failed


def _with_progress_bar(files: list[Path]) -> Iterator[Path]:
    """The files; and a progress bar on a terminal."""
    if len(files) < 2 or not sys.stderr.isatty():
        yield from files
        return
    from rich.console import Console
    from rich.progress import Progress

    # What is printed goes above the bar, but where it is not printed on the terminal, to where it should.
    console, above = Console(stderr=True), sys.stdout.isatty()
    with Progress(console=console, transient=True, redirect_stdout=above) as progress:
        yield from progress.track(files, description="recognising")


def load_digit_network(checkpoint: Path | str | None) -> SigmoidMLP:
    """Load a network as `load_network` does, and refuse one that does not read digits."""
    network = load_network(checkpoint)
    if (network.sizes[0], network.sizes[-1]) != (784, 10):
        raise CheckpointError(f"{checkpoint} has layers of {network.sizes} neurons: wanted is 784 inputs, 10 outputs")
    return network
