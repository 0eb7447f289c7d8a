"""Measure whole runs, from the shell to the test accuracy, in several programs: python scripts/whole_runs.py"""

import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Any, Literal

from torchdigits.commands.cli import main
from torchdigits.errors import OptionError
from torchdigits.files.writing import check_new_file

PROGRAMS = {
    "numpy-example": "the original's way: NumPy, an example at a time",
    "lightning": "Lightning as its examples show it",
    "pytorch": "plain PyTorch loop",
    "jax": "JAX, scan that gathers bytes",
    "train": "torchdigits train",
    "jax-vmap": "JAX, vmap of 32 networks: a network and epoch",
    "sweep": "torchdigits sweep of 32 networks: a network and epoch",
}
NETWORKS = 32
# JAX takes part where it is installed.
DEFAULT = tuple(name for name in PROGRAMS if not name.startswith("jax") or find_spec("jax"))


def whole_runs(
    *,
    only: tuple[str, ...] = DEFAULT,
    epochs: int = 30,
    dataset: Literal["mnist", "digits"] = "mnist",
    data_dir: Path | None = None,
    json: Path | None = None,
) -> None:
    """Time programs that train 784-30-10, validate after each epoch and test the best network, each in its own process.

    They take turns on all cores of the CPU: once with nothing compiled before, and twice more. Their thousands of
    mini-batches of 10 are the same but for Lightning's, which shuffles itself. The seconds of the two that train 32
    networks at once are divided by networks and epochs.

    Args:
        only: programs: numpy-example, lightning, pytorch, jax, train; of 32 networks at once, jax-vmap, sweep.
        epochs: of each.
        dataset: mnist, or the small digits that come with scikit-learn.
        data_dir: the folder of MNIST's IDX files (default: $TORCHDIGITS_DATA_DIR, else data).
        json: a file to write all figures to.

    Raises:
        OptionError: an option that makes no sense, or a program that cannot run here.
    """
    unknown = [name for name in only if name not in PROGRAMS]
    if unknown or not only:
        raise OptionError(f"{' '.join(('--only', *unknown))}: choose from {' '.join(PROGRAMS)}")
    if len(set(only)) < len(only):
        raise OptionError(f"--only {' '.join(only)}: each may be named once")
    if epochs < 1:
        raise OptionError(f"--epochs {epochs}: it must be 1 or more")
    if json is not None:
        check_new_file("--json", json, (".json",))
    folder = (data_dir or Path(os.environ.get("TORCHDIGITS_DATA_DIR") or "data")).resolve()
    rows: dict[str, dict[str, Any]] = {name: {"name": name, "what": PROGRAMS[name], "seconds": []} for name in only}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(3):
            for name, row in rows.items():
                if sys.stderr.isatty():
                    print(f"\r{f'turn {turn + 1} of 3: {name}':<40}\r", end="", file=sys.stderr, flush=True)
                took, row["peak_mb"], row["test"] = run(name, epochs, dataset, folder, Path(place, name))
                row["seconds"].append(took)
    print(f"{'from the shell to the test accuracy':<56}first, s  again, s  peak, MB  test images")
    for row in rows.values():
        first, *again = row["seconds"]
        print(f"{row['what']:<56}{first:8.3f}  {min(again):8.3f}  {row['peak_mb']:8.0f}  {row['test']}")
    if json is not None:
        options = {"epochs": epochs, "dataset": dataset}
        json.write_text(dumps({"options": options, "rows": [*rows.values()]}, indent=2) + "\n")


def run(name: str, epochs: int, dataset: str, folder: Path, place: Path) -> tuple[float, float, str]:
    """Run a program, with a cache in its place; its seconds, its peak of memory in MB, and what it says of its test.

    Raises:
        OptionError: it fails.
    """
    place.mkdir(exist_ok=True)
    command = [str(Path(__file__).with_name("programs.py")), name, dataset, str(folder), str(epochs)]
    if name in {"train", "sweep"}:
        options = {"dataset": dataset, "data-dir": folder, "epochs": epochs, "accelerator": "cpu"}
        options |= {"output": place / f"{time.time_ns()}"} | ({"seeds": NETWORKS} if name == "sweep" else {})
        words = [str(word) for option, value in options.items() for word in (f"--{option}", value)]
        command = [str(Path(__file__).with_name(f"{name}.py")), *words]
    caches = dict.fromkeys(("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"), str(place))
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as printed,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        process = subprocess.Popen([sys.executable, *command], env=os.environ | caches, stdout=printed, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (printed, errors):
            file.seek(0)
        if status:
            *_, last = ["", *errors.read().split("\n")[:-1]]
            raise OptionError(f"{name} cannot run here ({last}): choose others with --only")
        found = re.search(r"^(?:Test: |Best:.*validation, )(\d+ / \d+)", printed.read(), re.MULTILINE)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    share = NETWORKS * epochs if name in {"jax-vmap", "sweep"} else 1
    return took / share, peak, found[1] if found else ""


if __name__ == "__main__":
    main(whole_runs)
