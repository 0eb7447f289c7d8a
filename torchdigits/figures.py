"""What all figures share: their colours, their axes, and how they are saved."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from torchdigits.files.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")  # what a figure can be saved as
# The page's --against and --for, in style.css. The colour-blind can tell them apart, and the others, which are Okabe's
# and Ito's.
BLUE, ORANGE = "#1870be", "#e06010"
COLOURS = (BLUE, "#e69f00", ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")  # of the first seven lines, the next seven ...


def new_figure(width: float, height: float, dpi: float = 100) -> "Figure":
    """An empty figure, without a window, of so many inches, and so many pixels an inch."""
    from matplotlib.figure import Figure  # here, so that who draws nothing does not wait for Matplotlib

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def blue_to_orange() -> "Colormap":
    """Colours of numbers around 0, as on the page: blue below, white at 0, orange above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue to orange", [BLUE, "white", ORANGE])


def white_to_orange() -> "Colormap":
    """Colours of numbers from 0 upwards."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("white to orange", ["white", ORANGE])


def open_grid(axes: "Axes") -> None:
    """Draw a light grid, and no frame above and at the right."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: "Figure", title: str, path: Path) -> None:
    """Save a figure under its title, which takes as many lines as it needs.

    Args:
        figure: what is drawn.
        title: plain text: its dollar signs are no mathematics.
        path: the file to write; its suffix says in which format.
    """
    lines = [fill(line, int(figure.get_figwidth() * 12)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, parse_math=False)
    write_figure(figure, path)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure's file, whole or not at all; a symbolic link is replaced, and its target left alone."""
    with any_letter(), warnings.catch_warnings():
        # Of more axes than there is room for, as a network of a thousand layers has
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        figure.savefig(file := io.BytesIO(), format=path.suffix[1:])
    write_whole(path, file.getvalue())


@contextmanager
def any_letter() -> Iterator[None]:
    """Let Matplotlib draw a letter that its font lacks as a box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
