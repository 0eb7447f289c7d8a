"""Try all that says `--accelerator gpu` on this machine's GPU, the most important first: python scripts/try_gpu.py"""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import torch

from torchdigits.commands.cli import main
from torchdigits.errors import OptionError
from torchdigits.files.writing import new_folder
from torchdigits.training.options import TrainOptions

ROOT = Path(__file__).parent.parent


class Step(NamedTuple):
    """What is tried.

    Attributes:
        name: of its file.
        what: it tells.
        command: for Python, from the project's folder.
    """

    name: str
    what: str
    command: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        status: the exit status; in words, if it was ended or not begun.
        seconds: it took.
        last: line that it wrote.
    """

    status: str
    seconds: float
    last: str


def steps(folder: Path) -> list[Step]:
    """What there is to try; runs are written to the folder."""
    gpu = ("--accelerator", "gpu")
    runs = {engine: str(folder / engine) for engine in ("compiled", "eager")}
    found = [Step("tests", "the tests that need a GPU", ("-m", "pytest", "-m", "gpu", "-n0", "-q"))]
    for engine, place in runs.items():
        command = ("scripts/train.py", *gpu, "--engine", engine, "--output", place)
        found.append(Step(f"train-{engine}", f"30 epochs, engine {engine}", command))
        best = str(Path(place, f"{TrainOptions().name}-run1", "best.ckpt"))
        read = ("scripts/evaluate.py", "--checkpoint", best)
        found.append(Step(f"read-{engine}", "its best network, read on the CPU", read))
    precisions = ("--precision", "64", "32", "tf32", "bf16")
    found += [
        Step("parity", "gradients against NumPy's", ("scripts/parity.py", *gpu, *precisions)),
        Step("in-step", "1,000 updates against NumPy's", ("scripts/parity.py", *gpu, "--in-step", "1000")),
        Step("benchmark", "an epoch, beside other programs", ("scripts/benchmark.py", *gpu)),
    ]
    for seeds in ("32", "256", "1000"):
        command = ("scripts/sweep.py", *gpu, "--seeds", seeds, "--output", str(folder / f"sweep-{seeds}"))
        found.append(Step(f"sweep-{seeds}", f"{seeds} networks at once", command))
    return found


def try_gpu(*, data_dir: Path | None = None, minutes: float = 25, output: Path = Path("checkpoints")) -> None:
    """Try all that says `--accelerator gpu`, and end with status 1 if something does not work.

    What each step writes goes to a file of its own as it comes, and after each the report is written anew, so that a
    trial that is cut off has told something. Nothing needs to be installed but what the project needs, and pytest.

    Args:
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).
        minutes: for all of it; what is not done by then is ended, or not begun.
        output: where a folder gpu-run1, -run2, ... is made for all this.

    Raises:
        OptionError: there is no GPU, or no time.
    """
    if not minutes > 0:
        raise OptionError(f"--minutes {minutes:g}: it must be more than 0")
    if not torch.cuda.is_available():
        raise OptionError("there is no CUDA GPU here, or none that this torch can use")
    # Through the environment, as the tests have no option for it.
    os.environ["TORCHDIGITS_DATA_DIR"] = str(
        (data_dir or Path(os.environ.get("TORCHDIGITS_DATA_DIR") or "data")).resolve()
    )
    folder = new_folder(output, "gpu").resolve()
    head = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    if not run_all(steps(folder), folder, head, 60 * minutes):
        raise SystemExit(1)


def run_all(tried: list[Step], folder: Path, head: str, seconds: float) -> bool:
    """Take the steps one after the other, in so many seconds; whether all went well."""
    end = monotonic() + seconds
    outcomes: list[Outcome] = []
    for number, step in enumerate(tried, 1):
        outcomes.append(_run(step, folder / f"{number:02}-{step.name}.txt", end - monotonic()))
        rows = [
            f"| {one.name} | {one.what} | {came.status} | {came.seconds:.0f} s | {came.last.replace('|', '/')} |"
            for one, came in zip(tried, outcomes, strict=False)
        ]
        table = ["| step | what | status | took | last line |", "| --- | --- | --- | --- | --- |", *rows]
        (folder / "report.md").write_text("\n".join([head, "", *table]) + "\n", encoding="utf-8")
        print(f"{step.name}: {outcomes[-1].status} after {outcomes[-1].seconds:.0f} s: {outcomes[-1].last}", flush=True)
    print(f"The report is {folder / 'report.md'}.")
    return all(came.status == "0" for came in outcomes)


def _run(step: Step, file: Path, seconds: float) -> Outcome:
    if seconds <= 0:
        return Outcome("not begun", 0, "")
    begun = monotonic()
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with file.open("wb") as out:
        try:
            status = str(
                subprocess.run(
                    [sys.executable, *step.command],
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": paths},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    check=False,
                ).returncode
            )
        except subprocess.TimeoutExpired:
            status = "ended: no time left"
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    return Outcome(status, monotonic() - begun, next((line.strip() for line in reversed(lines) if line.strip()), ""))


if __name__ == "__main__":
    main(try_gpu)
