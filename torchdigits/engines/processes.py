"""Which of a run's processes this is: the only one, unless torchrun or Lightning has started several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_LAUNCHED = "TORCHDIGITS_LAUNCHED"  # is set in the processes that Lightning starts for ours
# By these, Lightning takes a process for one of several: Slurm, MPI and others set them too.
_OTHERS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "JSM_NAMESPACE_RANK"),
)


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    sizes = (os.environ.get(name, "") for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return "TORCHELASTIC_RUN_ID" in os.environ and all(size.isdecimal() for size in sizes)


def is_first_process() -> bool:
    """Whether this is the first of the processes that Lightning or torchrun started for a run, or the only one."""
    launched = under_torchrun() or _LAUNCHED in os.environ
    return not launched or os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def own_processes() -> Iterator[None]:
    """Hide from Lightning, and from the processes that it starts, what other programs say of processes."""
    if under_torchrun() or _LAUNCHED in os.environ:
        yield
        return
    settings = [name for name in os.environ if name.startswith("PL_TRAINER_")]  # which would change any Trainer
    before = {name: os.environ.pop(name, None) for name in (*_OTHERS, *settings, _LAUNCHED)}
    os.environ[_LAUNCHED] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
