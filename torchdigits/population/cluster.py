"""Slices of a population on a Ray cluster, with Ray's own scheduling, retries and object store."""

import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray
import torch

from torchdigits.data.datasets import DigitSplits
from torchdigits.engines.machine import quiet, torch_settings
from torchdigits.errors import OptionError, root_cause
from torchdigits.population.ensemble import Ensemble, Trained
from torchdigits.population.members import Member
from torchdigits.population.slices import memory_for_slices, missing_of, why_not_compiled

_RETRIES = 3  # of a slice, after its process or machine has died
_SECONDS = 15  # to wait for an answer: Ray itself would wait for minutes, and then end the process


@contextmanager
def connected(address: str) -> Iterator[str]:
    """Connect to a cluster; yield what it is, in words.

    Args:
        address: HOST:PORT of its head, or auto for the one that this machine is part of.

    Raises:
        OptionError: there is no cluster.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal()):
        raise OptionError(f"--cluster {address}: it must be HOST:PORT, or auto")
    try:
        check = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
        if address != "auto":
            socket.create_connection((host, int(port)), _SECONDS).close()
            check += ["--address", address]
        subprocess.run(check, capture_output=True, check=True, timeout=_SECONDS)
        on_termination = signal.getsignal(signal.SIGTERM)  # which Ray takes for itself
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)
    # Ray documents a ConnectionError; seen besides: RuntimeError of another version of Ray or of Python there.
    except Exception as error:
        reason = "it does not answer" if isinstance(error, subprocess.SubprocessError) else root_cause(error)
        raise OptionError(f"--cluster {address}: no Ray cluster could be joined there: {reason}") from error
    try:
        yield f"Ray cluster of {_count('CPU')} CPUs and {_count('GPU')} GPUs"
    finally:
        ray.shutdown()


def choose_device(accelerator: str) -> tuple[torch.device, int]:
    """The device on which the cluster trains, and the bytes of memory that a slice may take there.

    Raises:
        OptionError: the cluster has no such processor, or no torchdigits.
    """
    kind = "GPU" if accelerator == "gpu" or (accelerator == "auto" and _count("GPU")) else "CPU"
    if not _count(kind):
        raise OptionError(f"--accelerator {accelerator}: the cluster has no {kind}")
    device = torch.device("cuda" if kind == "GPU" else "cpu")
    memory: int = _result(_on(device)(memory_for_slices).remote(device))
    return device, memory


def train_slices(
    slices: Sequence[Sequence[Member]],
    splits: DigitSplits,
    epochs: int,
    device: torch.device,
    compiled: bool,
    compiling: Callable[[str, float], None],
    advance: Callable[[float], None],
    known: Collection[Member] = (),
) -> Iterator[Trained]:
    """Train slices as `slices.train_slices` does, but each as a task of the cluster, on one CPU or one GPU.

    If the cluster itself is lost, Ray ends this process.

    Raises:
        OptionError: a slice's process died again and again.
    """
    shared, task = ray.put(splits), _on(device)(_train)
    tasks = []
    for hidden in dict.fromkeys(members[0].hidden for members in slices):
        alike = [list(members) for members in slices if members[0].hidden == hidden]
        count = max(map(len, alike))
        obstacle = why_not_compiled(alike, splits, epochs) if compiled else "not compiled"
        # In a list, the dataset stays a reference: a process fetches it once, not for each slice.
        tasks += [
            task.remote([shared], count, members, epochs, device, obstacle) for members in missing_of(alike, known)
        ]
    engines = set()
    while tasks:
        (done,), tasks = ray.wait(tasks)
        engine, trained = _result(done)
        if engine not in engines:
            engines.add(engine)
            compiling(engine, 0)
        advance(len(trained.rows))
        yield trained


def _result(task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ImportError):
            raise OptionError(f"--cluster: {error.cause.name} is missing on its machines") from error
        raise  # a bug in what a task does
    except ray.exceptions.RayError as error:
        reason = root_cause(error)
        raise OptionError(f"--cluster: it lost a task {_RETRIES + 1} times: {reason}") from error


def _count(kind: str) -> int:
    """Processors of the cluster."""
    return int(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]


def _on(device: torch.device) -> Any:
    """What makes a function a task of the cluster."""
    gpus = int(device.type == "cuda")
    return ray.remote(max_retries=_RETRIES, num_cpus=1 - gpus, num_gpus=gpus)


def _train(
    shared: list[Any], count: int, members: list[Member], epochs: int, device: torch.device, obstacle: str
) -> tuple[str, Trained]:
    """Train a slice in a process of the cluster; whether its updates are compiled, and what became of it."""
    with quiet(), torch_settings(0, torch.float32):
        engine, ensemble = _ensemble(shared[0], members[0].sizes, count, device, obstacle)
        return engine, ensemble.train(members, epochs)


@lru_cache(maxsize=1)
def _ensemble(
    shared: Any, sizes: tuple[int, ...], count: int, device: torch.device, obstacle: str
) -> tuple[str, Ensemble]:
    """Kept for the next slice, as Ray's processes train many on CPUs: they compile for the first alone."""
    ensemble = Ensemble(sizes, count, ray.get(shared), device)
    return obstacle or ensemble.compile(), ensemble
