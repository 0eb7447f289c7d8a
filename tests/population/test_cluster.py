import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Outcome, assert_one_line_error

from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import OptionError
from torchdigits.population import slices
from torchdigits.population.ensemble import Ensemble
from torchdigits.population.members import Member

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
        with pytest.raises(OptionError, match=f"^--cluster: {words}"):
            cluster._result(None)
    ours = ray.exceptions.RayTaskError("_train", "Traceback", ZeroDivisionError())  # type: ignore[no-untyped-call]
    monkeypatch.setattr(ray, "get", partial(_raise, ours))
    with pytest.raises(ray.exceptions.RayTaskError) as raised:
        cluster._result(None)
    assert raised.value is ours


def _raise(error: Exception, _: object) -> None:
    raise error


class Ray:
    """Stands in for Ray: tasks are run in this process, at once, the last first; what it is asked for is kept."""

    def __init__(self, **resources: float) -> None:
        from ray import exceptions

        self.exceptions = exceptions
        self.resources = resources
        self.options: list[dict[str, object]] = []
        self.tasks: list[tuple[Any, ...]] = []
        self.joined: list[dict[str, object]] = []
        self.left = 0

    def init(self, **options: object) -> None:
        self.joined.append(options)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def shutdown(self) -> None:
        self.left += 1

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: object) -> object:
        return "kept", value

    def get(self, reference: tuple[str, object]) -> object:
        return reference[1]

    def wait(self, tasks: list[object]) -> tuple[list[object], list[object]]:
        return tasks[-1:], tasks[:-1]

    def remote(self, **options: object) -> Callable[[Callable[..., object]], object]:
        self.options.append(options)

        def task(function: Callable[..., object]) -> object:
            def remote(*arguments: object) -> object:
                self.tasks.append(arguments)
                return "done", function(*arguments)

            return SimpleNamespace(remote=remote)

        return task


CPU = {"max_retries": 3, "num_cpus": 1, "num_gpus": 0}
GPU = {"max_retries": 3, "num_cpus": 0, "num_gpus": 1}


def test_a_cluster_trains_on_the_processors_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchdigits.population import cluster

    monkeypatch.setattr(cluster, "memory_for_slices", lambda device: {"cpu": 1, "cuda": 2}[device.type])
    both, cpus = Ray(CPU=2.0, GPU=1.0), Ray(CPU=2.0)
    for ray, accelerator, device, memory, options in (
        (both, "auto", "cuda", 2, GPU),
        (both, "gpu", "cuda", 2, GPU),
        (both, "cpu", "cpu", 1, CPU),
        (cpus, "auto", "cpu", 1, CPU),
        (cpus, "cpu", "cpu", 1, CPU),
    ):
        monkeypatch.setattr(cluster, "ray", ray)
        assert cluster.choose_device(accelerator) == (torch.device(device), memory)
        assert ray.options[-1] == options
        assert ray.tasks[-1] == (torch.device(device),)
    for ray, accelerator, kind in ((cpus, "gpu", "GPU"), (Ray(GPU=1.0), "cpu", "CPU"), (Ray(), "auto", "CPU")):
        monkeypatch.setattr(cluster, "ray", ray)
        with pytest.raises(OptionError) as raised:
            cluster.choose_device(accelerator)
        assert str(raised.value) == f"--accelerator {accelerator}: the cluster has no {kind}"


