import collections
import io
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hostile import many, number, text

from torchdigits.files import pickles
from torchdigits.files.pickles import read_pickle

PLAIN: list[Any] = [
    *(None, True, False, 0, 255, 65_535, -1, 2**31, 2**80, 1.5, float("-inf"), "é\n", "x" * 300, b"bytes", b"y" * 300),
    *((), [], {}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [1], [1, [2, 3]], {"a": 1}, {"a": {2: "b"}, None: [()]}),
    {-(2**60) + 1: 0, 2**60 - 1: 1, True: 2},
]


def read(opcodes: bytes, *admitted: str) -> Any:
    return read_pickle(io.BytesIO(opcodes), admitted)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    shared = ["shared"]
    for value in [*PLAIN, PLAIN, [shared, {"again": shared}]]:
        # what protocols 1 and 2 have no opcode for, they have a call for
        if protocol > 2 or b"_codecs" not in (content := pickle.dumps(value, protocol)):
            content = pickle.dumps(value, protocol)
            ours, theirs = read(content), pickle.loads(content)
            assert repr(ours) == repr(theirs)
            assert type(ours) is type(theirs)


@pytest.mark.parametrize(
    "content", [b"I7\n.", b"L8L\n.", b"F1.5\n.", b"S'x'\n.", b"Vx\n.", b"(I1\nI2\nl.", b"I01\n.", b"(t."]
)
def test_the_first_protocols_opcodes_are_read_as_python_reads_them(content: bytes) -> None:
    assert read(content) == pickle.loads(content)


def test_what_is_remembered_is_found_by_its_number() -> None:
    for content in (
        b"(]p3\n]p12\ng3\ng12\nt.",
        b"(]q\x03]q\x0ch\x03h\x0ct.",
        b"(]r\x03\0\0\0]r\x0c\0\0\0j\x03\0\0\0j\x0c\0\0\0t.",
        b"\x80\x04(]\x94]\x94h\0h\x01t.",
    ):
        first, second, first_again, second_again = read(content)
        assert first is first_again
        assert second is second_again
        assert first is not second


def test_a_call_is_noted_down_and_not_made() -> None:
    for content in (
        b"cos\nmkdir\n" + many(text("x")) + b"R.",
        text("os") + text("mkdir") + b"\x93" + many(text("x")) + b"R.",
    ):
        call = read(content, "os.mkdir")
        assert (call.function, call.arguments, call.state) == ("os.mkdir", ("x",), None)
        assert type(call.function) is str
    call = read(b"cos\nmkdir\n)R" + many(number(7)) + b"b.", "os.mkdir")
    assert (call.arguments, call.state) == ((), (7,))
    outside = read(many(text("storage"), number(3)) + b"Q.")
    assert (outside.function, outside.arguments) == ("", ("storage", 3))


def test_an_array_of_numpys_is_the_calls_that_make_it() -> None:
    content = pickle.dumps(np.arange(3, dtype="<i8"), 2)
    names = {"numpy.dtype", "numpy.ndarray", "_codecs.encode"} | {
        f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")
    }
    array = read(content, *names)
    version, shape, kind, fortran, numbers = array.state
    assert array.function.endswith("multiarray._reconstruct")
    assert (version, shape, fortran) == (1, (3,), False)
    assert (kind.function, kind.arguments[0], kind.state[1]) == ("numpy.dtype", "i8", "<")
    assert numbers.arguments[0].encode("latin1") == np.arange(3, dtype="<i8").tobytes()


def test_an_ordered_dictionary_is_a_dictionary() -> None:
    """Its state, which nn.Module gives it, is left out."""
    value = collections.OrderedDict(a=1, b=2)
    value._metadata = "x"  # type: ignore[attr-defined]
    ours = read(pickle.dumps(value, 2), "collections.OrderedDict")
    assert ours == {"a": 1, "b": 2}
    assert type(ours) is dict


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cos\nmkdir\n)R.", r"it asks for os\.mkdir, which was refused"),
        (text("os") + text("mkdir") + b"\x93)R.", r"it asks for os\.mkdir, which was refused"),
        (text("os.path") + b")R.", "it calls something that is not a function"),
        (b"])\x81.", "it has the opcode NEWOBJ, which was refused"),
        (b"(Ncos\nmkdir\no.", r"it asks for os\.mkdir, which was refused"),
        (b"N2.", "it has the opcode DUP, which was refused"),
        (b"]NNs.", "it sets items of something that is not a dictionary"),
        (b"}(Nu.", "it sets items of something that is not a dictionary"),
        (b"cos\npath\nNNs.", "it sets items of something that is not a dictionary"),
    ],
)
def test_other_calls_and_opcodes_are_refused(content: bytes, words: str) -> None:
    with pytest.raises((pickle.UnpicklingError, TypeError), match=f"^{words}$"):
        read(content, "os.path")


def test_a_key_is_a_text_a_usual_number_or_nothing() -> None:
    for key in (number(2**60), number(-(2**60)), b"G" + bytes(8), b")", b"]", b"C\x01x", b"cos\npath\n"):
        with pytest.raises(TypeError, match=r"^it has a key that is neither text nor a usual number$"):
            read(b"}" + key + b"Ns.", "os.path")


def test_so_many_opcodes_are_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_OPCODES", 1000)
    assert read(b"(" + b"N" * 997 + b"t.") == (None,) * 997
    with pytest.raises(ValueError, match=r"^more than 1,000 opcodes$"):
        read(b"(" + b"N" * 998 + b"t.")


def test_texts_that_are_no_literals_are_read_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(b"S'\\d'\n.") == "\\d"
