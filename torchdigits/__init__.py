"""The 784-30-10 network that people learn back-propagation from, on PyTorch and Lightning.

The names below are imported when they are first used, so that loading a network does not import Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from torchdigits.version import __version__

if TYPE_CHECKING:
    from torchdigits.classifier import DigitClassifier
    from torchdigits.data.datamodule import DigitsDataModule
    from torchdigits.engines.compiled import CompiledDigitClassifier
    from torchdigits.files.networks import load_network
    from torchdigits.network import SigmoidMLP, quadratic_cost
    from torchdigits.recognition.recognizer import Recognizer

__all__ = [
    "CompiledDigitClassifier",
    "DigitClassifier",
    "DigitsDataModule",
    "Recognizer",
    "SigmoidMLP",
    "__version__",
    "load_network",
    "quadratic_cost",
]

_MODULES = {
    "CompiledDigitClassifier": "engines.compiled",
    "DigitClassifier": "classifier",
    "DigitsDataModule": "data.datamodule",
    "Recognizer": "recognition.recognizer",
    "SigmoidMLP": "network",
    "load_network": "files.networks",
    "quadratic_cost": "network",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"torchdigits.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
