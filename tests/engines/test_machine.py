"""What computes, and what is left as it was."""

import pytest
import torch

from torchdigits.engines.choice import worth_compiling
from torchdigits.engines.machine import find_machine, torch_settings
from torchdigits.errors import OptionError


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


def test_compiling_pays_from_10_000_updates_on() -> None:
    assert worth_compiling(10_000)
    assert not worth_compiling(9_999)


@pytest.mark.parametrize(
    ("precision", "devices", "obstacle"), [("32", 1, ""), ("64", 1, ""), ("bf16", 1, "32 or 64 bits"), ("32", 2, "one")]
)
def test_the_compiled_engine_takes_one_device_and_full_precision(precision: str, devices: int, obstacle: str) -> None:
    found = find_machine("cpu", devices, precision).obstacle_to_compiling
    assert obstacle in found
    assert bool(found) == bool(obstacle)


def test_no_device_is_one_line() -> None:
    with pytest.raises(OptionError, match="devices 0: it must be 1 or more"):
        find_machine("cpu", 0)


def test_more_processes_than_cores_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert find_machine("cpu", 4).devices == 4
    with pytest.raises(OptionError, match="--devices 5: that many processes are too many for 4 cores"):
        find_machine("cpu", 5)
