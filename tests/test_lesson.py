"""The lesson runs as it stands, says nothing on stderr, and comes to what it promises."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from traitlets.config import Config

LESSON = ROOT / "docs" / "back-propagation.ipynb"


@pytest.fixture
def lesson() -> Any:
    return nbformat.read(LESSON, as_version=4)  # type: ignore[no-untyped-call]


def test_it_is_stored_without_outputs(lesson: Any) -> None:
    nbformat.validate(lesson)
    assert (lesson.nbformat, lesson.nbformat_minor) == (4, 5)
    assert lesson.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert len({cell.id for cell in lesson.cells}) == len(lesson.cells)
    for cell in lesson.cells:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell.id)  # by what the cell is about, not by chance
        assert cell.metadata.keys() <= {"mystnb"}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_its_links_lead_somewhere(lesson: Any) -> None:
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)\)", cell.source):
                assert "://" in target or (LESSON.parent / target).exists(), target


@pytest.mark.slow
def test_it_runs_and_comes_to_what_it_promises(
    lesson: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (work := tmp_path / "work").mkdir()
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # not what a user's own Jupyter starts with
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    config = Config(KernelManager={"transport_encryption": "auto"})  # else the kernel warns of those who listen
    where = {"metadata": {"path": str(work)}}
    NotebookClient(lesson, timeout=120, kernel_name="python3", resources=where, config=config).execute()

    assert capfd.readouterr().err == ""
    assert not [*work.iterdir()]
    printed, figures = "", []
    for cell in lesson.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
                printed += output.text
            elif "image/png" in output.get("data", {}):
                figures.append(cell.id)
                assert cell.metadata.mystnb.image.alt
    assert figures == ["saturated", "mini-batch-images", "looks-figure", "own-figure"]

    differences = dict(re.findall(r"^(.+): largest difference (\S+)$", printed, re.MULTILINE))
    names = ["delta", "nabla_w", "nabla_b", "w after all steps", "weights[0]", "biases[1]"]
    for name in names:
        assert any(said.startswith(name) for said in differences), name
    for name, difference in differences.items():
        trained = name.startswith(("weights", "biases"))
        assert float(difference) < (1e-9 if trained else 1e-12), name
    assert printed.count("Right: all gradients of 7 mini-batches agree") == 1
    assert printed.count("Wrong: BP1, every layer") == 1
    (right,) = re.findall(r"^Test: (\d+) / 290", printed, re.MULTILINE)
    assert int(right) >= 270
    (lost,) = re.findall(r"^after: (\d+) / 290, cost 0.5", printed, re.MULTILINE)
    assert int(lost) < 60
    assert "trained here: 3, " in printed
    assert "trained on MNIST: 3, " in printed
