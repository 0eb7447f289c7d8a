"""Commands where little is as it should be: the output, the names of files, the environment."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Outcome, assert_one_line_error
from PIL import Image, ImageDraw

from torchdigits.commands import cli, evaluate, predict
from torchdigits.files.networks import shipped_checkpoint
from torchdigits.recognition.figures import plot_preparation
from torchdigits.recognition.measuring import measure

Run = Callable[..., Outcome]
NO_UTF8 = "n\udcff"  # as Python shows a byte that is no UTF-8


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A picture of a 1."""
    image = Image.new("L", (100, 100), 255)
    ImageDraw.Draw(image).rectangle((46, 20, 53, 79), fill=0)
    image.save(path := tmp_path / "one.png")
    return path


def python(*words: str, redirected: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
    """Run Python from a shell that redirects its output."""
    if "/dev/full" in redirected and not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | changed
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)


@pytest.mark.parametrize(
    ("word", "redirected", "status", "error"),
    [
        ("--help", ">&-", 0, ""),
        ("--help", ">/dev/full", 2, "error: No space left on device\n"),
        ("--help", "1</dev/null", 2, "error: Bad file descriptor\n"),
        ("xyz", "2>/dev/full", 2, ""),
        ("xyz", "<&- >&- 2>&-", 2, ""),
    ],
)
def test_output_that_cannot_be_written_is_no_traceback(word: str, redirected: str, status: int, error: str) -> None:
    done = python("-m", "torchdigits", word, redirected=redirected)
    assert (done.returncode, done.stderr) == (status, error)


