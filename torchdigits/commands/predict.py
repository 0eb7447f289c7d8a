"""Recognise the digits in pictures."""

import glob
import json as json_format
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchdigits.errors import ImageError, OptionError, printable
from torchdigits.figures import FIGURE_SUFFIXES
from torchdigits.files.writing import becoming, check_new_file
from torchdigits.recognition.figures import Mark, Strip, plot_preparation
from torchdigits.recognition.pictures import OTHER_SUFFIXES, SUFFIXES
from torchdigits.recognition.sight import Sight
from torchdigits.recognition.workers import Workers

if TYPE_CHECKING:
    from torchdigits.recognition.recognizer import Page, Recognizer

_MAX_SHOWN = 12  # pictures in one figure
_MOST_STRANGE = 0.4  # of what is found on a page: what may be unsure, for it to be one of digits
_AT_ONCE = 32  # pictures whose digits go through the network together
_MOST_WORKERS = 8  # each takes 60 MB, and up to 700 for a large picture


def predict(
    pictures: tuple[Path, ...],
    *,
    checkpoint: Path | None = None,
    unsure: float | None = None,
    show: Path | None = None,
    json: bool = False,
) -> None:
    """Print the digit in each picture, or the lines of digits on a page.

    With a single digit come the runner-up, and the activations of both. A guess that is probably no digit is marked.

    Args:
        pictures: files, folders, or patterns such as 'scans/*.png'; of any size and colours.
        checkpoint: the network (default: the shipped one).
        unsure: print ? for a digit on a page whose doubt is above this, 0 to 1; 0.987 suits most.
        show: a new file: how a digit was prepared, or where the digits of a page are.
        json: print a JSON object for each picture.

    Raises:
        OptionError: the file for `show` exists or cannot be written, or there are too many pictures for it; or
            `unsure` is not 0 to 1.
        CheckpointError: the file holds no network of 784 inputs and 10 outputs.
        ImageError: no picture is named.
        SystemExit: with status 2, at the end, if a picture could not be read; stderr has a line about each.
    """
    if unsure is not None and not 0 <= unsure <= 1:  # nor NaN
        raise OptionError(f"--unsure {unsure:g}: it must be 0 to 1")
    files, failed = _files(pictures)
    if show is not None:
        check_new_file("--show", show, FIGURE_SUFFIXES)
        if len(files) > _MAX_SHOWN:
            raise OptionError(f"--show: it draws {_MAX_SHOWN} pictures at most, and there are {len(files):,}")
    strips: list[Strip] = []
    with _looked_at(files, steps=show is not None) as looks:
        import torch  # here, so that the workers start beside it

        from torchdigits.recognition.recognizer import UNSURE, Recognizer

        torch.set_num_threads(1)  # the workers need the other processors
        recognizer = Recognizer(checkpoint, UNSURE if unsure is None else unsure)
        several = len(files) > 1 or failed
        for path, look, page in _read(_with_progress_bar(files), looks, recognizer):
            if page is None:
                failed = True
                print(f"error: {look}", file=sys.stderr)
                continue
            if show is not None and not isinstance(look, ImageError):
                strips.append(_strip(Path(printable(path)).name, page, look[1]))
            print(_as_json(path, page, unsure) if json else _as_text(path, page, unsure, several), flush=True)
    if show is not None and strips:
        with becoming("--show", show) as part:
            plot_preparation(strips, part)
    if failed:
        raise SystemExit(2)


Look = tuple["Sight", dict[str, np.ndarray]]  # and the steps of its preparation as one digit, if they are shown


def _read(
    files: Iterator[Path], looks: Iterator[Look | ImageError], recognizer: "Recognizer"
) -> Iterator[tuple[Path, Look | ImageError, "Page | None"]]:
    """The pages in files, some in a forward pass; None where there is none."""
    pairs = zip(files, looks, strict=True)
    while batch := list(islice(pairs, _AT_ONCE)):
        pages = iter(recognizer.read_all([look[0] for _, look in batch if not isinstance(look, ImageError)]))
        for path, look in batch:
            yield path, look, None if isinstance(look, ImageError) else next(pages)


