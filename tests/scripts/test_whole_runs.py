import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, assert_one_line_error

Run = Callable[..., Outcome]


@pytest.mark.slow
def test_programs_are_timed_from_the_shell_and_prove_that_they_trained(run_script: Run, tmp_path: Path) -> None:
    options = ("--dataset", "digits", "--epochs", 2, "--only", "numpy-example", "train", "--json", tmp_path / "w.json")
    done = run_script("whole_runs.py", *options)
    assert (done.status, done.err) == (0, "")
    rows = json.loads((tmp_path / "w.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["numpy-example", "train"]
    for row in rows:
        assert len(row["seconds"]) == 3
        assert min(row["seconds"]) > 0.5
        assert row["peak_mb"] > 50
        assert row["test"] in done.out
        assert 200 < int(row["test"].removesuffix(" / 290")) <= 290


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "steam"], ["--only steam", "jax-vmap"]),
        (["--only"], ["--only", "jax-vmap"]),
        (["--only", "train", "train"], ["train train", "once"]),
        (["--epochs", "0"], ["--epochs 0", "1 or more"]),
        (["--json", "nowhere/w.json"], ["--json nowhere/w.json"]),
        (
            ["--only", "numpy-example", "--dataset", "mnist", "--data-dir", "nowhere"],
            ["numpy-example cannot run here (FileNotFoundError", "nowhere/MNIST/raw", "choose others with --only"],
        ),
    ],
)
def test_bad_options_are_one_line(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(run_script("whole_runs.py", "--dataset", "digits", *options), *words)
    assert list(tmp_path.iterdir()) == []
