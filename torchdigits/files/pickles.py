"""Pickles of plain values, read without calling or importing what they name.

Python's unpickler makes calls, and restricting which does not make it harmless: of those that torch's admits,
`bytearray(3 * 2**30)` fills the memory from a file of 500 bytes, and a dictionary whose key is a tuple of the same
tuple twice, sixty times over, keeps the machine busy for years. This reader only notes a call down.
"""

import pickle
import pickletools
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, Any

_MOST_OPCODES = 100_000  # a checkpoint of Lightning's has 1,500, the original's MNIST 234
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_TAKEN = {  # how many values an opcode takes from the stack
    **dict.fromkeys(("TUPLE1", "APPEND", "BUILD", "BINPERSID"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM", "STACK_GLOBAL", "REDUCE"), 2),
    "TUPLE3": 3,
}
_TAKE_ALL = {"TUPLE", "LIST", "APPENDS", "SETITEMS"}  # those above the last mark


@dataclass(eq=False, repr=False)
class Call:
    """A call that a pickle asks for."""

    function: str  #: as in `numpy.dtype`; "" for an object outside the pickle, which the arguments identify
    arguments: Any
    state: Any = None  #: what the pickle would give to the call's result


class _Name(str):
    """A function or class that a pickle refers to by its name."""


def read_pickle(file: IO[bytes], admitted: Collection[str]) -> Any:
    """The value of a pickle, made of plain values, lists, tuples, dictionaries and `Call` objects.

    Values can be shared, and can contain themselves, so that walking through them can take longer than the pickle is.

    Args:
        file: the pickle, of any protocol; what Python 2 wrote as bytes is read as Latin-1.
        admitted: the functions and classes that it may name.

    Raises:
        UnpicklingError: it names another one.
        ValueError, and others: it is damaged, something else, or has other values.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickletools' own, about texts that are not Python's literals
        return _run(file, admitted)


def _run(file: IO[bytes], admitted: Collection[str]) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[int, Any] = {}
    taken: list[Any] = []
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == _MOST_OPCODES:
            raise ValueError(f"more than {_MOST_OPCODES:,} opcodes")
        if opcode.name in _TAKE_ALL:
            taken, stack = stack, below.pop()
        elif number := _TAKEN.get(opcode.name):
            taken = stack[-number:]
            del stack[-number:]
        match opcode.name:
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append([] if opcode.name == "EMPTY_LIST" else {})
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case "LIST":
                stack.append(taken)
            case "APPEND" | "APPENDS":
                stack[-1].extend(taken)
            case "SETITEM" | "SETITEMS":
                _set_items(stack[-1], taken)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[_as_key(argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "STACK_GLOBAL":
                function = ".".join(taken) if argument is None else argument.replace(" ", ".")
                if function not in admitted:
                    raise pickle.UnpicklingError(f"it asks for {function}, which was refused")
                stack.append(_Name(function))
            case "REDUCE":
                function, arguments = taken
                if type(function) is not _Name:
                    raise TypeError("it calls something that is not a function")
                stack.append({} if function == "collections.OrderedDict" else Call(str(function), arguments))
            case "BUILD":
                if isinstance(stack[-1], Call):  # an OrderedDict's state is what nn.Module notes besides
                    stack[-1].state = taken[0]
            case "BINPERSID":
                stack.append(Call("", taken[0]))
            case "STOP":
                return stack.pop()
            case name if name not in ("PROTO", "FRAME"):
                raise pickle.UnpicklingError(f"it has the opcode {name}, which was refused")
    raise AssertionError  # genops raises ValueError where STOP is missing


def _set_items(target: Any, values: list[Any]) -> None:
    if type(target) is not dict or len(values) % 2:
        raise TypeError("it sets items of something that is not a dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[_as_key(key)] = value


def _as_key(value: Any) -> Any:
    """The value, if it can be a key: the hashes of others could all be the same, or take years to compute."""
    if not (value is None or type(value) is str or (isinstance(value, int) and abs(value) < 2**60)):
        raise TypeError("it has a key that is neither text nor a usual number")
    return value
