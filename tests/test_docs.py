"""Every Python snippet and shell command in README and docs runs, or is marked `<!-- takes long -->`."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import ROOT, Outcome

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEED_MNIST = {"proof.md", "recognising.md"}


class Block(NamedTuple):
    """A fenced block: its language, its text, and whether it takes long."""

    language: str
    text: str
    long: bool


def blocks_of(page: Path) -> list[Block]:
    found = re.findall(r"(<!-- takes long -->\n)?^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, text, bool(long)) for long, language, text in found]


@pytest.fixture
def page(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page whose commands run in a folder with nothing but the shipped network."""
    page: Path = request.param
    if page.name in NEED_MNIST:
        monkeypatch.setenv("TORCHDIGITS_DATA_DIR", str(request.getfixturevalue("mnist_dir")))
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(ROOT / "checkpoints" / "mnist-784-30-10.ckpt", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return page


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language and not block.long for block in blocks_of(page))]


def name_of(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem == "lightning" else (), id=page.stem)  # it compiles
        for page in pages_with("python")
    ],
    indirect=True,
)
def test_snippets_print_what_they_say(page: Path, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    code = "\n".join(block.text for block in blocks_of(page) if block.language == "python" and not block.long)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page, "exec"), {"__name__": "snippet"})
    lines = iter(printed.getvalue().splitlines())
    for expected in re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE):
        said = expected.partition(": ")[0] if expected.startswith("True: ") else expected
        assert said in lines, f"{expected!r} was not printed, or not in this order"


@pytest.mark.slow
def test_a_snippet_of_several_processes_runs_as_a_script(tmp_path: Path) -> None:
    (script,) = [block.text for block in blocks_of(ROOT / "docs" / "lightning.md") if block.long]
    (tmp_path / "script.py").write_text(script)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "122"


@pytest.mark.parametrize("page", pages_with("console"), indirect=True, ids=name_of)
def test_commands_print_what_they_say(page: Path, run_script: Callable[..., Outcome]) -> None:
    for block in blocks_of(page):
        if block.language == "python" and (name := re.match(r"# (\w+\.py)\n", block.text)):
            Path(name[1]).write_text(block.text)
        if block.language == "console" and not block.long:
            command, *output = block.text.splitlines()
            python, script, *words = shlex.split(command.removeprefix("$ "))
            assert python == "python"
            outcome = run_script(Path(script).name, *words)
            assert (outcome.status, outcome.err) == (int("Wrong: " in block.text), "")
            if "..." not in output:
                assert outcome.out.splitlines() == output


def test_what_is_not_run_is_marked() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            # README's two sh blocks are what CI runs.
            assert block.language != "bash" or block.long, page
            assert block.language != "sh" or page.name == "README.md", page


def test_links_to_files_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "checkpoints" / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
