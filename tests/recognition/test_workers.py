"""The processes that decode pictures."""

import io
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from torchdigits.commands.predict import _looked_at
from torchdigits.errors import ImageError, NoInkError
from torchdigits.recognition import workers as module
from torchdigits.recognition.workers import Workers


def picture() -> io.BytesIO:
    pixels = np.full((40, 40), 255, np.uint8)
    pixels[5:35, 18:22] = 0
    Image.fromarray(pixels).save(file := io.BytesIO(), "png")
    return io.BytesIO(file.getvalue())


def test_a_worker_that_ended_meanwhile_is_replaced() -> None:
    """As the system ends one, if memory gets short."""
    with Workers() as workers:
        expected = workers.work(picture(), "look")
        [worker] = workers._all
        os.kill(worker._process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker._process.pid, os.WEXITED | os.WNOWAIT)
        found = workers.work(picture(), "look")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], pixels) for name, pixels in expected.items())


def test_a_picture_gets_no_answer_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever came between its question and its answer."""
    with Workers() as workers:
        [worker] = workers._all
        expected = workers.work(picture(), "look")["pixels"]
        for interruption in (KeyboardInterrupt, TimeoutError("of an alarm"), ZeroDivisionError):
            with monkeypatch.context() as patch:
                patch.setattr("torchdigits.recognition.workers.json.loads", interrupted_by(interruption))
                with pytest.raises((KeyboardInterrupt, ImageError, ZeroDivisionError)) as raised:
                    workers.work(picture(), "look")
                if isinstance(raised.value, ImageError):
                    assert str(raised.value) == (
                        "the picture: its decoder broke down; perhaps it takes more than 640 MB"
                    )
            assert np.array_equal(workers.work(picture(), "look")["pixels"], expected)
        process = worker._process
        with pytest.raises(ImageError, match=r"^cannot read the picture: it is open as text$"):
            workers.work(io.StringIO("P2"), "look")  # type: ignore[arg-type]
        assert worker._process is process
        assert np.array_equal(workers.work(picture(), "look")["pixels"], expected)


def interrupted_by(error: Any) -> Callable[[bytes], object]:
    def interrupt(_: bytes) -> object:
        raise error

    return interrupt


def test_a_mistake_of_ours_is_told_as_one_and_too_little_memory_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import torchdigits.recognition.preparation as steps\n"
        "steps.TASKS |= {'look': lambda content: 1 / 0, 'steps': lambda content: bytes(2**50)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    with Workers() as workers:
        with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
            workers.work(picture(), "look")
        process = workers._all[0]._process
        with pytest.raises(ImageError, match=r"^the picture: it would take more than 640 MB to decode$"):
            workers.work(picture(), "steps")
        assert workers._all[0]._process is not process  # which may have kept some


def test_workers_end_when_they_are_closed_or_their_parent_ends() -> None:
    with Workers(2) as workers:
        processes = [worker._process for worker in workers._all]
        assert [process.poll() for process in processes] == [None, None]
    assert [process.poll() for process in processes] == [-signal.SIGKILL] * 2
    code = (
        "import os, signal; from torchdigits.recognition.workers import Workers\n"
        "workers = Workers(); print(workers._all[0]._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    end = monotonic() + 30
    while is_alive(int(parent.stdout)) and monotonic() < end:
        sleep(0.05)
    assert not is_alive(int(parent.stdout))


def is_alive(process: int) -> bool:
    """Whether it runs. Nobody may have asked for its status: then it is a zombie."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()[:1] not in ("", "Z")


def test_ctrl_c_is_not_for_workers_nor_is_their_stderr_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "3")
    with Workers() as workers:
        workers.work(picture(), "look")  # it runs
        process = workers._all[0]._process.pid
        assert os.getpgid(process) != os.getpgid(0)
        if (about := Path(f"/proc/{process}")).exists():
            assert (about / "fd" / "2").readlink() == Path(os.devnull)
            assert {f"{name}=1".encode() for name in names} <= {*(about / "environ").read_bytes().split(b"\0")}


