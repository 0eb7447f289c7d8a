"""Compiled updates as a shared library: built in a process of its own, kept in the user's cache folder, and loaded.

Neither the compiler nor what it imports is loaded here, and a compiler that fails, or is killed, takes nothing with it.
"""

import ctypes
import hashlib
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from platformdirs import user_cache_path
from torch import Tensor

from torchdigits.engines.compiler import Block, Held, Update, compile_library
from torchdigits.errors import root_cause
from torchdigits.files.writing import write_whole
from torchdigits.sgd import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_KEPT = 64  # libraries in the cache folder, of 2 MB or less each; the one that was used longest ago goes first
_SUFFIX = ".so"
_PARTS = "building-"  # folders in which libraries are built
_OLD = 24 * 3600  # seconds after which such a folder was left behind by a killed process
_HANDLES: Any = torch._C._aoti  # noqa: SLF001  # of torch's, for Python that calls such libraries
_DIGEST = 32  # bytes of a SHA-256 at the end of a kept library
_SOURCES = ("network.py", "sgd.py", "engines/compiler.py")


class BuildError(Exception):
    """Why there is no library, in words."""


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
            {name: _shape_of(value) for name, value in parameters.items()},
            [_shape_of(value) for value in block],
            [_shape_of(value) for value in held],
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
        if [_shape_of(value) for value in values] != self._shapes:
            raise ValueError("the library was compiled for arguments of other shapes")
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
        problem: why it will not be kept, in words; may be empty.
    """

    def __init__(
        self, update: Update, parameters: Parameters, block: Block, held: Held, threads: int = 1, callers: int = 1
    ) -> None:
        self.shapes, self._callers = Shapes.of(update, parameters, block, held, threads), callers
        self._begun = time.perf_counter()
        self._process: subprocess.Popen[bytes] | None = None
        self._library: Library | None = None
        self._key = self.shapes.key()
        self._cache, self.problem = _cache_folder()
        if self._cache is not None:
            self._library = self._from_cache(self._cache / f"{self._key}{_SUFFIX}")
        self.kept = self._library is not None
        if not self.kept:
            self._start()

    def library(self) -> Library:
        """The library, as soon as it is built.

        Raises:
            BuildError: it could not be built.
        """
        if self._library is None:
            self._library = self._finish()
        return self._library

    @property
    def seconds(self) -> float:
        """Since it was begun."""
        return time.perf_counter() - self._begun

    def stop(self) -> None:
        """End the process, if it still runs, and remove what it has written."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with self._process:  # closes its pipe, and waits for it
                self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None and sys is not None:
            self.stop()

    def _from_cache(self, path: Path) -> Library | None:
        """A library that was kept whole, by this user; else None, and it will be made anew."""
        try:
            with path.open("rb") as file:
                if not _only_mine(os.fstat(file.fileno())):
                    return None
                *_, end = content = [file.read()]
            if len(end) <= _DIGEST or _digest(self._key, end[:-_DIGEST]) != content[0][-_DIGEST:]:
                return None
            os.utime(path)
            return Library(path, self.shapes, self._callers)
        except (OSError, BuildError):
            return None

    def _start(self) -> None:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=_PARTS, dir=self._cache))
        except OSError as error:
            self.problem = _words(error)
            self._cache = None
            try:
                self._folder = Path(tempfile.mkdtemp(prefix=_PARTS))
            except OSError as further:
                raise BuildError(_words(further)) from further
        root = str(Path(__file__).parent.parent.parent)
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": str(self._folder),  # whoever may write to the usual one could alter code there
            "TMPDIR": str(self._folder),
            "PYTHONSAFEPATH": "1",  # else what lies in the folder where this was started would be imported
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        }
        code = "from torchdigits.engines.library import build; build()"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(self._folder), json.dumps(vars(self.shapes))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # so that it can be ended together with the compiler that it calls
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise BuildError(_words(error)) from error

    def _finish(self) -> Library:
        """Wait for the process, load its library, and keep it."""
        assert self._process is not None
        try:
            output: IO[bytes] | None = self._process.stdout
            assert output is not None
            answer = output.read().decode(errors="replace")
            status = self._process.wait()
            if status or not answer.startswith("built "):
                raise BuildError(answer.strip() or f"the compiling process ended with {_ending(status)}")
            path = Path(answer.removeprefix("built ").rstrip("\n"))
            try:
                library = Library(path, self.shapes, self._callers)
                self._keep(path)
            except OSError as error:
                raise BuildError(_words(error)) from error
            return library
        finally:
            self.stop()

    def _keep(self, path: Path) -> None:
        if self._cache is None:
            return
        content = path.read_bytes()
        try:
            kept = self._cache / f"{self._key}{_SUFFIX}"
            write_whole(kept, content + _digest(self._key, content))
            kept.chmod(0o600)  # whatever the umask
            _prune(self._cache)
        except OSError as error:
            self.problem = _words(error)


def build() -> None:
    """Compile what sys.argv describes, in the folder that it names; say where the library is, or why there is none."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries and compilers print goes nowhere
    try:
        shapes = Shapes(**json.loads(sys.argv[2]))
        torch.set_num_threads(shapes.threads)
        with torch.no_grad():
            path = compile_library(*shapes.arguments(), Path(sys.argv[1]))
        said.write(f"built {path}\n")
    except Exception as error:  # whatever it is, it is told
        said.write(f"{root_cause(error)}\n")
    said.close()


def _cache_folder() -> tuple[Path | None, str]:
    """The folder where libraries are kept, which this user alone can write to; or None, and why there is none."""
    try:
        folder = user_cache_path("torchdigits")
        if not folder.is_absolute():
            return None, f"{folder} is not an absolute path"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(os.path.realpath(folder))
        if not _only_mine(folder.stat()):
            return None, f"{folder} can be written to by others"
        for parent in folder.parents:  # whoever may rename a folder can put another in its place
            status = parent.stat()
            if status.st_uid not in {0, os.geteuid()} or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
                return None, f"{parent} can be written to by others"
    except (OSError, RuntimeError, ValueError) as error:
        return None, _words(error)
    return folder, ""


def _only_mine(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _prune(folder: Path) -> None:
    """Remove the libraries that were used longest ago, if there are too many, and what killed processes left."""
    ages = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process may have removed it
            used = path.stat().st_mtime
            if path.suffix == _SUFFIX and len(path.stem) == 2 * _DIGEST:
                ages.append((used, path))
            elif path.name.startswith(_PARTS) and time.time() - used > _OLD:
                shutil.rmtree(path)
    for _, path in sorted(ages)[:-MOST_KEPT]:
        with suppress(OSError):
            path.unlink()


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _shape_of(value: Tensor) -> list[Any]:
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
    lines: Mapping[str, str] = {}
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        lines = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    named = [lines.get(name, "") for name in ("model name", "cpu family", "model", "stepping", "flags", "Features")]
    return [platform.platform(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *named]


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return root_cause(error)


def _ending(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
