"""What a run is told: what is refused, what is saved, and what may differ when it goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchdigits.errors import OptionError
from torchdigits.training.options import TrainOptions

OPTIONS = TrainOptions(
    dataset="digits",
    data_dir=Path("data"),
    hidden=(7, 5),
    epochs=3,
    batch_size=4,
    learning_rate=0.25,
    seed=9,
    accelerator="cpu",
    devices=2,
    precision="64",
    engine="eager",
    output=Path("runs"),
)
PLAIN: dict[str, Any] = {
    "dataset": "digits",
    "data_dir": str(Path.cwd() / "data"),
    "hidden": [7, 5],
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 0.25,
    "seed": 9,
    "accelerator": "cpu",
    "devices": 2,
    "precision": "64",
    "engine": "eager",
    "output": "runs",
}
FREE: dict[str, Any] = {"data_dir": Path("/other"), "epochs": 5, "accelerator": "gpu", "engine": "compiled"}
OTHER: dict[str, Any] = {
    "dataset": "mnist",
    "hidden": (7,),
    "batch_size": 5,
    "learning_rate": 0.5,
    "seed": 8,
    "precision": "32",
}


def test_options_are_saved_and_read_again() -> None:
    assert json.loads(json.dumps(OPTIONS.to_plain())) == PLAIN
    assert TrainOptions.from_plain(PLAIN) == OPTIONS
    assert TrainOptions(**PLAIN) == OPTIONS  # lists and texts are as good as tuples and paths
    whole = PLAIN | {"learning_rate": 3, "data_dir": None, "hidden": []}  # which JSON may make of 3.0
    assert TrainOptions.from_plain(whole) == replace(OPTIONS, learning_rate=3.0, data_dir=None, hidden=())


def test_a_run_is_called_by_its_layers_learning_rate_and_seed() -> None:
    assert OPTIONS.sizes == (784, 7, 5, 10)
    assert OPTIONS.name == "digits-784-7-5-10-eta0.25-seed9"
    assert TrainOptions(hidden=(1,), learning_rate=1e-5).name == "mnist-784-1-10-eta1e-05-seed0"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("epochs", 0, "epochs 0: it must be 1 or more"),
        ("batch_size", 0, "batch size 0: it must be 1 or more"),
        ("devices", 0, "devices 0: it must be 1 or more"),
        ("hidden", (3, 0), "hidden 3 0: a layer needs 1 neuron or more"),
        ("learning_rate", 0.0, "learning rate 0.0"),
        ("seed", -1, "seed -1"),
        ("output", "\ud800", r"--output '\ud800': there can be no such folder: 'utf-8' codec can't encode"),
        ("data_dir", "\ud800", r"--data-dir '\ud800': there can be no such folder: 'utf-8' codec can't encode"),
        ("output", "\0" + "x" * 400, r"--output '\x00" + "x" * 299 + "': there can be no such folder: "),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: Any, text: str) -> None:
    with pytest.raises(OptionError) as refusal:
        TrainOptions(**{name: value})
    assert str(refusal.value).startswith(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("dataset", "cifar"), ("precision", 64), ("data_dir", 3), ("output", None), ("seed", None)),
        *(("hidden", "12"), ("hidden", [12.0]), ("hidden", [True]), ("hidden", 12)),
        *(("epochs", "3"), ("epochs", 3.0), ("epochs", True), ("learning_rate", "3"), ("learning_rate", True)),
    ],
)
def test_a_saved_option_of_another_type_is_damaged(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^its option {name} is damaged$"):
        TrainOptions.from_plain(PLAIN | {name: value})


def test_a_run_goes_on_with_other_options_only_where_they_make_no_other_run(tmp_path: Path) -> None:
    folder = tmp_path / "moved" / "run"
    replace(OPTIONS, **FREE).check_goes_on_from(OPTIONS, folder, 5)
    for name, value in OTHER.items():
        with pytest.raises(OptionError, match=f"^--{name.replace('_', '-')} .*: the run in {folder} has "):
            replace(OPTIONS, **{name: value}).check_goes_on_from(OPTIONS, folder, 3)
    with pytest.raises(OptionError, match=f"^--epochs 3: the run in {folder} has 4 already$"):
        OPTIONS.check_goes_on_from(OPTIONS, folder, 4)


def test_a_run_goes_on_in_the_folder_that_it_is_in_whatever_that_was_called(tmp_path: Path) -> None:
    (tmp_path / "moved" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    for output in (tmp_path / "moved", tmp_path / "link", OPTIONS.output):
        replace(OPTIONS, output=output).check_goes_on_from(OPTIONS, tmp_path / "link" / "run", 3)
    with pytest.raises(OptionError, match=f"^--output {tmp_path}: the run in .* has runs$"):
        replace(OPTIONS, output=tmp_path).check_goes_on_from(OPTIONS, tmp_path / "moved" / "run", 3)


def test_what_differs_when_a_run_goes_on_is_told() -> None:
    assert OPTIONS.changed_from(OPTIONS) == {}
    assert replace(OPTIONS, output=Path("moved"), **FREE).changed_from(OPTIONS) == FREE | {"data_dir": "/other"}