class Idle:
    """Stands in for a worker."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def stop(self) -> None:
        pass


def test_there_are_as_many_workers_as_asked_for_and_a_lane_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Worker", Idle)
    for workers, seconds in ((Workers(), [6]), (Workers(2, 3), [3, 3]), (module.shared("one"), [6])):
        assert [worker.seconds for worker in workers._all] == seconds  # type: ignore[attr-defined]
    lanes = [module.shared("one"), module.shared("two", 2, 3)]
    assert [module.shared("one"), module.shared("two", 2, 3)] == lanes
    assert [worker.seconds for worker in lanes[1]._all] == [3, 3]  # type: ignore[attr-defined]
    if (child := os.fork()) == 0:  # which must not use this process's
        os._exit(module.shared.cache_info().currsize)
    assert os.waitpid(child, 0)[1] == 0


def test_a_file_of_more_bytes_than_allowed_is_not_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = picture().getvalue()
    (tmp_path / "one.png").write_bytes(content)
    given: list[Any] = [tmp_path / "one.png", str(tmp_path / "one.png"), io.BytesIO(content)]
    with Workers() as workers:
        for file in given:
            monkeypatch.setattr(module, "MOST_BYTES", len(content))
            assert workers.work(file, "look")["pixels"].any()
            monkeypatch.setattr(module, "MOST_BYTES", len(content) - 1)
            given[-1].seek(0)
            with pytest.raises(ImageError, match=f"^cannot read .*: it has .*more than the {len(content) - 1} "):
                workers.work(file, "look")


def test_limits_are_what_is_used_and_more_but_none_that_is_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_utime=1.4, ru_stime=0.8))
    endless = resource.RLIM_INFINITY
    for hard, soft in ((endless, 7), (1000, 7), (5, 5)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (endless, hard))
        module._limit_time(4)
        assert limits[resource.RLIMIT_CPU] == (soft, hard)
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    for hard in (endless, 2**60, 5):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (endless, hard))
        module._limit_memory(2**50)
        used = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        soft, found = limits[resource.RLIMIT_AS]
        assert found == hard
        assert soft == 5 if hard == 5 else soft == pytest.approx(2**50 + used, abs=2**28)
        assert limits[resource.RLIMIT_CORE] == (0, 0)


def test_an_error_does_not_keep_the_bytes_of_its_file(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(bytes(1000))
    with _looked_at(sorted(tmp_path.iterdir()), steps=False) as prepared:
        for number, error in enumerate(prepared):
            assert isinstance(error, ImageError)
            assert str(error).startswith(f"{tmp_path / f'{number}.png'}: ")
            assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)
    Image.new("L", (40, 40)).save(blank := io.BytesIO(), "png")
    with Workers() as workers:
        with pytest.raises(ImageError) as raised:
            workers.work(tmp_path / "none.png", "look")
        with pytest.raises(NoInkError, match=r"^the picture: there is no ink on it$"):
            workers.work(io.BytesIO(blank.getvalue()), "look")
    assert str(raised.value) == f"cannot read {tmp_path / 'none.png'}: No such file or directory"


def test_opencvs_lack_of_memory_is_one() -> None:
    for text in ("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate", "std::bad_alloc"):
        assert module._kind_of(cv2.error(text)) == "MemoryError"
        assert module._kind_of(ValueError(text)) == "Exception"
    assert module._kind_of(cv2.error("(-215:Assertion failed) !_src.empty()")) == "Exception"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 40_000), (8, 60_000), (60_000, 8), (3, 1_000_000), (1_000_000, 3)])
def test_a_long_low_picture_is_read_or_refused_in_words(shape: tuple[int, int]) -> None:
    dots = np.where(np.random.default_rng(0).random(shape) < 0.01, 0, 255).astype(np.uint8)
    said = []
    with Workers() as working:
        for pixels in (np.full(shape, 255, np.uint8), dots):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            content.seek(0)
            try:
                working.work(content, "look")
            except ImageError as error:
                said.append(str(error))
    assert said[0] == "the picture: there is no ink on it"
    assert all(re.fullmatch("the picture: there (is|are) .*", words) for words in said)


@pytest.mark.parametrize("across", [False, True])
def test_a_dotted_line_along_a_whole_strip_is_read_in_time(across: bool) -> None:
    """It is as long as the strip, along which a slope would rise by thousands of rows."""
    grey = np.full((100, 32_000), 220, np.uint8)
    grey[50, ::2] = 20
    content = io.BytesIO()
    Image.fromarray(grey.T if across else grey).save(content, "PNG")
    content.seek(0)
    with Workers() as working:
        assert "pixels" in working.work(content, "look")
