"""Compiled updates are kept in the user's cache folder, and nothing that could be wrong there is ever loaded."""

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT

from torchdigits import SigmoidMLP
from torchdigits.engines import cache as caching
from torchdigits.engines import library, target
from torchdigits.engines.cache import MOST_KEPT, Cache, words
from torchdigits.engines.compiler import NetworkUpdate, sgd_loop
from torchdigits.engines.library import BuildError, Building, Library
from torchdigits.engines.target import Shapes

SIZES = (5, 4, 3)
UPDATE = NetworkUpdate(SIZES)


def arguments(seed: int = 0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (6, 2, 5), generator=generator, dtype=torch.uint8)
    torch.manual_seed(seed)
    parameters = {name: value.detach() for name, value in SigmoidMLP(SIZES).named_parameters()}
    return parameters, (images, torch.randint(3, (6, 2), generator=generator)), (torch.tensor(2.0),)


def assert_right(train: Library) -> None:
    with torch.no_grad():
        expected, truth = sgd_loop(UPDATE, *arguments())
    updated, activations = train(*arguments())
    torch.testing.assert_close(activations, truth, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(updated, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which two processes at once have built the same library."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        before = os.umask(0o002)  # as where every user has a group
        buildings = [Building(UPDATE, *arguments()) for _ in range(2)]
        for building in buildings:
            assert not building.kept
            assert_right(building.library())
            assert building.problem == ""
        os.umask(before)
        # Nothing but the library is left, and nobody else may write to it.
        (kept,) = (folder / "torchdigits").iterdir()
        assert kept.stat().st_mode & 0o022 == 0
        assert (folder / "torchdigits").stat().st_mode & 0o777 == 0o700
    return folder / "torchdigits"


@pytest.fixture
def cache(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, with the library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(built, tmp_path / "torchdigits")
    (tmp_path / "torchdigits").chmod(0o700)
    return tmp_path / "torchdigits"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Building]:
    """What would have been built: nothing is."""
    buildings: list[Building] = []
    monkeypatch.setattr(Building, "_start", lambda self: buildings.append(self))
    return buildings


@pytest.mark.slow
def test_what_is_kept_is_loaded_and_counts_as_used(cache: Path, started: list[Building]) -> None:
    (kept,) = cache.iterdir()
    os.utime(kept, (1, 1))
    building = Building(UPDATE, *arguments(), callers=2)
    assert building.kept
    assert started == []
    assert time.time() - kept.stat().st_mtime < 60
    assert_right(building.library())
    with torch.no_grad():
        expected = [sgd_loop(UPDATE, *arguments(seed))[1] for seed in range(8)]
    given = [arguments(seed) for seed in range(8)]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda values: building.library()(*values)[1], given)
        torch.testing.assert_close(list(found), expected, rtol=1e-5, atol=1e-6)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link_to_a_folder(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent)


def of_another_key(path: Path) -> None:
    """As if a library of another processor had been given this one's name."""
    content = path.read_bytes()[:-32]
    path.write_bytes(content + hashlib.sha256(b"another key" + content).digest())


def writable_by_others(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.slow
@pytest.mark.parametrize("mischief", [cut, change_a_byte, empty, link_to_a_folder, of_another_key, writable_by_others])
def test_what_is_not_as_it_was_kept_is_made_anew(
    mischief: Callable[[Path], None], cache: Path, started: list[Building]
) -> None:
    (kept,) = cache.iterdir()
    mischief(kept)
    assert not Building(UPDATE, *arguments()).kept
    assert len(started) == 1


@pytest.mark.slow
def test_nothing_is_loaded_or_kept_where_others_may_write(cache: Path, started: list[Building]) -> None:
    cache.chmod(0o777)
    building = Building(UPDATE, *arguments())
    assert (building.kept, building.problem) == (False, f"{cache} can be written to by others")
    cache.chmod(0o700)
    cache.parent.chmod(0o777)  # where the folder could be exchanged for another
    building = Building(UPDATE, *arguments())
    assert (building.kept, building.problem) == (False, f"{cache.parent} can be written to by others")
    cache.parent.chmod(0o777 | stat.S_ISVTX)  # as /tmp is: there only its owner may rename a folder
    assert Building(UPDATE, *arguments()).kept
    assert len(started) == 2


@pytest.mark.slow
def test_somebody_elses_library_is_not_loaded(
    cache: Path, started: list[Building], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    building = Building(UPDATE, *arguments())
    assert (building.kept, building.problem) == (False, f"{cache} can be written to by others")


def test_a_library_depends_on_all_that_it_is_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parameters, block, held = arguments()
    shapes = Shapes.of(UPDATE, parameters, block, held, 1)
    keys = [shapes.key(), Shapes.of(UPDATE, parameters, block, held, 1).key()]
    assert keys[0] == keys[1]
    keys.append(Shapes.of(NetworkUpdate((5, 3)), parameters, block, held, 1).key())
    keys.append(Shapes.of(UPDATE, {name: value.double() for name, value in parameters.items()}, block, held, 1).key())
    keys.append(Shapes.of(UPDATE, parameters, tuple(tensor[:5] for tensor in block), held, 1).key())
    keys.append(Shapes.of(UPDATE, parameters, block, (held[0].double(),), 1).key())
    keys.append(Shapes.of(UPDATE, parameters, block, held, 2).key())
    keys.append(replace(shapes, update=["torchdigits.population.ensemble", "EnsembleUpdate", list(SIZES)]).key())
    with monkeypatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_FREEZING", "1")
        keys.append(shapes.key())
    with monkeypatch.context() as patch:
        (tmp_path / "compiler").touch(mode=0o755)
        patch.setenv("CXX", str(tmp_path / "compiler"))
        keys.append(shapes.key())
        os.utime(tmp_path / "compiler", (1, 1))  # another version of it
        keys.append(shapes.key())
    for name in ("_processor", "_SOURCES"):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, (lambda: ["another"]) if name == "_processor" else ("network.py",))
            keys.append(shapes.key())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.0")
        keys.append(shapes.key())
    assert len(set(keys[1:])) == len(keys) - 1


def test_without_a_cache_folder_it_is_built_in_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    building = Building(UPDATE, *arguments())
    assert building.problem == f"{file / 'torchdigits'}: Not a directory"
    (folder,) = (tmp_path / "temporary").iterdir()
    building.stop()
    assert not folder.exists()


def test_the_compiler_is_the_environments_or_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "compiler").write_text("code")
    (link := tmp_path / "link").symlink_to(file)
    monkeypatch.setattr(shutil, "which", {"g++": str(link), "clang++": str(file), "/my/cxx": str(file)}.get)
    named = [str(file), 4, file.stat().st_mtime_ns]
    for system, cxx, found in (
        ("linux", None, named), ("linux", "", named), ("darwin", None, named), ("linux", "/my/cxx", named),
        ("linux", "c++", []),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.delenv("CXX", raising=False)
        if cxx is not None:
            monkeypatch.setenv("CXX", cxx)
        assert target._compiler() == found
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", {"clang++": str(file)}.get)
    assert target._compiler() == []
    monkeypatch.setattr(sys, "platform", "darwin")
    assert target._compiler() == named


def test_the_processor_is_what_linux_says_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "processor\t: 0\nmodel name\t: One\nflags\t: a b: c\n\nprocessor\t: 1\nmodel name\t: Two\nmodel\t: 7\n"
    asked: list[Path] = []

    def read(path: Path, **_: Any) -> str:
        asked.append(path)
        return said

    monkeypatch.setattr(Path, "read_text", read)
    assert target._processor()[3:] == ["One", "", "", "", "a b: c", ""]
    assert asked == [Path("/proc/cpuinfo")]
    monkeypatch.undo()
    here = target._processor()
    assert here[2] == torch.backends.cpu.get_cpu_capability()

    def missing(path: Path, **_: Any) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert target._processor() == [*here[:3], *[""] * 6]


def test_what_compiles_writes_into_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started: list[tuple[Path, Any]] = []

    def start(command: list[str], **options: Any) -> None:
        path, folder, shapes = map(json.loads, command[3:])
        assert command[:2] == [sys.executable, "-c"]
        assert (path, shapes) == (sys.path, json.loads(json.dumps(vars(Shapes.of(UPDATE, *arguments(), 3)))))
        assert Path(folder).is_dir()
        started.append((Path(folder), options))
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(target, "_processor", list)  # which asks another process
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(BuildError, match=r"^Resource temporarily unavailable$"):
        Building(UPDATE, *arguments(), threads=3)
    ((folder, options),) = started
    assert folder.parent == tmp_path / "torchdigits"
    assert not folder.exists()
    own = dict.fromkeys(("TORCHINDUCTOR_CACHE_DIR", "TMPDIR"), str(folder))
    assert options == {
        "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL,
        "env": {**os.environ, **own}, "start_new_session": True,
    }  # fmt: skip


def test_what_a_full_disk_cannot_keep_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(caching, "write_whole", full)
    kept = Cache()
    kept.keep("k" * 64, b"code")
    assert kept.problem == f"{tmp_path / 'torchdigits' / ('k' * 64)}.so: No space left on device"
    assert kept.find("k" * 64) is None


def test_where_the_cache_folders_disk_is_full_it_is_built_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name in ("cache", "temporary"):
        (tmp_path / name).mkdir()
    assert library._folder_with_room(tmp_path / "cache").parent == tmp_path / "cache"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000_000))
    assert library._folder_with_room(tmp_path / "cache").parent == tmp_path / "temporary"


