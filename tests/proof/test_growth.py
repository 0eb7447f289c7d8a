from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from torchdigits.proof.figures import plot_growth
from torchdigits.proof.free_run import Growth


def ordinates(line: Line2D) -> list[float]:
    return [float(number) for number in np.asarray(line.get_ydata())]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_each_run_is_a_labelled_line_with_its_mirror_image_dotted(
    tmp_path: Path, drawn: list[Figure], suffix: str
) -> None:
    fast = Growth([1, 50, 100], [1e-16, 1e-9, 0.1], [2e-16, 2e-9, 0.2])
    slow = Growth([1, 50, 100], [1e-16, 1e-15, 2e-15], [2e-16, 2e-15, 4e-15])
    plot_growth([("learning rate 3", fast), ("learning rate 1", slow)], "$5 on what", tmp_path / f"growth{suffix}")
    assert (tmp_path / f"growth{suffix}").stat().st_size > 5000
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert ordinates(lines["learning rate 3"]) == fast.differences
    dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":" and ordinates(line)]
    assert [ordinates(line) for line in dotted] == [fast.mirrored, slow.mirrored]
    assert [line.get_color() for line in dotted] == [lines[f"learning rate {rate}"].get_color() for rate in (3, 1)]
    legend = axes.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["learning rate 3", "learning rate 1", "dotted: NumPy from its mirror image"]
    assert drawn[0].get_suptitle() == "$5 on what"


def test_a_run_that_stays_together_is_drawn_on_several_labelled_decades(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_growth([("flat", Growth([1, 50], [3e-16, 4e-16], [4e-16, 3e-16]))], "flat", tmp_path / "growth.png")
    low, high = drawn[0].axes[0].get_ylim()
    assert low <= 1e-16
    assert high >= 1e-12
