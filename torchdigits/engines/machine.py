"""What computes: device, precision and threads, asked for once and told to everything else."""

import logging
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from torchdigits.engines.processes import under_torchrun
from torchdigits.errors import OptionError, check_count
from torchdigits.version import __version__

if TYPE_CHECKING:
    import lightning as L


class Precision(NamedTuple):
    """What a name of `--precision` stands for.

    Attributes:
        dtype: of the weights.
        lightning: the Trainer's word for it.
        words: what it is called in print.
        eps: spacing, at 1, of the numbers that are multiplied.
        tiny: a norm below which underflow may have taken bits, or flushed them to zero. The smallest number that has
            all its bits is 2^-1022 in float64, and 2^-126 in the others.
    """

    dtype: torch.dtype
    lightning: str
    words: str
    eps: float
    tiny: float


PRECISIONS = {
    "64": Precision(torch.float64, "64-true", "float64", 2**-52, 2**-960),
    "32": Precision(torch.float32, "32-true", "float32", 2**-23, 2**-100),
    "tf32": Precision(torch.float32, "32-true", "float32 by TF32 products", 2**-10, 2**-100),
    "bf16": Precision(torch.float32, "bf16-mixed", "bfloat16, mixed", 2**-7, 2**-100),
}
# Products in a mini-batch from which on a second thread pays. Measured on two cores: two threads took 1.5 times as
# long for 0.8 million.
_PRODUCTS_WORTH_THREADS = 10**6


@dataclass(frozen=True)
class Machine:
    """Where a run computes; `find_machine` makes it.

    Attributes:
        accelerator: `cpu` or `gpu`.
        devices: number of GPUs, or of processes on the CPU.
        precision: a key of `PRECISIONS`.
    """

    accelerator: str
    devices: int
    precision: str

    @property
    def device(self) -> torch.device:
        """The device in torch's words."""
        if self.accelerator == "cpu":
            return torch.device("cpu")
        return torch.device("cuda" if torch.cuda.is_available() else "mps")

    @property
    def name(self) -> str:
        """The GPU's name, or the processor's if the system tells it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        if (cpuinfo := Path("/proc/cpuinfo")).exists():
            for line in cpuinfo.read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        return platform.processor() or platform.machine()

    @property
    def obstacle_to_compiling(self) -> str:
        """What keeps the compiled engine from running here; empty if nothing does."""
        if self.devices > 1:
            return "it takes one device"
        if self.precision == "bf16":
            return "it takes 32 or 64 bits"
        return "it takes GPUs with CUDA only" if self.device.type == "mps" else ""

    def trainer(self, **options: Any) -> "L.Trainer":
        """A Trainer for this machine, deterministic and silent; `options` are more of its arguments."""
        import lightning as L
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment

        if not under_torchrun():  # else Lightning would look for Slurm, MPI and others, and wait for their processes
            options["plugins"] = [*options.get("plugins", ()), LightningEnvironment()]
        return L.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            precision=PRECISIONS[self.precision].lightning,  # type: ignore[arg-type]
            deterministic=True,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"logger": False, **options},
        )

    def settings(self, products: int, threads: int | None = None) -> AbstractContextManager[None]:
        """`torch_settings` for mini-batches of so many products, in this machine's precision."""
        return torch_settings(products, PRECISIONS[self.precision].dtype, threads)


def threads_for(products: int, threads: int | None = None) -> int:
    """Threads of the CPU that suit mini-batches of so many products: see `torch_settings`."""
    if products < _PRODUCTS_WORTH_THREADS:
        return 1
    wanted = torch.get_num_threads() if threads is None else threads
    return wanted if wanted <= (os.cpu_count() or 1) else torch.get_num_threads()


def find_machine(accelerator: str = "auto", devices: int = 1, precision: str = "32") -> Machine:
    """The machine that was asked for.

    Args:
        accelerator: `cpu`, `gpu`, or `auto`: a GPU if there is one.
        devices: number of GPUs, or of processes on the CPU. Under torchrun it is the number that torchrun starts.
        precision: a key of `PRECISIONS`.

    Raises:
        OptionError: this computer lacks it.
    """
    devices = _processes(devices)
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if accelerator == "gpu" and not gpus:
        raise OptionError(f"--accelerator gpu: torch {torch.__version__} finds no GPU here; use --accelerator cpu")
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() or (gpus and precision != "64") else "cpu"
    check_count("devices", devices)
    if accelerator == "gpu" and devices > gpus:
        raise OptionError(f"--devices {devices}: torch {torch.__version__} finds {gpus} GPU(s) here")
    if accelerator == "cpu" and devices > max(2, cores := os.cpu_count() or 1):
        raise OptionError(f"--devices {devices}: that many processes are too many for {cores} cores")
    if accelerator == "gpu" and precision == "64" and not torch.cuda.is_available():
        raise OptionError("--precision 64: this GPU has no 64-bit numbers; use --accelerator cpu")
    if precision == "tf32" and not (accelerator == "gpu" and _has_tf32()):
        raise OptionError("--precision tf32: only NVIDIA's GPUs have it, from Ampere on; use --precision 32")
    return Machine(accelerator, devices, precision)


def _has_tf32() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def _processes(devices: int) -> int:
    """The number of processes on this computer: as many as torchrun has started, or else what was asked for."""
    if not under_torchrun():
        return devices
    started = int(os.environ["LOCAL_WORLD_SIZE"])
    if int(os.environ["WORLD_SIZE"]) != started:
        raise OptionError("torchrun on several machines: train on one, with --nnodes 1")
    if devices not in (1, started):
        raise OptionError(f"--devices {devices}: torchrun starts {started}; leave --devices out")
    return started


@contextmanager
def torch_settings(products: int, dtype: torch.dtype, threads: int | None = None) -> Iterator[None]:
    """Set what a run needs of torch's settings, and put all of them back afterwards.

    - One CPU thread if a mini-batch takes few products: several are slower then. Another number rounds in another way.
    - Deterministic algorithms, as Lightning's Trainer sets them too. But torch then also fills new memory with NaN,
      which takes as long as an update: not here.
    - The default type. All of this is set early: a change later would compile everything again.

    Args:
        products: multiplications of a mini-batch with the weights.
        dtype: the default type of floats.
        threads: of the CPU, if a mini-batch takes many products and there are as many cores. Default: those torch has.
    """
    memory: Any = torch.utils.deterministic
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled, default_dtype = memory.fill_uninitialized_memory, torch.get_default_dtype()
    torch.set_num_threads(threads_for(products, threads))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Lightning sets it too, but only with the Trainer
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)
        memory.fill_uninitialized_memory = filled
        torch.set_default_dtype(default_dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's tips, its lists of hardware, and warnings that a user can do nothing about off the screen.

    The same goes for the warning of torch's compiler about computers with CUDA's tools and no GPU.
    """
    names = dict.fromkeys(("lightning.pytorch", "lightning.fabric", "torch.utils.cpp_extension"), logging.ERROR)
    names["torch._inductor"] = logging.CRITICAL + 1  # choose_engine says what could not be compiled
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name, level in names.items():
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", "Error detected in ")  # of a backward pass that Ctrl-C has ended
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def versions_here() -> dict[str, str]:
    """The versions of the packages that a run's result depends on."""
    packages = ("torchvision", "lightning", "numpy", "scikit-learn", "pillow")
    own = {"torchdigits": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return own | {name: metadata.version(name) for name in packages}
