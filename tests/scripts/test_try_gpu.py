from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error

Run = Callable[..., Outcome]


def report_in(folder: Path) -> list[list[str]]:
    head, _, _, _, *rows = (folder / "report.md").read_text().splitlines()
    assert head == "A card"
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    return [[name, what, status, last] for name, what, status, _, last in cells]


def test_each_step_tells_what_came_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    trial = import_module("try_gpu")
    here = "import os, torchdigits; print(os.getcwd() == os.path.dirname(os.path.dirname(torchdigits.__file__)))"
    well = trial.Step("well", "goes well", ("-c", f"{here}; print('5 | 6'); print()"))
    ill = trial.Step("ill", "fails", ("-c", "print('half', flush=True); raise SystemExit('no such thing')"))
    assert not trial.run_all([ill, well], tmp_path, "A card", 300)
    assert (tmp_path / "01-ill.txt").read_text() == "half\nno such thing\n"
    assert (tmp_path / "02-well.txt").read_text() == "True\n5 | 6\n\n"
    assert report_in(tmp_path) == [["ill", "fails", "1", "no such thing"], ["well", "goes well", "0", "5 / 6"]]
    assert trial.run_all([well], tmp_path, "A card", 300)


def test_what_has_no_time_left_is_ended_or_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    trial = import_module("try_gpu")
    long = trial.Step("long", "takes long", ("-c", "import time; print('begun', flush=True); time.sleep(600)"))
    never = trial.Step("never", "has no time", ("-c", "raise AssertionError"))
    assert not trial.run_all([long, never], tmp_path, "A card", 1.5)
    assert report_in(tmp_path) == [
        ["long", "takes long", "ended: no time left", "begun"],
        ["never", "has no time", "not begun", ""],
    ]


@pytest.mark.slow
def test_the_steps_have_options_that_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_script: Run
) -> None:
    """Each command is understood, but for its GPU: without one it ends with one line that says so."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: `python scripts/try_gpu.py` tries them")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    steps = import_module("try_gpu").steps(tmp_path)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for step in steps:
        script, *words = step.command
        if "--accelerator" in words:
            assert_one_line_error(run_script(Path(script).name, *words), "GPU")


def test_without_a_gpu_or_time_it_is_one_line(run_script: Run, tmp_path: Path) -> None:
    assert_one_line_error(run_script("try_gpu.py", "--minutes", 0), "--minutes 0")
    if not torch.cuda.is_available():
        assert_one_line_error(run_script("try_gpu.py", "--output", tmp_path / "here"), "there is no CUDA GPU")
        assert not (tmp_path / "here").exists()
