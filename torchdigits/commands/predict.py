"""Recognise the digits in pictures."""

import glob
import json as json_format
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from torchdigits.errors import ImageError, OptionError, printable
from torchdigits.figures import FIGURE_SUFFIXES
from torchdigits.files.writing import becoming, check_new_file
from torchdigits.recognition.figures import Strip, plot_preparation
from torchdigits.recognition.pictures import SUFFIXES
from torchdigits.recognition.workers import Workers

_MAX_SHOWN = 12  # pictures in one figure
_MOST_WORKERS = 8  # each takes 70 MB, and up to 700 for a large picture


def predict(
    pictures: tuple[Path, ...],
    *,
    checkpoint: Path | None = None,
    show: Path | None = None,
    json: bool = False,
) -> None:
    """Print the digit in each picture.

    The runner-up comes with it, and the activations of both.

    Args:
        pictures: files, folders, or patterns such as 'scans/*.png'; of any size and colours, one digit on each.
        checkpoint: the network (default: the shipped one).
        show: a new file: how each picture was prepared.
        json: print a JSON object for each picture.

    Raises:
        OptionError: the file for `show` exists or cannot be written, or there are too many pictures for it.
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
        ImageError: no picture is named.
        SystemExit: with status 2, at the end, if a picture could not be read; stderr has a line about each.
    """
    files, failed = _files(pictures)
    if show is not None:
        check_new_file("--show", show, FIGURE_SUFFIXES)
        if len(files) > _MAX_SHOWN:
            raise OptionError(f"--show: it draws {_MAX_SHOWN} pictures at most, and there are {len(files):,}")
    strips: list[Strip] = []
    with _prepared(files, every_step=show is not None) as prepared:
        from torchdigits.recognition.recognizer import Recognizer  # here, so that the workers start beside torch

        recognizer = Recognizer(checkpoint)
        for path, steps in zip(_with_progress_bar(files), prepared, strict=True):
            if isinstance(steps, ImageError):
                failed = True
                print(f"error: {steps}", file=sys.stderr)
                continue
            name = printable(path)
            digit, runner_up, activations, *_ = recognizer.answer([*steps.values()][-1].reshape(784))
            if show is not None:
                strips.append(Strip(Path(name).name, str(digit), steps))
            if json:
                answer = {"file": str(path), "digit": digit, "runner_up": runner_up, "activations": activations}
                print(json_format.dumps(answer), flush=True)
            else:
                answers = f"{digit} ({activations[digit]:.3f}), then {runner_up} ({activations[runner_up]:.3f})"
                print(f"{name}: {answers}", flush=True)
    if show is not None and strips:
        with becoming("--show", show) as part:
            plot_preparation(strips, part)
    if failed:
        raise SystemExit(2)


@contextmanager
def _prepared(files: list[Path], every_step: bool) -> Iterator[Iterator[dict[str, np.ndarray] | ImageError]]:
    """The pictures in files after the steps of their preparation, or the last, in order; or why there are none."""
    number = max(1, min(len(files), os.cpu_count() or 1, _MOST_WORKERS))

    def steps(path: Path) -> dict[str, np.ndarray] | ImageError:
        try:
            return workers.steps(path, last=not every_step)
        except ImageError as error:
            return type(error)(str(error))  # without its traceback, which would keep the file's bytes

    with Workers(number) as workers, ThreadPoolExecutor(number) as threads:
        try:
            yield threads.map(steps, files)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            workers.close()  # so that Ctrl-C does not wait for the pictures at work


def _files(pictures: Sequence[Path]) -> tuple[list[Path], bool]:
    """The files that are named, and whether a name has no pictures. stderr says which."""
    if not pictures:
        raise ImageError("no picture is named")
    files: list[Path] = []
    failed = False
    for path in pictures:
        try:
            if path.is_dir():
                found = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and _may_be_read(file)]
            elif glob.has_magic(str(path)) and not path.exists():
                found = [file for file in set(map(Path, _matches(str(path)))) if _may_be_read(file)]
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


def _may_be_read(file: Path) -> bool:
    """Whether it is no folder, FIFO or device. A link to nothing is to be read, and so to be told of."""
    return file.is_file() or not file.exists()


def _matches(pattern: str) -> Iterator[str]:
    """As glob finds them, but `**` does not follow links to folders, which may lead back to themselves."""
    before, *after = re.split(r"(?<![^/])\*\*(?:/+|$)", pattern, maxsplit=1)
    if not after:
        yield from glob.iglob(pattern)  # noqa: PTH207 (a pattern may begin anywhere)
        return
    for top in glob.iglob(before) if before else ["."]:  # noqa: PTH207
        for folder, folders, _ in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from _matches(os.path.join(glob.escape(folder), after[0] or "*"))  # noqa: PTH118


def _with_progress_bar(files: list[Path]) -> Iterator[Path]:
    """The files, one by one, with a progress bar if stderr is a terminal."""
    if len(files) < 2 or not sys.stderr.isatty():
        yield from files
        return
    from rich.console import Console
    from rich.progress import Progress

    # Answers that are printed on the terminal go above the bar; redirected ones go where they should.
    console, above = Console(stderr=True), sys.stdout.isatty()
    with Progress(console=console, transient=True, redirect_stdout=above) as progress:
        yield from progress.track(files, description="recognising")
