import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome, assert_one_line_error

Run = Callable[..., Outcome]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The cores that the process was pinned to, which here it is not; its environment is given back."""
    asked: list[list[int]] = []
    if hasattr(os, "sched_setaffinity"):  # as on Linux
        monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: asked.append(cores))
    for variable in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM"):
        monkeypatch.setenv(f"{variable}_NUM_THREADS", "1")
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    return asked


@pytest.mark.slow
def test_it_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    """Which it pins to a core and sets the libraries' threads of, before they are loaded."""
    options = f"--dataset digits --epochs 1 --only numpy pytorch --json {tmp_path / 'b.json'}"
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["name"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]] == ["numpy", "pytorch"]


@pytest.mark.slow
def test_it_times_what_was_chosen_and_proves_that_it_trained(
    run_script: Run, tmp_path: Path, pinned: list[list[int]]
) -> None:
    options = "--dataset digits --epochs 2 --only numpy-example numpy pytorch lightning eager compiled"
    done = run_script("benchmark.py", *options.split(), "--json", tmp_path / "b.json", "--figure", tmp_path / "b.png")
    assert (done.status, done.err) == (0, "")
    assert [len(cores) for cores in pinned] == [1] * hasattr(os, "sched_setaffinity")
    record = json.loads((tmp_path / "b.json").read_text())
    ours = {"epochs": 2, "threads": 1, "dataset": "digits", "accelerator": "cpu", "hidden": [30], "batch_size": 10}
    assert record["options"] == ours
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["numpy-example", "numpy", "pytorch", "lightning", "eager", "compiled"]
    for row in rows.values():
        assert len(row["epoch_seconds"]) == 2
        assert row["median"] == sum(row["epoch_seconds"]) / 2 > 0
        assert row["what"] in done.out
        assert f"{row['test']['correct']} / 290" in done.out
    # After three epochs from the same weights, in the same order, but for Lightning's example, which shuffles itself.
    correct = {name: row["test"]["correct"] for name, row in rows.items()}
    assert min(correct.values()) > 200
    del correct["lightning"]
    assert max(correct.values()) - min(correct.values()) <= 2
    assert rows["numpy-example"]["compile_seconds"] is None
    assert rows["compiled"]["compile_seconds"] > 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "steam"], ["--only steam", "compiled-loop"]),
        (["--only"], ["--only", "compiled-loop"]),
        (["--only", "numpy", "numpy"], ["numpy numpy", "once"]),
        (["--epochs", "0"], ["--epochs 0", "1 or more"]),
        (["--hidden", "30", "0"], ["--hidden 0", "1 or more"]),
        (["--batch-size", "0"], ["--batch-size 0", "1 or more"]),
        (["--threads", "0"], ["--threads 0", "1 or more"]),
        (["--threads", "100000"], ["--threads 100000", "cores"]),
        (["--json", "nowhere/b.json"], ["--json nowhere/b.json"]),
        (["--figure", "b.bmp"], ["--figure b.bmp", ".png"]),
        (["--json", "kept.json"], ["--json kept.json", "exists already"]),
    ],
)
def test_bad_options_are_one_line(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept.json").write_text("precious")
    assert_one_line_error(run_script("benchmark.py", "--dataset", "digits", *options), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]
    assert Path("kept.json").read_text() == "precious"


@pytest.mark.usefixtures("pinned")
def test_a_contender_that_cannot_run_is_one_line(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    outcome = run_script("benchmark.py", "--dataset", "digits", "--only", "jax")
    assert outcome.status == 2
    assert outcome.err.startswith("error: jax cannot run here (")
    assert "'.[bench]'" in outcome.err
    assert outcome.err.count("\n") == 1
