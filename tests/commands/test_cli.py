"""What all commands have in common: their help, their errors, and what they say is to be typed next."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, Outcome, assert_one_line_error

from torchdigits.commands import cli
from torchdigits.commands.options import call, parse
from torchdigits.errors import OptionError
from torchdigits.training.options import TrainOptions

Run = Callable[..., Outcome]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_a_screen(name: str, run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run_script(f"{name}.py", "--help")
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("usage: python ")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    doc = inspect.getdoc(getattr(import_module(f"torchdigits.commands.{name}"), name)) or ""
    assert " ".join(doc.split("\n\n")[0].split()) == cli.COMMANDS[name]


def test_a_terminal_of_one_column_gets_its_help_too() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--help-all"]
    environment = os.environ | {"COLUMNS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert "compiled many times as fast" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--epoch", "3"], "--epoch: no such option; perhaps you meant --epochs"),
        (["--batch_size", "3"], "--batch_size: no such option; perhaps you meant --batch-size"),
        (["--xyzzy"], "--xyzzy: no such option"),
        (["3"], "3: not expected"),
        ([""], "'': not expected"),
        (["--epochs", "3.5"], "--epochs: invalid int value: '3.5'"),
        (["--seed", "4294967296"], "seed 4294967296: it must be a whole number from 0 to 4294967295"),
        (["--learning-rate", "0"], "learning rate 0.0: it must be more than 0, and at most 3.4e38"),
    ],
)
def test_a_mistyped_option_says_what_was_meant_and_a_value_out_of_range_the_range(
    words: list[str], error: str, run_script: Run
) -> None:
    assert_one_line_error(run_script("train.py", *words), f"error: {error}")


def test_the_fields_of_a_dataclass_are_options_with_its_defaults() -> None:
    def command(options: TrainOptions, *, flag: bool = False) -> TrainOptions:
        return options

    given = parse(command, ["--hidden", "7", "5", "--epochs", "2"], "x")
    assert given.pop("flag") is False
    assert call(command, given) == TrainOptions(hidden=(7, 5), epochs=2)
    assert call(command, parse(command, [], "x", TrainOptions(seed=3))) == TrainOptions(seed=3)
    assert call(command, parse(command, ["--hidden"], "x")).hidden == ()


def test_a_positional_is_asked_for() -> None:
    def command(source: Path) -> None:
        pass

    with pytest.raises(OptionError, match="required: SOURCE"):
        parse(command, [], "x")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["scripts/train.py", "--epochs", "3"], "python scripts/predict.py 'a b'"),
        (["torchdigits", "train"], "torchdigits predict 'a b'"),
        (["/somewhere/torchdigits/__main__.py", "train"], "python -m torchdigits predict 'a b'"),
        (["/not/in/path/bin/torchdigits", "train"], "/not/in/path/bin/torchdigits predict 'a b'"),
    ],
)
def test_what_is_to_be_typed_next_is_in_the_form_in_which_the_command_was_called(
    argv: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr("shutil.which", lambda name: "torchdigits")
    assert cli.command_line("predict", Path("a b")) == line


def test_output_that_is_closed_is_no_traceback() -> None:
    command = f"{sys.executable} {ROOT / 'scripts' / 'evaluate.py'} --help >&-"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