@pytest.mark.parametrize("ending", ["killed", "stopped", "forgotten"])
def test_a_compiler_that_ends_early_leaves_nothing(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    building: Building | None = Building(UPDATE, *arguments())
    assert building is not None
    assert building._process is not None
    (folder,) = (tmp_path / "torchdigits").iterdir()
    number = building._process.pid
    if ending == "killed":
        os.killpg(number, signal.SIGKILL)
        with pytest.raises(BuildError, match="the compiling process ended with SIGKILL"):
            building.library()
    elif ending == "stopped":
        building.stop()
    building = None
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert not folder.exists()


def test_the_cache_finds_what_this_user_kept_whole_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "some" / "where"))
    folder, key = tmp_path / "some" / "where" / "torchdigits", "0a" * 32
    cache = Cache()
    assert (cache.folder, cache.problem) == (folder, "")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache.find(key) is None
    cache.keep(key, b"code")
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    assert whole == b"code" + hashlib.sha256(key.encode() + b"code").digest()
    assert (path.name, path.stat().st_mode & 0o777) == (f"{key}.so", 0o600)
    os.utime(path, (1, 1))
    assert Cache().find(key) == path
    assert path.stat().st_mtime > 1
    for content in (b"", whole[:-1], b"d" + whole[1:], whole + b"d"):
        path.write_bytes(content)
        assert cache.find(key) is None
    path.write_bytes(whole)
    shutil.copy(path, folder / f"{'b' * 64}.so")
    assert cache.find("b" * 64) is None
    for mode, found in ((0o620, None), (0o602, None), (0o644, path)):
        path.chmod(mode)
        assert cache.find(key) == found
    for place, mode, problem in (
        (folder, 0o720, f"{folder} can be written to by others"),
        (folder, 0o755, ""),
        (folder.parent, 0o702, f"{folder.parent} can be written to by others"),
        (folder.parent, 0o702 | stat.S_ISVTX, ""),
        (folder.parent, 0o755, ""),
    ):
        place.chmod(mode)
        assert (Cache().folder, Cache().problem) == (None if problem else folder, problem)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert Cache().problem == f"{folder} can be written to by others"
    assert cache.find(key) is None
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(caching, "user_cache_path", Path)
    nowhere = Cache()
    assert (nowhere.folder, nowhere.problem) == (None, "torchdigits is not an absolute path")
    nowhere.keep(key, b"code")
    assert nowhere.find(key) is None
    monkeypatch.setattr(caching, "user_cache_path", lambda name: path / name)
    assert (Cache().folder, Cache().problem) == (None, f"{path / 'torchdigits'}: Not a directory")
    cache.folder = path
    cache.keep(key, b"code")
    assert cache.problem == f"{path / path.name}: Not a directory"


