import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from conftest import Outcome, assert_one_line_error

from torchdigits.errors import OptionError

pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")

Run = Callable[..., Outcome]
OPTIONS = ("--dataset", "digits", "--seeds", 5, "--learning-rates", 1, 3, "--hidden", 12, "--epochs", 8)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster on this machine: a head that only schedules, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)  # which every node takes for itself
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    signal.signal(signal.SIGTERM, before)
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


def kill_first_worker(killed: list[int], finished: threading.Event) -> None:
    """Wait for a process of the cluster that trains a slice, and kill it."""
    while not killed and not finished.wait(0.05):
        for process in Path("/proc").iterdir():
            with suppress(OSError):
                if b"ray::_train" in (process / "cmdline").read_bytes():
                    finished.wait(1)  # in the middle of it
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return


@pytest.mark.slow
def test_a_cluster_trains_the_same_networks_also_after_losing_a_process(
    run_script: Run, address: str, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    before = signal.getsignal(signal.SIGTERM)
    outcomes = [run_script("sweep.py", *OPTIONS, "--output", here)]
    killed: list[int] = []  # one of two slices is trained anew, and the other as ever
    finished = threading.Event()
    killer = threading.Thread(target=kill_first_worker, args=(killed, finished))
    killer.start()
    outcomes.append(run_script("sweep.py", *OPTIONS, "--cluster", address, "--output", there))
    finished.set()
    killer.join()
    assert signal.getsignal(signal.SIGTERM) == before  # Ray has one of its own
    assert [(outcome.status, outcome.err) for outcome in outcomes] == [(0, "")] * 2
    assert killed
    for name in ("sweep.csv", "best.ckpt"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    tables = [outcome.out[outcome.out.index("784-12-10, epoch 8:") : outcome.out.index("└")] for outcome in outcomes]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_no_cluster_is_one_line(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchdigits.population.cluster._SECONDS", 2)
    silent = socket.create_server(("127.0.0.1", 0))
    refused, silence = "127.0.0.1:9", f"127.0.0.1:{silent.getsockname()[1]}"
    for address, reason in ((refused, "refused"), ("nowhere", "HOST:PORT"), (silence, "it does not answer")):
        outcome = run_script("sweep.py", *OPTIONS, "--output", tmp_path / "sweep", "--cluster", address)
        assert_one_line_error(outcome, f"--cluster {address}", reason)
        assert not (tmp_path / "sweep").exists()
    silent.close()


@pytest.mark.slow
def test_a_cluster_without_a_gpu_says_so(run_script: Run, address: str, tmp_path: Path) -> None:
    options = ("--cluster", address, "--accelerator", "gpu", "--output", tmp_path / "sweep")
    assert_one_line_error(run_script("sweep.py", *OPTIONS, *options), "--accelerator gpu", "no GPU")


def test_a_task_that_is_lost_or_lacks_a_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from torchdigits.population import cluster

    gone = ModuleNotFoundError("gone", name="sklearn")
    lacking = ray.exceptions.RayTaskError("_train", "Traceback", gone)  # type: ignore[no-untyped-call]
    for error, words in (
        (ray.exceptions.WorkerCrashedError(), "it lost a task 4 times: WorkerCrashedError"),
        (lacking, "sklearn is missing on its machines"),
    ):
        monkeypatch.setattr(ray, "get", partial(_raise, error))
        with pytest.raises(OptionError, match=words):
            cluster._result(None)


def _raise(error: Exception, _: object) -> None:
    raise error
