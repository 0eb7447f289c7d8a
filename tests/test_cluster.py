import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Outcome, assert_one_line_error

pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")

Run = Callable[..., Outcome]
OPTIONS = ("--dataset", "digits", "--seeds", 5, "--learning-rates", 1, 3, "--hidden", 12, "--epochs", 8)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster on this machine: a head that only schedules, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
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
def test_a_cluster_trains_the_same_networks(run_script: Run, address: str, tmp_path: Path) -> None:
    outcomes = {}
    for place, options in (("here", ()), ("there", ("--cluster", address)), ("killed", ("--cluster", address))):
        killed: list[int] = []
        finished = threading.Event()
        killer = threading.Thread(target=kill_first_worker, args=(killed, finished))
        if place == "killed":
            killer.start()
        outcomes[place] = run_script("sweep.py", *OPTIONS, *options, "--output", tmp_path / place)
        finished.set()
        if place == "killed":
            killer.join()
            assert killed
        assert (outcomes[place].status, outcomes[place].err) == (0, "")
        for name in ("sweep.csv", "best.ckpt"):
            assert (tmp_path / place / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), place
    tables = {
        place: outcome.out[outcome.out.index("784-12-10, epoch 8:") : outcome.out.index("└")]
        for place, outcome in outcomes.items()
    }
    assert len(set(tables.values())) == 1


@pytest.mark.slow
def test_no_cluster_is_one_line(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchdigits.cluster._SECONDS", 2)
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