@pytest.mark.parametrize("compiled", [False, True])
def test_slices_are_tasks_and_give_what_this_machine_gives(
    monkeypatch: pytest.MonkeyPatch, digits: DigitSplits, compiled: bool
) -> None:
    from torchdigits.population import cluster

    def why_not_compiled(alike: list[list[Member]], *_: object) -> str:
        return "" if len(alike) == 2 else "not compiled, too few"

    monkeypatch.setattr(cluster, "ray", ray := Ray())
    monkeypatch.setattr(cluster, "why_not_compiled", why_not_compiled)
    monkeypatch.setattr(Ensemble, "compile", lambda _: "compiled")
    cluster._ensemble.cache_clear()
    a, b, c, d = [Member((4,), 3.0, 0), Member((4,), 1.0, 1), Member((4,), 3.0, 2), Member((3, 2), 3.0, 0)]
    cut, cpu = [[a, b], [c], [d]], torch.device("cpu")
    outcomes: list[tuple[str, float]] = []
    passed: list[float] = []

    def trained(of: Any, compiled: bool) -> dict[Member, Any]:
        found = of(cut, digits, 1, cpu, compiled, lambda *words: outcomes.append(words), passed.append, known=[b])
        return {slice_.rows[0].member: slice_ for slice_ in found}

    there = trained(cluster.train_slices, compiled)
    assert ray.options == [CPU]
    alike, other = ("", "not compiled, too few") if compiled else ("not compiled", "not compiled")
    assert [task[1:] for task in ray.tasks] == [
        (2, [a], 1, cpu, alike), (2, [c], 1, cpu, alike), (1, [d], 1, cpu, other),
    ]  # fmt: skip
    assert [task[0] for task in ray.tasks] == [[("kept", digits)]] * 3
    assert outcomes == [(words, 0) for words in dict.fromkeys((other, alike or "compiled"))]
    assert passed == [1, 1, 1]
    kept = cluster._ensemble.cache_info()
    assert (kept.hits, kept.misses, kept.currsize) == (1, 2, 1)  # one ensemble at a time
    here = trained(slices.train_slices, False)
    assert here.keys() == there.keys() == {a, c, d}
    for member, expected in here.items():
        found = there[member]
        assert found.rows == expected.rows
        for ours, theirs in zip(found.networks[0].parameters(), expected.networks[0].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_who_joins_a_cluster_keeps_its_signals_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchdigits.population import cluster

    checks: list[list[str]] = []

    def run(command: list[str], **options: object) -> None:
        assert command[:4] == [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
        assert options == {"capture_output": True, "check": True, "timeout": 15}
        checks.append(command[4:])

    monkeypatch.setattr(subprocess, "run", run)
    with socket.create_server(("127.0.0.1", 0)) as head:
        given = f"127.0.0.1:{head.getsockname()[1]}"
        for address, words in ((given, ["--address", given]), ("auto", [])):
            monkeypatch.setattr(cluster, "ray", ray := Ray(CPU=2.0, GPU=1.0))
            before = signal.getsignal(signal.SIGTERM)
            with pytest.raises(ZeroDivisionError), cluster.connected(address) as told:  # noqa: PT012
                assert told == "Ray cluster of 2 CPUs and 1 GPUs"
                assert signal.getsignal(signal.SIGTERM) == before
                assert ray.left == 0
                raise ZeroDivisionError
            assert ray.left == 1
            assert ray.joined == [{"address": address, "log_to_driver": False, "logging_level": logging.ERROR}]
            assert checks.pop() == words


@pytest.mark.parametrize("address", ["nowhere", "nowhere:", ":80", "nowhere:http", ""])
def test_an_address_of_another_form_is_told(address: str) -> None:
    from torchdigits.population import cluster

    with pytest.raises(OptionError) as raised, cluster.connected(address):
        pass
    assert str(raised.value) == f"--cluster {address}: it must be HOST:PORT, or auto"


def test_a_cluster_that_cannot_be_joined_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchdigits.population import cluster

    def ended(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "ray")

    def refused(**_: object) -> None:
        raise RuntimeError("another version")

    monkeypatch.setattr(cluster, "ray", ray := Ray())
    for stand_in, reason in ((ended, "it does not answer"), (lambda *_, **__: None, "RuntimeError: another version")):
        monkeypatch.setattr(subprocess, "run", stand_in)
        monkeypatch.setattr(ray, "init", refused)
        with pytest.raises(OptionError) as raised, cluster.connected("auto"):
            pass
        assert str(raised.value) == f"--cluster auto: no Ray cluster could be joined there: {reason}"
    with pytest.raises(OptionError, match=r"joined there: ConnectionRefusedError"), cluster.connected("127.0.0.1:9"):
        pass
    assert ray.left == 0