def test_what_the_system_refuses_is_told_with_its_file() -> None:
    assert words(OSError(errno.ENOSPC, "No space left", "here")) == "here: No space left"
    assert words(OSError(errno.ENOSPC, "No space left")) == "No space left"
    assert words(OSError("closed")) == "OSError: closed"
    assert words(ValueError("odd")) == "ValueError: odd"


def test_the_cache_has_its_bounds(tmp_path: Path) -> None:
    now = time.time()
    for number in range(MOST_KEPT + 2):
        (path := tmp_path / f"{number:064}.so").touch()
        os.utime(path, (now - number, now - number))
    (tmp_path / "somebody's").mkdir()  # what is not ours is not removed, however old
    (tmp_path / "somebody's.so").touch()
    for name in ("somebody's", "somebody's.so"):
        os.utime(tmp_path / name, (1, 1))
    kept = Cache()
    kept.folder = tmp_path
    kept.keep("f" * 64, b"code")
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{number:064}.so" for number in range(MOST_KEPT - 1)),
        *("f" * 64 + ".so", "somebody's", "somebody's.so"),
    }
    assert kept.find("f" * 64) == tmp_path / ("f" * 64 + ".so")


def test_what_cannot_be_looked_at_or_removed_does_not_keep_the_cache_from_its_bounds(tmp_path: Path) -> None:
    """As if another process had been faster: a link whose target is gone, and a folder in a file's place."""
    (tmp_path / f"{0:064}.so").symlink_to("gone")
    (tmp_path / f"{1:064}.so").mkdir()
    os.utime(tmp_path / f"{1:064}.so", (1, 1))
    for number in range(2, MOST_KEPT + 2):
        (path := tmp_path / f"{number:064}.so").touch()
        os.utime(path, (number, number))
    kept = Cache()
    kept.folder = tmp_path
    kept.keep("f" * 64, b"code")
    assert kept.problem == ""
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{number:064}.so" for number in range(MOST_KEPT + 2) if number != 2),
        "f" * 64 + ".so",
    }


