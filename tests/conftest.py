import atexit
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from threadpoolctl import threadpool_limits
from xdist.scheduler import LoadScopeScheduling

from torchdigits.data.datasets import IDX_FILES_MD5, IDX_FOLDER, PICKLE_FILE, DigitSplits, load_splits
from torchdigits.engines import choice, compiled
from torchdigits.engines.compiler import Train, Update, sgd_loop
from torchdigits.engines.library import BuildError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
# In the names of tests that share what takes long to make: a browser, a cluster, or libraries.
SHARED = ("test_browser.py", "test_cluster.py", "test_library.py", "test_resume.py", "an_epoch_of_mnist", "compiled")
# One thread: the tests' matrices are small, and several threads are slower on them, many times so on a busy machine.
torch.set_num_threads(1)
threadpool_limits(1, user_api="blas")
# What is compiled is kept for these tests alone, and for all of them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="torchdigits-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# What a shell runs in the background ignores Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["no_proxy"] = "127.0.0.1"  # where the tests have servers


class Uncompiled:
    """Stands in for `Building`: blocks are trained uncompiled, which gives the same (see test_compiler.py)."""

    kept, problem, seconds = False, "", 3.14

    def __init__(self, update: Update, *_: object) -> None:
        self.update = update

    def library(self) -> Train:
        return partial(sgd_loop, self.update)

    def stop(self) -> None:
        pass


class Unbuilt(Uncompiled):
    """Stands in for `Building` where there is no compiler."""

    def library(self) -> Train:
        raise BuildError("No working C++ compiler")


def leave_uncompiled(monkeypatch: pytest.MonkeyPatch, building: type[Uncompiled] = Uncompiled) -> None:
    monkeypatch.setattr(choice, "Building", building)
    monkeypatch.setattr(compiled, "Building", building)


def leave_unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_uncompiled(monkeypatch, Unbuilt)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=1, help="rounds of the kill test, in test_resume.py")


def _some_are_named(config: pytest.Config) -> bool:
    options = config.option.keyword, config.option.markexpr, config.getoption("lf", False)
    return any(options) or not all(Path(arg).is_dir() for arg in config.args)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [] if _some_are_named(config) else ["without the slow tests, which `pytest -m slow -n 2` runs"]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker on each core, up to four, as each takes a gigabyte; none where tests are named, to start at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if _some_are_named(config) or cores == 1 else min(cores, 4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests, which take longer than all others together, are left out unless tests are named."""
    if not _some_are_named(config):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """A test goes to the next free worker; those that share what takes long to make, to the same."""

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((shared for shared in SHARED if shared in nodeid), nodeid)

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that has MNIST's IDX files."""
    folder = Path(os.environ.get("TORCHDIGITS_DATA_DIR", ROOT / "data"))
    if not all((folder / IDX_FOLDER / name).exists() for name in IDX_FILES_MD5):
        pytest.skip(f"no MNIST in {folder}: train on it once, or set TORCHDIGITS_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def mnist_pickle(mnist_dir: Path) -> Path:
    """The original's MNIST, beside the IDX files."""
    if not (mnist_dir / PICKLE_FILE).exists():
        pytest.skip(f"no pickle of MNIST in {mnist_dir}: it is the file {PICKLE_FILE} of the original")
    return mnist_dir / PICKLE_FILE


@pytest.fixture(scope="session")
def mnist(mnist_dir: Path) -> DigitSplits:
    return load_splits("mnist", mnist_dir)


@pytest.fixture(scope="session")
def digits() -> DigitSplits:
    return load_splits("digits")


@contextmanager
def served(application: "FastAPI") -> Iterator[str]:
    """Serve the web application on a free port; the address."""
    from torchdigits.web.protocol import listen
    from torchdigits.web.protocol import server as server_of

    with listen("127.0.0.1", 0) as listener:
        server = server_of(application)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list["Figure"]:
    """The figures that were saved."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(figure, *arguments, **options)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Outcome(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def others_surroundings() -> Iterator[None]:
    """What a process has once, each test leaves as it was.

    Variables and cores, which commands may set for good, are given back; the rest nobody may leave changed.
    """

    def settings() -> tuple[object, ...]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        return Path.cwd(), sys.path.copy(), torch.get_num_threads(), deterministic, torch.get_default_dtype()

    environment, before = dict(os.environ), settings()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    assert settings() == before


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a script as its user would, but in this process: importing Lightning anew takes seconds."""

    def run(name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(ROOT / "scripts")  # as Python does
        capsys.readouterr()
        status, on_ctrl_c = 0, signal.getsignal(signal.SIGINT)
        # pytest would keep warnings for itself, and turn them into errors: here they go to stderr, as for a user.
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", hidden)
            warnings.showwarning = lambda *shown: print(warnings.formatwarning(*shown[:4]), file=sys.stderr)
            try:
                runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
            except SystemExit as stop:
                status = int(stop.code or 0)
            finally:
                signal.signal(signal.SIGINT, on_ctrl_c)  # which a command that was interrupted ignores
        return Outcome(status, *capsys.readouterr())

    return run


def assert_one_line_error(outcome: Outcome, *words: str) -> None:
    """One line on stderr that has the words, nothing on stdout, exit status 2."""
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    for word in words:
        assert word in outcome.err
