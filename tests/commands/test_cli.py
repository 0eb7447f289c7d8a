"""What all commands have in common: their help, their errors, and what they say is to be typed next."""

import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
from conftest import ROOT, Outcome, assert_one_line_error
from rich.console import Console

from torchdigits.commands import cli
from torchdigits.commands.options import call, parse
from torchdigits.errors import OptionError
from torchdigits.training.options import TrainOptions
from torchdigits.version import __version__

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


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_without_a_command_all_of_them_are_listed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["torchdigits", *words])
    monkeypatch.setattr("shutil.which", lambda name: "torchdigits")
    cli.torchdigits()
    usage, above, *commands, below, last = capsys.readouterr().out.splitlines()
    assert (usage, above, below) == ("usage: torchdigits COMMAND [OPTIONS]", "", "")
    assert [tuple(line.split(maxsplit=1)) for line in commands] == [*cli.COMMANDS.items()]
    assert last == "COMMAND --help lists the options of a command; --version says which version this is."


def test_the_version_is_told_and_a_mistyped_command_says_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["torchdigits", "--version"])
    cli.torchdigits()
    assert capsys.readouterr().out == f"torchdigits {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["torchdigits", "trian"])
    with pytest.raises(SystemExit) as stop:
        cli.torchdigits()
    there = "there are train, evaluate, predict, parity, check, sweep, convert and serve"
    outcome = Outcome(int(stop.value.code or 0), *capsys.readouterr())
    assert_one_line_error(outcome, f"error: trian: no such command; perhaps you meant train; {there}\n")


@pytest.mark.slow
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
    assert_one_line_error(run_script("train.py", *words), f"error: {error}\n")


def test_the_fields_of_a_dataclass_are_options_with_its_defaults() -> None:
    def command(options: TrainOptions, *, flag: bool = False) -> TrainOptions:
        return options

    given = parse(command, ["--hidden", "7", "5", "--epochs", "2"], "x")
    assert (given.pop("flag"), given["hidden"]) == (False, (7, 5))
    assert call(command, given) == TrainOptions(hidden=(7, 5), epochs=2)
    assert call(command, parse(command, [], "x", TrainOptions(seed=3))) == TrainOptions(seed=3)
    assert call(command, parse(command, ["--hidden"], "x")).hidden == ()


HELP = """\
usage: say 5% [OPTIONS] FILE ...

Do something, in 100 % of cases.

options:
  FILE ...                      what to read
  --kind {good,better}          how, 100 % [good]
  --rate FLOAT                  of learning [0.5]
  --limit INT                   if any
  --sizes [INT ...]             neurons in each layer [30 20]
  --name TEXT
  --a-much-longer-name-than-the-others TEXT
                                why [x]
  --quiet                       say nothing

--help-all says more of each.
"""
HELP_IN_FULL = """\
usage: say 5% [OPTIONS] FILE ...

Do something, in 100 % of cases. More of it. And more.

options:
  FILE ...                      what to read
  --kind {good,better}          how, 100 %; see
                                https://example.org/a-name-without-a-place-to-break-it,
                                which is some-what longer [good]
  --rate FLOAT                  of learning. It must be small and as large as
                                can be [0.5]
  --limit INT                   if any
  --sizes [INT ...]             neurons in each layer; first to last [30 20]
  --name TEXT
  --a-much-longer-name-than-the-others TEXT
                                why [x]
  --quiet                       say nothing
"""


def test_the_help_is_what_the_docstring_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(
        files: tuple[Path, ...],
        *,
        kind: Literal["good", "better"] = "good",
        rate: float = 0.5,
        limit: int | None = None,
        sizes: tuple[int, ...] = (30, 20),
        name: str = "",
        a_much_longer_name_than_the_others: str = "x",
        quiet: bool = False,
    ) -> None:
        """Do something, in
        100 % of cases.

        More of it.

        And more.

        Args:
            files: what to read.
            kind: how, 100 %; see https://example.org/a-name-without-a-place-to-break-it, which is some-what longer.
            rate: of learning. It must be small and as large as can be.
            limit: if any.
            sizes: neurons in each
                layer; first to last.
            a_much_longer_name_than_the_others: why.
            quiet: say nothing.

        Raises:
            OptionError: none of this.
        """

    def shown(word: str, columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            parse(command, [word], "say 5%")
        return capsys.readouterr().out

    assert shown("-h", 80) == shown("--help", 200) == HELP
    assert shown("--help-all", 200) == HELP_IN_FULL
    assert shown("--help-all", 70) != HELP_IN_FULL
    narrow = shown("--help-all", 1)
    assert "of learning. It must be\n" in narrow  # of 60 columns, as "small" would need 61
    assert narrow == shown("--help-all", 60)


def test_a_positional_is_asked_for() -> None:
    def command(source: Path) -> None:
        pass

    with pytest.raises(OptionError, match="required: SOURCE"):
        parse(command, [], "x")


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["scripts/train.py"], "python scripts/{}.py"),
        (["/in/path/torchdigits", "train"], "torchdigits {}"),
        (["/some/where/torchdigits/__main__.py", "train"], "python -m torchdigits {}"),
        (["/not/in/path/bin/torchdigits", "train"], "/not/in/path/bin/torchdigits {}"),
        (["-c", "train"], "torchdigits {}"),
    ],
)
def test_what_is_to_be_typed_next_is_in_the_form_in_which_the_command_was_called(
    argv: list[str], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [*argv, "--epochs", "3"])
    monkeypatch.setattr("shutil.which", lambda name: f"/in/path/{name}")
    assert cli.command_line("predict", Path("a b")) == f"{program.format('predict')} 'a b'"
    assert " ".join(cli.command_words()) == program.format("train")
    assert cli.options_given() == ["--epochs", "3"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_bar_is_shown_on_a_terminal_only_and_then_leaves_it(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    bar = cli.progress_bar()
    assert (bar.disable, bar.live.transient) == (not terminal, True)
    bar.add_task("training", total=4, completed=4)
    Console(file=(shown := io.StringIO()), width=80).print(bar.get_renderable())
    assert re.fullmatch(r"training ━+ -:--:--\n", shown.getvalue())


@pytest.mark.slow
def test_output_that_is_closed_is_no_traceback() -> None:
    command = f"{sys.executable} {ROOT / 'scripts' / 'evaluate.py'} --help >&-"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
