"""What computes, and what is left as it was. No GPU is needed: torch is made to tell of one."""

import logging
import os
import platform
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

import torchdigits
from torchdigits.engines import machine
from torchdigits.engines.machine import PRECISIONS, find_machine, quiet, torch_settings, versions_here
from torchdigits.errors import OptionError


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A Trainer leaves torch deterministic."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


def settings() -> tuple[object, ...]:
    filled: object = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), filled, torch.get_default_dtype()


@pytest.mark.parametrize("filled", [True, False])
def test_all_of_torchs_settings_are_put_back(filled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", filled)
    before = settings()
    with torch_settings(0, torch.float64):
        assert settings() == (1, True, False, torch.float64)
    assert settings() == before


@pytest.mark.parametrize(
    ("products", "threads", "expected"),
    [
        (999_999, None, 1),
        (999_999, 3, 1),
        (10**6, None, 2),  # as many as torch has
        (10**6, 1, 1),
        (10**6, 4, 4),  # as many as there are cores
        (10**6, 5, 2),
    ],
)
def test_threads_are_those_of_the_run_where_they_pay(
    products: int, threads: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch_settings(products, torch.float32, threads):
            assert torch.get_num_threads() == expected
        with find_machine("cpu", precision="64").settings(products, threads):
            assert (torch.get_num_threads(), torch.get_default_dtype()) == (expected, torch.float64)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_is_deterministic_unless_it_is_set_otherwise(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before or "")
    if before is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with torch_settings(0, torch.float32):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after


def have(
    monkeypatch: pytest.MonkeyPatch, gpus: int = 0, capability: tuple[int, int] = (9, 0), mac: bool = False
) -> None:
    """Let torch tell of so many of NVIDIA's GPUs, or of a Mac's."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU of 80 GB")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mac)


@pytest.mark.parametrize(
    ("gpus", "mac", "wanted", "precision", "found", "device"),
    [
        (0, False, "auto", "32", "cpu", "cpu"),
        (0, False, "cpu", "bf16", "cpu", "cpu"),
        (1, False, "auto", "64", "gpu", "cuda"),
        (1, False, "gpu", "64", "gpu", "cuda"),
        (1, False, "cpu", "32", "cpu", "cpu"),
        (0, True, "auto", "32", "gpu", "mps"),
        (0, True, "gpu", "32", "gpu", "mps"),
        (0, True, "auto", "64", "cpu", "cpu"),
        (1, False, "auto", "tf32", "gpu", "cuda"),
    ],
)
def test_the_accelerator_is_the_one_that_is_there(
    gpus: int, mac: bool, wanted: str, precision: str, found: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, gpus, mac=mac)
    there = find_machine(wanted, precision=precision)
    assert (there.accelerator, there.devices, there.precision) == (found, 1, precision)
    assert there.device == torch.device(device)


def test_by_default_it_is_one_device_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, gpus=2)
    assert find_machine() == machine.Machine("gpu", 1, "32")
    assert find_machine("gpu", 2).devices == 2


TORCH = f"torch {torch.__version__}"
NO_TF32 = "--precision tf32: only NVIDIA's GPUs have it, from Ampere on; use --precision 32"


@pytest.mark.parametrize(
    ("gpus", "mac", "capability", "options", "line"),
    [
        (0, False, (9, 0), ("gpu",), f"--accelerator gpu: {TORCH} finds no GPU here; use --accelerator cpu"),
        (2, False, (9, 0), ("gpu", 3), f"--devices 3: {TORCH} finds 2 GPU(s) here"),
        (0, True, (9, 0), ("gpu", 2), f"--devices 2: {TORCH} finds 1 GPU(s) here"),
        (1, False, (9, 0), ("gpu", 0), "devices 0: it must be 1 or more"),
        (0, False, (9, 0), ("cpu", 0), "devices 0: it must be 1 or more"),
        (0, True, (9, 0), ("gpu", 1, "64"), "--precision 64: this GPU has no 64-bit numbers; use --accelerator cpu"),
        (1, False, (7, 5), ("gpu", 1, "tf32"), NO_TF32),
        (1, False, (9, 0), ("cpu", 1, "tf32"), NO_TF32),
        (0, True, (9, 0), ("gpu", 1, "tf32"), NO_TF32),
    ],
)
def test_a_machine_that_is_not_there_is_one_line(
    gpus: int, mac: bool, capability: tuple[int, int], options: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, gpus, capability, mac)
    with pytest.raises(OptionError) as caught:
        find_machine(*options)
    assert str(caught.value) == line


def test_tf32_is_there_from_ampere_on(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 1, (8, 0))
    assert find_machine("gpu", precision="tf32").precision == "tf32"


@pytest.mark.parametrize("cores", [1, 4, None])
def test_more_processes_than_cores_are_one_line(cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """But two may be tried anywhere."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    most = max(2, cores or 1)
    assert find_machine("cpu", most).devices == most
    with pytest.raises(OptionError) as caught:
        find_machine("cpu", most + 1)
    assert str(caught.value) == f"--devices {most + 1}: that many processes are too many for {cores or 1} cores"


@pytest.mark.parametrize(
    ("precision", "devices", "mac", "obstacle"),
    [
        ("32", 1, False, ""),
        ("64", 1, False, ""),
        ("bf16", 1, False, "it takes 32 or 64 bits"),
        ("32", 2, False, "it takes one device"),
        ("32", 1, True, "it takes GPUs with CUDA only"),
    ],
)
def test_the_compiled_engine_takes_one_device_and_full_precision(
    precision: str, devices: int, mac: bool, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, mac=mac)
    assert find_machine("gpu" if mac else "cpu", devices, precision).obstacle_to_compiling == obstacle


def test_a_device_has_the_name_that_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, gpus=1)
    assert find_machine("gpu").name == "A GPU of 80 GB"
    have(monkeypatch, mac=True)
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / str(name).lstrip("/"))
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert find_machine("gpu").name == find_machine("cpu").name == "arm64"  # without /proc
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert find_machine("cpu").name == "arm"
    (tmp_path / "proc").mkdir()
    cpuinfo = tmp_path / "proc" / "cpuinfo"
    lines = ("processor\t: 0", "model\t\t: 1", "model name\t: \u00b5: 3 GHz", "model name\t: another")
    cpuinfo.write_text("\n".join(lines), encoding="utf-8")
    assert find_machine("cpu").name == "\u00b5: 3 GHz"
    cpuinfo.write_text("processor\t: 0\n")  # as of ARM's
    assert find_machine("cpu").name == "arm"


