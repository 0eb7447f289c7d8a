"""Compiled updates as a shared library: built in a process of its own, kept in the user's cache folder, and loaded.

Neither the compiler nor what it imports is loaded here, and a compiler that fails, or is killed, takes nothing with it.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchdigits.engines.cache import Cache, words
from torchdigits.engines.compiler import Block, Held, Update, compile_library
from torchdigits.engines.target import Shapes, shape_of
from torchdigits.errors import TorchDigitsError, root_cause
from torchdigits.sgd import Parameters

_HANDLES: Any = torch._C._aoti  # noqa: SLF001  # of torch's, for Python that calls such libraries
_ROOM = 64 * 2**20  # bytes that compiling may take on a disk; 6 million were seen


class BuildError(TorchDigitsError):
    """Why there is no library."""


class Library:
    """The updates of a block, loaded. It may be called by as many threads at once as it was loaded for.

    Args:
        path: a library as `compile_library` makes it.
        shapes: what it was made for.
        callers: threads that may call it at once.

    Raises:
        OSError: it cannot be loaded.
        BuildError: it can, but does not start.
    """

    def __init__(self, path: Path, shapes: Shapes, callers: int = 1) -> None:
        self._library = ctypes.CDLL(str(path))
        self._names, self._shapes = list(shapes.parameters), [*shapes.parameters.values(), *shapes.block, *shapes.held]
        self._container = ctypes.c_void_p()
        create = self._library.AOTInductorModelContainerCreateWithDevice
        if create(ctypes.byref(self._container), ctypes.c_size_t(callers), b"cpu", None):
            raise BuildError("the library does not start")

    def __call__(self, parameters: Parameters, block: Block, held: Held) -> tuple[Parameters, Tensor]:
        values = [tensor.contiguous() for tensor in (*parameters.values(), *block, *held)]
        on_cpu = all(value.device.type == "cpu" for value in values)
        if not on_cpu or [shape_of(value) for value in values] != self._shapes:
            raise ValueError("the library was compiled for arguments of other shapes, on a CPU")
        # Handles of tensors, which the library takes over; those that it returns are taken over here. As this is called
        # by ctypes, other threads of Python go on meanwhile.
        given = _HANDLES.unsafe_alloc_void_ptrs_from_tensors(values)
        inputs = (ctypes.c_void_p * len(given))(*(_pointer(capsule, None) for capsule in given))
        outputs = (ctypes.c_void_p * (len(self._names) + 1))()
        sizes = ctypes.c_size_t(len(inputs)), ctypes.c_size_t(len(outputs))
        run = self._library.AOTInductorModelContainerRun
        if run(self._container, inputs, sizes[0], outputs, sizes[1], None, None):
            raise RuntimeError("the compiled updates failed")
        capsules = [_capsule(pointer, None, None) for pointer in outputs]
        *updated, activations = _HANDLES.alloc_tensors_by_stealing_from_void_ptrs(capsules)
        return dict(zip(self._names, updated, strict=True)), activations


class Building:
    """A library on its way: it is kept from before, or a process has been started that builds it.

    Args:
        update, parameters, block, held: as for `compile_library`.
        threads: of the CPU, for each caller.
        callers: threads that may call the library at once.

    Attributes:
        kept: whether it was kept.

    Raises:
        BuildError: the process cannot be started.
    """

    def __init__(
        self, update: Update, parameters: Parameters, block: Block, held: Held, threads: int = 1, callers: int = 1
    ) -> None:
        self._begun = time.perf_counter()
        self._shapes, self._callers = Shapes.of(update, parameters, block, held, threads), callers
        self._key, self._cache = self._shapes.key(), Cache()
        self._process: subprocess.Popen[bytes] | None = None
        self._library: Library | None = None
        if path := self._cache.find(self._key):
            with suppress(OSError, BuildError):
                self._library = Library(path, self._shapes, callers)
        self.kept = self._library is not None
        if not self.kept:
            self._start()

    @property
    def problem(self) -> str:
        """Why it is not kept for the next time, in words; may be empty."""
        return self._cache.problem

    @property
    def seconds(self) -> float:
        """Since it was begun."""
        return time.perf_counter() - self._begun

    def library(self) -> Library:
        """The library, as soon as it is built.

        Raises:
            BuildError: it could not be built.
        """
        if self._library is None:
            try:
                self._library = self._finish()
            except OSError as error:
                raise BuildError(words(error)) from error
            finally:
                self.stop()
        return self._library

    def stop(self) -> None:
        """End the process, if it still runs, and remove what it has written."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # on macOS, the latter of one that has ended
                os.killpg(self._process.pid, signal.SIGKILL)
            with self._process:  # closes its pipes, and waits for it
                self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.stop()

    def _start(self) -> None:
        try:
            self._folder = _folder_with_room(self._cache.folder)
        except OSError as error:
            raise BuildError(words(error)) from error
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *map(json.dumps, (sys.path, str(self._folder), vars(self._shapes)))],
                stdin=subprocess.PIPE,  # which ends when this process does
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Whoever may write to the usual folder of torch's could alter code there.
                env=os.environ | dict.fromkeys(("TORCHINDUCTOR_CACHE_DIR", "TMPDIR"), str(self._folder)),
                start_new_session=True,  # so that it can be ended together with the compiler that it calls
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise BuildError(words(error)) from error

    def _finish(self) -> Library:
        """Wait for the process, keep its library, and load it."""
        assert self._process is not None
        assert self._process.stdout is not None
        answer = self._process.stdout.read().decode(errors="replace")
        if (status := self._process.wait()) or not answer.startswith("built "):
            raise BuildError(answer.strip() or f"the compiling process ended with {_ending(status)}")
        path = Path(answer.removeprefix("built ").rstrip("\n"))
        self._cache.keep(self._key, path.read_bytes())
        # As kept, since the system may forbid to run what is in the temporary folder.
        return Library(self._cache.find(self._key) or path, self._shapes, self._callers)


# What the process runs. It imports from where this one does, and not from the folder where it was started.
_CHILD = """
import json, sys
path, *arguments = map(json.loads, sys.argv[1:])
sys.path[:] = path
from torchdigits.engines.library import build
build(*arguments)
"""


def build(folder: str, shapes: dict[str, Any]) -> None:
    """Compile in this folder, and print where the library is, or why there is none. For a process of its own."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries and compilers print goes nowhere
    try:
        described = Shapes(**shapes)
        torch.set_num_threads(described.threads)
        with torch.no_grad():
            path = compile_library(*described.arguments(), Path(folder))
        said.write(f"built {path}\n")
    except Exception as error:  # whatever it is, it is told
        said.write(f"{root_cause(error)}\n")
    said.close()


def _end_with_parent(folder: str) -> None:
    """If whoever has started this process is no more, end it, the compiler too, and leave nothing."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _folder_with_room(cache: Path | None) -> Path:
    """A new folder to compile in: in the cache folder, or else in the system's for temporary files.

    Raises:
        OSError: there is neither.
    """
    with suppress(OSError):
        if cache is not None and shutil.disk_usage(cache).free >= _ROOM:
            return Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    return Path(tempfile.mkdtemp(prefix="torchdigits-building-"))


def _ending(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