@pytest.mark.slow
def test_a_compiler_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed, so that it can end nothing itself."""
    code = (
        "import sys, time; sys.path[:0] = sys.argv[1:]; import test_library as t;"
        "building = t.Building(t.UPDATE, *t.arguments()); print(building._process.pid, flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(ROOT / "tests")]
    own = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTEST_XDIST_WORKER": "as conftest.py asks"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | own) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        time.sleep(3)  # until it has begun; if it has not, it ends as soon as it does
        process.kill()
    folder = tmp_path / "torchdigits"
    for _ in range(300):
        if not list(folder.iterdir()) and not Path(f"/proc/{number}").exists():
            break
        time.sleep(0.1)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_the_compiler_imports_nothing_from_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "platform.py").write_text("open('run', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "/no/compiler")
    with pytest.raises(BuildError, match="No working C"):
        Building(UPDATE, *arguments()).library()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_arguments_of_other_shapes_are_refused(cache: Path) -> None:
    train = Building(UPDATE, *arguments()).library()
    parameters, (images, labels), held = arguments()
    for block in ((images[:5], labels[:5]), (images, labels.int())):
        with pytest.raises(ValueError, match="other shapes"):
            train(parameters, block, held)
    turned = {name: value.movedim(0, -1).contiguous().movedim(-1, 0) for name, value in parameters.items()}
    assert torch.equal(train(turned, (images, labels), held)[1], train(parameters, (images, labels), held)[1])
