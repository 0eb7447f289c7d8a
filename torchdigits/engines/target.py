"""What a compiled library is for: an update, the shapes of its arguments, and this machine with its compiler."""

import hashlib
import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchdigits.engines.compiler import Block, Held, Update
from torchdigits.sgd import Parameters

_SOURCES = ("network.py", "sgd.py", "engines/compiler.py")


@dataclass(frozen=True)
class Shapes:
    """What a library is built for: an update, and the shapes and types of its arguments, as JSON can hold them.

    Attributes:
        update: the module, class and sizes.
        parameters: by name.
        block, held: in order.
        threads: of the CPU.
    """

    update: list[Any]
    parameters: dict[str, Any]
    block: list[Any]
    held: list[Any]
    threads: int

    @classmethod
    def of(cls, update: Update, parameters: Parameters, block: Block, held: Held, threads: int) -> "Shapes":
        kind = type(update)
        return cls(
            [kind.__module__, kind.__qualname__, list(update.sizes)],
            {name: shape_of(value) for name, value in parameters.items()},
            [shape_of(value) for value in block],
            [shape_of(value) for value in held],
            threads,
        )

    def arguments(self) -> tuple[Update, Parameters, Block, Held]:
        """The update, and arguments of these shapes with any values."""
        module, kind, sizes = self.update
        parameters = {name: _empty(*shape) for name, shape in self.parameters.items()}
        block, held = (tuple(_empty(*shape) for shape in shapes) for shapes in (self.block, self.held))
        return getattr(import_module(module), kind)(tuple(sizes)), parameters, block, held

    def key(self) -> str:
        """SHA-256 of all that a library depends on: this, our sources, torch, its settings, compiler, and processor."""
        package = Path(__file__).parent.parent
        own = (*(package / name for name in _SOURCES), Path(str(import_module(self.update[0]).__file__)))
        settings = {name: value for name, value in os.environ.items() if name.startswith(("TORCHINDUCTOR_", "ATEN_"))}
        settings.pop("TORCHINDUCTOR_CACHE_DIR", None)  # which is another one here
        everything = {
            "shapes": vars(self),
            "sources": [hashlib.sha256(path.read_bytes()).hexdigest() for path in own],
            "torch": [str(torch.__version__), torch.version.git_version, str(torch.__file__)],
            "settings": settings,
            "compiler": _compiler(),
            "processor": _processor(),
        }
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def shape_of(value: Tensor) -> list[Any]:
    """Of a tensor, its shape and type, as JSON can hold them."""
    return [list(value.shape), str(value.dtype).removeprefix("torch.")]


def _empty(shape: list[int], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype))


def _compiler() -> list[Any]:
    """The C++ compiler, by its file."""
    path = shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))
    if path is None:
        return []
    status = Path(path).resolve().stat()
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns]


def _processor() -> list[Any]:
    """What a library that was built for this very processor depends on."""
    lines: dict[str, str] = {}
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        lines = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    named = [lines.get(name, "") for name in ("model name", "cpu family", "model", "stepping", "flags", "Features")]
    return [platform.platform(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *named]
