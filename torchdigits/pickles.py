"""Pickles of plain values, read without calling or importing what they name.

Python's unpickler is a machine that makes calls, and restricting which does not make it harmless: of those that torch's
restricted one admits, `bytearray(3 * 2**30)` fills the memory from a file of 500 bytes, and a dictionary whose key is a
tuple of the same tuple twice, sixty times over, keeps the machine busy for years. Here, a call is only noted down.
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


@dataclass(eq=False, repr=False)
class Call:
    """A call that a pickle asks for.

    Attributes:
        function: as in `numpy.dtype`; "" for an object that the pickle does not contain, by its identity.
        arguments: what it is to be called with.
        state: what its result is to be given.
    """

    function: str
    arguments: Any
    state: Any = None


class _Name(str):
    """What a pickle refers to by its name."""


def read_pickle(file: IO[bytes], admitted: Collection[str]) -> Any:
    """The value of a pickle: of plain values, lists, tuples, dictionaries and `Call`s.

    Values can be shared, and contain themselves: the time to walk through all is not bounded by the pickle's length.

    Args:
        file: the pickle, of any protocol; a text in it is taken for Latin-1 where Python 2 wrote bytes.
        admitted: functions and classes that it may name.

    Raises:
        UnpicklingError: it names something else.
        ValueError, and others: it is damaged, or no pickle, or not of plain values.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickletools', of texts that are no literals of Python
        return _run(file, admitted)


def _run(file: IO[bytes], admitted: Collection[str]) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == _MOST_OPCODES:
            raise ValueError(f"more than {_MOST_OPCODES:,} opcodes")
        match opcode.name:
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "LIST":
                value = tuple(stack) if opcode.name == "TUPLE" else stack
                stack = below.pop()
                stack.append(value)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values, stack = stack, below.pop()
                stack[-1].extend(values)
            case "SETITEM":
                values = [stack.pop(), stack.pop()][::-1]
                _set_items(stack[-1], values)
            case "SETITEMS":
                values, stack = stack, below.pop()
                _set_items(stack[-1], values)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_admit(argument.replace(" ", "."), admitted))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_admit(f"{module}.{name}" if type(module) is type(name) is str else "?", admitted))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if type(function) is not _Name:
                    raise TypeError("it calls what is no function")
                stack.append({} if function == "collections.OrderedDict" else Call(str(function), arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Call):  # of an OrderedDict it is what nn.Module notes besides
                    stack[-1].state = state
            case "BINPERSID":
                stack.append(Call("", stack.pop()))
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case name:
                raise pickle.UnpicklingError(f"it has the opcode {name}, which was refused")
    raise AssertionError  # genops raises ValueError where STOP is missing


def _admit(name: str, admitted: Collection[str]) -> _Name:
    if name not in admitted:
        raise pickle.UnpicklingError(f"it asks for {name}, which was refused")
    return _Name(name)


def _set_items(target: Any, values: list[Any]) -> None:
    if type(target) is not dict or len(values) % 2:
        raise TypeError("it sets items of what is no dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(
            key, str | int | float | None
        ):  # the hash of a tuple takes as long as there are ways through it
            raise TypeError("it has a key that is neither text nor number")
        target[key] = value
