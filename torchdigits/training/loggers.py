"""Lightning's loggers for a run, by a name."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from torchdigits.errors import OptionError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")  # but for the first, each wants a package of its name


def check_logger(name: str) -> None:
    """Check that there is a logger of this name.

    Raises:
        OptionError: the name is unknown, or the logger's package is missing.
    """
    if name not in LOGGERS:
        raise OptionError(f"--logger {name}: it must be {', '.join(LOGGERS[:-1])} or {LOGGERS[-1]}")
    if name != "csv" and not ((spec := find_spec(name)) and spec.origin):  # and no folder of that name
        raise OptionError(f"--logger {name}: its package is missing: pip install 'torchdigits[{name}]'")


def make_logger(name: str, folder: Path) -> "Logger":
    """A logger for the run in this folder, which takes down its metrics, an epoch at a time, and its options.

    Args:
        name: csv and tensorboard write to the folder's `logs`; wandb and mlflow to the project `torchdigits`, where
            their own settings say, mlflow by default to the folder's `mlflow.db`.
        folder: the run's.

    Raises:
        OptionError: as `check_logger`.
    """
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

    check_logger(name)
    project = "torchdigits"
    if name == "csv":
        return CSVLogger(folder, "logs")
    if name == "tensorboard":
        return TensorBoardLogger(folder, "logs")
    if name == "wandb":
        os.environ.setdefault("WANDB_SILENT", "true")  # else it talks on stderr
        return WandbLogger(folder.name, folder, project=project)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else it tells of its tables on stderr
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    return MLFlowLogger(project, folder.name, place)