@pytest.mark.slow
def test_the_help_of_a_command_that_cannot_be_written_is_no_traceback() -> None:
    done = python(str(ROOT / "scripts" / "convert.py"), "--help", redirected=">/dev/full")
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_letters_that_cannot_be_shown_are_escaped(one: Path, tmp_path: Path) -> None:
    named = one.rename(tmp_path / "\xe9.png")
    code = "from torchdigits.commands.cli import main\ndef show(name: str) -> None:\n    print(name)\nmain(show)"
    done = python("-c", code, "show", str(named), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/\\xe9.png\n", "")


def test_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import time\nprint('importing', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('something else') from None\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, str(ROOT / "scripts" / "convert.py"), "--help"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "error: interrupted\n"
    assert process.returncode == 130


def test_both_forms_of_train_go_on_with_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["torchdigits", "train", "--resume", "nowhere"])
    with pytest.raises(SystemExit):
        cli.torchdigits()
    assert capsys.readouterr().err.startswith("error: --resume nowhere: a run goes on from its folder")


@pytest.mark.slow
def test_a_name_that_is_no_utf8_is_one_of_a_picture_a_network_and_a_folder(
    run_script: Run, one: Path, tmp_path: Path
) -> None:
    named = one.rename(tmp_path / f"{NO_UTF8}.png")
    checkpoint = Path(shutil.copy(shipped_checkpoint(), tmp_path / f"{NO_UTF8}.ckpt"))
    outcome = run_script("predict.py", named, "--json", "--checkpoint", checkpoint)
    assert (outcome.status, outcome.err) == (0, "")
    assert json.loads(outcome.out)["file"] == str(named)
    outcome = run_script("convert.py", checkpoint, tmp_path / f"{NO_UTF8}.json")
    assert (outcome.status, outcome.out) == (0, f"{tmp_path}/n\\udcff.json: 784-30-10, float32\n")
    folder = tmp_path / f"{NO_UTF8}-report"
    outcome = run_script("evaluate.py", "--dataset", "digits", "--checkpoint", checkpoint, "--figures", folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"checkpoint: `{tmp_path}/n?.ckpt`" in (folder / "report.md").read_text()


def test_a_backend_that_matplotlib_lacks_does_not_matter(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    assert run_script("convert.py", "--help").status == 0
    assert os.environ["MPLBACKEND"] == "agg"


def test_what_a_user_has_matplotlib_do_elsewhere_does_not_matter(one: Path, tmp_path: Path) -> None:
    """Such as to let LaTeX, which may not be there, write all text."""
    settings = tmp_path / ".config" / "matplotlib" / "matplotlibrc"
    settings.parent.mkdir(parents=True)
    settings.write_text("text.usetex: True\nfigure.facecolor: red\n")
    script = str(ROOT / "scripts" / "predict.py")
    shown: list[bytes] = []
    for name, home in (("plain.png", tmp_path / "nobody"), ("own.png", tmp_path)):
        done = python(script, str(one), "--show", str(tmp_path / name), HOME=str(home), XDG_CONFIG_HOME="")
        assert (done.returncode, done.stderr) == (0, "")
        shown.append((tmp_path / name).read_bytes())
    assert shown[0] == shown[1]


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    script = f'rmdir "$PWD" && exec {sys.executable} {ROOT / "scripts" / "convert.py"} --help'
    done = subprocess.run(["sh", "-c", script], cwd=gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the current folder is gone: go to another\n"


def test_a_library_that_cannot_be_loaded_is_one_line() -> None:
    done = python(str(ROOT / "scripts" / "convert.py"), "--help", TORCH_LOGS="nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: a library cannot be loaded: ValueError: ")
    assert done.stderr.count("\n") == 1
    code = (
        "from torchdigits.commands.cli import main\ndef late() -> None:\n    raise ImportError('no room')\nmain(late)"
    )
    done = python("-c", code, "late")
    assert (done.returncode, done.stderr) == (2, "error: a library cannot be loaded: ImportError: no room\n")


def test_a_home_that_matplotlib_cannot_write_to_does_not_matter(one: Path) -> None:
    code = "from torchdigits.commands.cli import main\ndef show() -> None:\n    import matplotlib.cm\nmain(show)"
    done = python("-c", code, "show", MPLCONFIGDIR="", HOME=f"{one}/home")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train.py", ["--resume"]),
        ("train.py", ["--dataset", "digits", "--output"]),
        ("train.py", ["--data-dir"]),
        ("evaluate.py", ["--checkpoint"]),
        ("evaluate.py", ["--data-dir"]),
        ("evaluate.py", ["--dataset", "digits", "--figures"]),
        ("predict.py", []),
        ("predict.py", ["one.png", "--checkpoint"]),
        ("predict.py", ["one.png", "--show"]),
        ("parity.py", ["--data-dir"]),
        ("parity.py", ["--dataset", "digits", "--train", "1", "--figure"]),
        ("sweep.py", ["--data-dir"]),
        ("sweep.py", ["--dataset", "digits", "--output"]),
        ("sweep.py", ["--dataset", "digits", "--resume", "--output"]),
        ("convert.py", []),
        ("convert.py", ["one.json"]),
        ("serve.py", ["--checkpoint"]),
    ],
)
@pytest.mark.parametrize("kind", ["long", "loop", "below a file"])
def test_a_name_that_cannot_be_one_is_one_line(
    script: str,
    words: list[str],
    kind: str,
    run_script: Run,
    one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.download", lambda self: (Path(self.root) / "x").mkdir())
    suffix = ".png" if words[-1:] in (["--show"], ["--figure"]) else ".json" if words == ["one.json"] else ""
    Path("loop" + suffix).symlink_to("loop" + suffix)
    name = {"long": "a" * 300, "loop": "loop", "below a file": "one.png/a"}[kind] + suffix
    more = ["b.json"] if (script, words) == ("convert.py", []) else []
    if words == ["one.json"]:
        words = [str(shipped_checkpoint())]
    before = sorted(tmp_path.rglob("*"))
    assert_one_line_error(run_script(script, *words, name, *more))
    assert sorted(tmp_path.rglob("*")) == before


def test_patterns_end_where_links_lead_back_and_skip_what_is_no_file(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "d" / "e"
    inner.mkdir(parents=True)
    for link in (tmp_path / "d" / "here", tmp_path / "d" / "again", inner / "and again"):
        link.symlink_to(".")
    for folder in (tmp_path / "d", inner):
        shutil.copy(one, folder)
    os.mkfifo(tmp_path / "d" / "fifo.png")
    (tmp_path / "d" / ".hidden").mkdir()
    shutil.copy(one, tmp_path / "d" / ".hidden")
    monkeypatch.chdir(tmp_path)
    for pattern in ("d/**/*.png", "**/*.png", "d/**", "d/**/**/one.png"):
        found, failed = predict._files([Path(pattern)])
        direct = [file for file in found if not {"here", "again", "and again"} & set(file.parts)]
        expected = [Path("d/e/one.png"), Path("d/one.png"), *([Path("one.png")] if pattern[0] == "*" else [])]
        if pattern == "d/**":
            expected = expected[:2]
        assert (direct, failed) == (expected, False)
        assert len(found) < 20
    assert predict._files([Path("d")]) == ([Path("d/one.png")], False)
    assert predict._files([Path("d/**/e/**/*.png")]) == ([Path("d/e/one.png")], False)


def test_of_two_that_draw_one_file_the_second_says_so(
    run_script: Run, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = tmp_path / "show.png"
    draw = plot_preparation

    def meanwhile(*words: Any) -> None:
        show.write_text("another's")
        draw(*words)

    monkeypatch.setattr("torchdigits.commands.predict.plot_preparation", meanwhile)
    outcome = run_script("predict.py", one, "--show", show)
    assert (outcome.status, outcome.err) == (2, f"error: --show {show}: it exists already; choose another name\n")
    assert show.read_text() == "another's"
    assert sorted(tmp_path.iterdir()) == [one, show]


def test_a_figure_that_cannot_be_written_is_named_as_it_was_asked_for(
    run_script: Run, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = run_script("predict.py", one, "--show", tmp_path / "show.png")
    assert (outcome.status, outcome.err) == (2, f"error: cannot write {tmp_path}/show.png: No space left on device\n")
    assert [*tmp_path.iterdir()] == [one]


def test_of_two_that_report_into_one_folder_the_second_says_so(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dataset", "digits", "--figures", tmp_path / "report"]
    others = []

    def meanwhile(*of: Any) -> Any:
        monkeypatch.setattr(evaluate, "measure", measure)
        with pytest.raises(SystemExit):
            cli.main("evaluate")
        others.append(True)
        return measure(*of)

    monkeypatch.setattr(evaluate, "measure", meanwhile)
    outcome = run_script("evaluate.py", *words)
    assert (outcome.status, others) == (0, [True])
    assert outcome.err == f"error: {tmp_path}/report: another process is writing there\n"
    assert not (tmp_path / "report" / ".lock").exists()
