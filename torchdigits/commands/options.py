"""What a command can be given: read from its signature and docstring, and parsed by argparse."""

import argparse
import difflib
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from torchdigits.errors import OptionError

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


class Option(NamedTuple):
    """What may be typed for one parameter; without a default it is positional."""

    name: str
    kind: Any
    default: Any
    text: str

    @property
    def flag(self) -> str:
        return "" if self.default is inspect.Parameter.empty else f"--{self.name.replace('_', '-')}"


class _Help(argparse.HelpFormatter):
    """argparse's help, of at most 80 columns, in which no word is broken."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=max(60, min(80, shutil.get_terminal_size().columns)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(message.removeprefix("argument "))


def parse(command: Callable[..., Any], words: Sequence[str], program: str, defaults: object = None) -> dict[str, Any]:
    """What was typed for a command, by the names of its parameters; the default where nothing was.

    Args:
        command: its parameters are the options; the fields of one that is a dataclass are options of their own.
        words: what was typed.
        program: what was typed before that, for the help.
        defaults: has other defaults as attributes.

    Raises:
        OptionError: an option that there is not, or a value that it does not take.
        SystemExit: the help was asked for, and is printed.
    """
    options = [option for option in options_of(command) if option.name != "saved"]
    options = [option._replace(default=getattr(defaults, option.name, option.default)) for option in options]
    parser = _parser(command, options, program, in_full="--help-all" in words)
    given, others = parser.parse_known_args(words)
    for word in others:
        known = [option.flag for option in options]
        problem = "no such option" if word.startswith("-") else "not expected"
        raise OptionError(f"{word or repr(word)}: {problem}{perhaps(word, known)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(given).items()}


def call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a function, and what makes the dataclasses that it takes, with what was given."""
    kinds, names = get_type_hints(function), inspect.signature(function).parameters
    made = {name: call(kinds[name], given) for name in names if is_dataclass(kinds[name])}
    return function(**made, **{name: given[name] for name in names if name in given})


def options_of(command: Callable[..., Any]) -> Iterator[Option]:
    """What a command, or a dataclass, can be given, in order."""
    kinds, texts = get_type_hints(command), _texts(command)
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(kinds[name]):
            yield from options_of(kinds[name])
        else:
            yield Option(name, kinds[name], parameter.default, texts.get(name, ""))


def perhaps(word: str, known: Sequence[str]) -> str:
    """What was perhaps meant, to be appended to an error."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; perhaps you meant {close[0]}" if close else ""


def _parser(command: Callable[..., Any], options: Sequence[Option], program: str, in_full: bool) -> _Parser:
    head = re.split(r"\n\n(?:Args|Raises):", inspect.getdoc(command) or "")[0]
    positional = [_metavar(option) for option in options if not option.flag]
    parser = _Parser(
        usage=" ".join([program.replace("%", "%%"), "[OPTIONS]", *positional]),
        description=head if in_full else head.partition("\n\n")[0],
        epilog=None if in_full else "--help-all says more of each.",
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", "--help-all", action="help", help=argparse.SUPPRESS)
    group = parser.add_argument_group("options")
    for option in options:
        text = (option.text if in_full else re.split(r"[.;] ", option.text)[0]).rstrip(".")
        shown = " ".join(map(str, option.default)) if isinstance(option.default, tuple) else str(option.default)
        if option.flag and shown not in {"None", "False", ""}:
            text += f" [{shown}]"
        group.add_argument(option.flag or option.name, help=text.replace("%", "%%"), **_arguments(option))
    return parser


def _arguments(option: Option) -> dict[str, Any]:
    """What argparse is to know of an option."""
    if option.kind is bool:
        return {"action": "store_true"}
    several = get_origin(option.kind) is tuple  # as in tuple[int, ...]
    kind = get_args(option.kind)[0] if several or NoneType in get_args(option.kind) else option.kind
    arguments: dict[str, Any] = {"type": str if get_origin(kind) is Literal else kind}
    if several:
        arguments["nargs"] = "*"
    if get_origin(kind) is Literal:
        arguments["choices"] = get_args(kind)
    else:
        arguments["metavar"] = _METAVARS[kind] if option.flag else _metavar(option)
    return arguments | ({"default": option.default} if option.flag else {})


def _metavar(option: Option) -> str:
    several = get_origin(option.kind) is tuple
    return option.name.upper().removesuffix("S") + " ..." if several else option.name.upper()


def _texts(command: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each parameter."""
    parts = re.split(r"^(?:Args|Attributes):\n", inspect.getdoc(command) or "", maxsplit=1, flags=re.MULTILINE)
    section = parts[-1].partition("\n\n")[0]
    texts = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in texts}