def torchrun(monkeypatch: pytest.MonkeyPatch, here: int, everywhere: int) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": here, "WORLD_SIZE": everywhere}.items():
        monkeypatch.setenv(name, str(value))


def test_under_torchrun_there_are_as_many_processes_as_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch, 2, 2)
    assert find_machine("cpu").devices == find_machine("cpu", 2).devices == 2
    with pytest.raises(OptionError, match=r"^--devices 3: torchrun starts 2; leave --devices out$"):
        find_machine("cpu", 3)
    torchrun(monkeypatch, 2, 4)
    with pytest.raises(OptionError, match=r"^torchrun on several machines: train on one, with --nnodes 1$"):
        find_machine("cpu")


@pytest.mark.parametrize(("name", "precision"), PRECISIONS.items())
def test_a_trainer_is_of_the_machine_deterministic_and_silent(name: str, precision: machine.Precision) -> None:
    follower = Callback()
    trainer = machine.Machine("cpu", 1, name).trainer(max_epochs=7, callbacks=[follower])
    assert (trainer.precision, trainer.num_devices, trainer.max_epochs) == (precision.lightning, 1, 7)
    assert trainer.strategy.root_device == torch.device("cpu")
    callbacks: object = trainer.callbacks  # type: ignore[attr-defined]
    assert callbacks == [follower]  # no checkpoints, no progress bar, no summary
    assert trainer.loggers == []
    assert trainer.num_sanity_val_steps == 0
    assert torch.are_deterministic_algorithms_enabled()


def test_a_trainer_of_two_devices_has_two_processes() -> None:
    assert machine.Machine("cpu", 2, "32").trainer().world_size == 2


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_trainer_of_a_gpu_takes_nothing_else() -> None:
    with pytest.raises(MisconfigurationException):
        machine.Machine("gpu", 1, "32").trainer()


def test_a_trainer_asks_no_other_programs_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.fabric.plugins.io import TorchCheckpointIO

    here = machine.Machine("cpu", 1, "32")
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    trainer = here.trainer(plugins=[plugin := TorchCheckpointIO()])
    environment: object = trainer._accelerator_connector.cluster_environment
    assert type(environment) is LightningEnvironment
    assert trainer.strategy.checkpoint_io is plugin
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: False))
    torchrun(monkeypatch, 1, 1)
    for name in ("RANK", "GROUP_RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    environment = here.trainer()._accelerator_connector.cluster_environment
    assert type(environment) is TorchElasticEnvironment


def test_quiet_keeps_what_nobody_can_help_off_the_screen_and_puts_the_levels_back() -> None:
    levels = {
        "lightning.pytorch": logging.WARNING,
        "lightning.fabric": logging.WARNING,
        "torch.utils.cpp_extension": logging.WARNING,
        "torch._inductor": logging.CRITICAL,
    }
    before = {name: logging.getLogger(name).level for name in levels}

    def warn(message: str, module: str) -> None:
        warnings.warn_explicit(message, UserWarning, "x.py", 1, module)

    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.DEBUG)
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            with quiet():
                assert not any(logging.getLogger(name).isEnabledFor(level) for name, level in levels.items())
                assert logging.getLogger("lightning.pytorch").isEnabledFor(logging.ERROR)
                warn("a tip", "lightning.pytorch.trainer")
                warn("Error detected in MulBackward0", "torch.autograd")
                warn("matters", "torch")
            warn("a tip", "lightning.pytorch.trainer")
        assert [str(warning.message) for warning in shown] == ["matters", "a tip"]
        assert {logging.getLogger(name).level for name in levels} == {logging.DEBUG}
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def test_a_runs_versions_are_those_of_the_packages() -> None:
    packages = ["torchvision", "lightning", "numpy", "scikit-learn", "pillow"]
    found = versions_here()
    assert found["torchdigits"] == torchdigits.version.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert {name: found[name] for name in packages} == {name: metadata.version(name) for name in packages}
    assert len(found) == 8