def _said_in_a_line(page: "Page", unsure: float | None) -> str | None:
    """What is said of a single digit, or of a page that is hardly one of digits; None of another page."""
    answers = [found.recognition for found in page.digits]
    if len(answers) > 1:
        strange = sum(not answer.sure for answer in answers)
        if unsure is not None or strange <= _MOST_STRANGE * len(answers):
            return None
        return f"unsure: {strange} of {len(answers)} marks are hardly like digits (--unsure 1 reads them all the same)"
    [(digit, runner_up, activations, *_, sure)] = answers
    said = f"{digit} ({activations[digit]:.3f}), then {runner_up} ({activations[runner_up]:.3f})"
    return said if sure else f"unsure, perhaps {said}"


def _as_text(path: Path, page: "Page", unsure: float | None, several: bool) -> str:
    """What is printed of a picture, which may be one of several."""
    name = printable(path)
    if (said := _said_in_a_line(page, unsure)) is not None:
        return f"{name}: {said}"
    text = page.text if unsure is None else page.sure_text
    return f"{name}:\n{text}" if several else text


def _as_json(path: Path, page: "Page", unsure: float | None) -> str:
    digits = [
        {
            "digit": digit.digit,
            "runner_up": digit.runner_up,
            "activations": digit.activations,
            "doubt": digit.doubt,
            "sure": digit.sure,
            "box": list(box),
        }
        for box, digit in page.digits
    ]
    single = {key: digits[0][key] for key in ("digit", "runner_up", "activations")} if len(digits) == 1 else {}
    text = page.text if unsure is None else page.sure_text
    return json_format.dumps({"file": str(path)} | single | {"text": text, "digits": digits})


def _strip(name: str, page: "Page", steps: dict[str, np.ndarray]) -> Strip:
    """What is drawn of a picture: the steps of a single digit's preparation, or a page with its digits."""
    answers = [found.recognition for found in page.digits]
    if len(answers) == 1 and np.array_equal([*steps.values()][-1].reshape(784), answers[0].pixels):
        return Strip(name, str(answers[0].digit), steps)
    grey = steps["grey"]
    scale = grey.shape[1] / page.size[0]
    marks = [Mark(tuple(scale * side for side in box), str(digit.digit), digit.sure) for box, digit in page.digits]
    return Strip(name, f"{len(answers)} digits" if len(answers) > 1 else "1 digit", {"grey": grey}, marks)


@contextmanager
def _looked_at(files: list[Path], steps: bool) -> Iterator[Iterator[Look | ImageError]]:
    """What there is to read on the pictures in files, in order; or why there is nothing."""
    # One more than there are processors, as each waits for its next picture now and then.
    number = max(1, min(len(files), 1 + (os.cpu_count() or 1), _MOST_WORKERS))

    def look(path: Path) -> Look | ImageError:
        try:
            return Sight(**workers.work(path, "look")), workers.work(path, "steps") if steps else {}
        except ImageError as error:
            return type(error)(str(error))  # without its traceback, which would keep the file's bytes

    with Workers(number) as workers, ThreadPoolExecutor(number) as threads:
        try:
            yield threads.map(look, files)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            workers.close()  # so that Ctrl-C does not wait for the pictures at work


def _files(pictures: Sequence[Path]) -> tuple[list[Path], bool]:
    """The files that are named, and whether a name has no pictures. stderr says which."""
    if not pictures:
        raise ImageError("no picture is named")
    files: list[Path] = []
    failed = False
    named = SUFFIXES + OTHER_SUFFIXES  # of the others it is told that they cannot be read
    for path in pictures:
        try:
            if path.is_dir():
                found = [file for file in path.iterdir() if file.suffix.lower() in named and _may_be_read(file)]
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
