"""Which line of a program is named for a value, of programs whose line is marked."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from torchdigits.proof.diagnosis.lines import Target, line_of, same

Z, A, OTHER = np.array([[1.0, -2.0, 3.0]]).T, np.array([[4.0, 5.0, 6.0]]).T, np.array([[9.0, 7.0, 5.0]]).T
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A module of a program's text."""

    def loaded(source: str) -> ModuleType:
        file = tmp_path / "program.py"
        file.write_text("import numpy as np\n" + dedent(source))
        spec = importlib.util.spec_from_file_location("program", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


def named(module: ModuleType, *targets: Target, tolerance: float = 1e-9) -> int | None:
    file = str(module.__file__)
    return line_of(targets, file, lambda: module.run(Z.copy(), A.copy()), tolerance)


def assert_marked(module: ModuleType, *targets: Target, tolerance: float = 1e-9) -> None:
    """The line that is named is the one that ends with `# here`; none is, if none does."""
    lines = Path(str(module.__file__)).read_text().splitlines()
    marked = [number for number, line in enumerate(lines, 1) if line.endswith("# here")]
    line = named(module, *targets, tolerance=tolerance)
    assert line == (marked[0] if marked else None), "" if line is None else lines[line - 1]


@pytest.mark.parametrize(
    "source",
    [
        """
        def run(z, a):
            first = z + 1
            second = a * 2  # here
            third = second
        """,
        """
        def run(z, a):
            return a * 2  # here
        """,
        """
        def run(z, a):
            held = [z, (a, a * 2)]  # here
            other = held[1][1]
        """,
        """
        def run(z, a):
            held = [[[a * 2]]]  # lists in lists in lists are not looked into
            other = 1
            (held, other)
            other = a + a  # here
        """,
        """
        def run(z, a):
            helper(a * 2)

        def helper(b):  # the argument is its caller's, who has no name for it
            c = b + 1
            c = b * 1.0  # here
        """,
        """
        def run(z, a):
            names, things = "a", {"a": a}
            things["b"] = a * 2  # a dictionary is not looked into
            b = np.array(["x", "y", "z"])
            b = things["b"]  # here
        """,
        """
        def run(z, a):
            for k in range(3):
                c = a * k  # here
            d = a * 2
        """,
        """
        def run(z, a):
            c = (a * 2).T  # here
            d = a * 2
        """,
        """
        def run(z, a):
            c = [complex(1), a.astype(int) * 2]  # here
        """,
        """
        def run(z, a):
            c = a * 3
        """,
    ],
)
def test_the_first_line_that_computes_it_is_named(load: Load, source: str) -> None:
    assert_marked(load(source), Target(2 * A))


def test_tensors_are_seen_too(load: Load) -> None:
    module = load("""
        import torch

        def run(z, a):
            weights = torch.tensor(a, requires_grad=True)
            b = weights + 1
            c = weights * 2  # here
            d = c * 1
        """)
    assert_marked(module, Target(2 * A))


def test_the_first_value_that_any_line_computes_counts(load: Load) -> None:
    module = load("""
        def run(z, a):
            b = a * 3
            c = a * 2  # here
        """)
    assert_marked(module, Target(5 * A), Target(2 * A), Target(3 * A))


# A function of z is right or wrong itself; given something else, it is its caller who is wrong.
PRIME = """
        def prime(z):
            return z * (1 - z)
"""


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (
            PRIME
            + """
        def run(z, a):
            right = prime(z)
            sp = prime(a)  # here
            """,
            Target(A * (1 - A), Z, helper=True),
        ),
        (
            """
        def prime(z):
            return z * 2  # here

        def run(z, a):
            sp = prime(z)
            """,
            Target(2 * Z, Z, helper=True),
        ),
        (  # a step that is none of a function of z: whoever computes it
            """
        def prime(z):
            return z * (1 - z)  # here

        def run(z, a):
            sp = prime(a)
            """,
            Target(A * (1 - A), Z),
        ),
        (  # its caller is not in the program
            """
        def run(z, a):
            del z
            return a * (1 - a)  # here
            """,
            Target(A * (1 - A), Z, helper=True),
        ),
    ],
)
def test_a_helper_that_is_given_something_else_did_as_it_was_asked(load: Load, source: str, target: Target) -> None:
    assert_marked(load(source), target)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (  # the second line that has it, where it is first computed
            """
        def run(z, a):
            b = a * 2
            c = np.copy(b)  # here
            d = np.copy(b)
            """,
            Target(2 * A, twin="second"),
        ),
        (  # what a function does with it does not count
            """
        def other(b):
            c = np.copy(b)
            return c

        def run(z, a):
            b = a * 2
            other(b)
            c = b + 0  # here
            """,
            Target(2 * A, twin="second"),
        ),
        (
            """
        def run(z, a):
            b = a * 2
            return b + 0  # here
            """,
            Target(2 * A, twin="second"),
        ),
        (  # of lists alone, if no two variables have it
            """
        def run(z, a):
            b = a * 2
            held = [z]
            held.append(b)  # here
            """,
            Target(2 * A, twin="second"),
        ),
        (
            """
        def run(z, a):
            b = a * 2
            held = [z, b]
            c = b * 1  # here
            """,
            Target(2 * A, twin="second"),
        ),
        (
            """
        def run(z, a):
            b = a * 2
            """,
            Target(2 * A, twin="second"),
        ),
        (  # the last variable
            """
        def run(z, a):
            b = a * 2
            c = b * 1  # here
            held = [c]
            """,
            Target(2 * A, twin="last"),
        ),
        (
            """
        def run(z, a):
            b = a * 2
            c = b * 1
            held = [c]  # here
            """,
            Target(2 * A, twin="last or list"),
        ),
        (  # beside z it is the right step, which is innocent
            """
        KEPT = []

        def right(z, a):
            c = a * 2
            return c

        def wrong(a):
            b = a * 2  # here
            right(KEPT[0], a)

        def run(z, a):
            KEPT.append(z)
            wrong(a)
            """,
            Target(2 * A, Z, twin="last", innocent=True),
        ),
        (
            """
        def right(z, a):
            c = a * 2
            return c  # here

        def run(z, a):
            b = a * 2
            right(z, a)
            """,
            Target(2 * A, Z, twin="last"),
        ),
        (  # heads of loops and what is unpacked only hand on what is there, but for a tuple of things that are computed
            """
        def run(z, a):
            b = a * 2
            c, d = b + 0, z  # here
            held = [(b, z)]
            for e, _ in held:
                f, g = held[0]
                del e, f
            """,
            Target(2 * A, twin="last"),
        ),
        (
            """
        def run(z, a):
            b = a * 2
            c, d = b + 0, z  # here
            for e in [b]:
                del e
            """,
            Target(2 * A, twin="last"),
        ),
        ("def run(z, a):\n    b = a * 3\n", Target(2 * A, twin="last")),
    ],
)
def test_where_a_right_step_has_it_too_the_line_is_told_by_its_twin(load: Load, source: str, target: Target) -> None:
    assert_marked(load(source), target)


def test_what_was_traced_before_is_traced_again(load: Load) -> None:
    module = load("def run(z, a):\n    b = a * 2\n    raise ValueError('no')\n")

    def trace(*_: Any) -> None:
        pass

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(ValueError, match="no"):
            named(module, Target(2 * A))
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is trace


def test_two_arrays_are_the_same_but_for_rounding_and_how_they_lie() -> None:
    one = np.array([[1000.0, 0.0, -3.0]])
    for way in (one.T, one.ravel(), one):
        assert same(way, one, 1e-6)
    assert same(one * (1 + 9e-7), one, 1e-6)
    assert not same(one * (1 + 2e-6), one, 1e-6)
    # beside 0, a thousandth of the tolerance
    one = np.array([1.0, 0.0])
    assert same(one + 9e-10, one, 1e-6)
    assert not same(one + 2e-9, one, 1e-6)
    square = np.arange(4.0).reshape(2, 2)
    assert not same(square, square.T, 1e-6)
    wide = np.arange(6.0).reshape(2, 3)
    assert same(wide, wide.T, 1e-6)
    assert not same(wide, wide[:, :2], 1e-6)
