"""A run is one process, unless torchrun has started several, or Lightning of this one."""

import os

import pytest
from lightning.fabric.utilities.rank_zero import _get_rank

from torchdigits.engines.processes import is_first_process, own_processes, under_torchrun

FOREIGN = {"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "x", "JSM_NAMESPACE_RANK": "1", "NODE_RANK": "1"}
FOREIGN |= {"PL_TRAINER_LIMIT_TRAIN_BATCHES": "5"}  # as Lightning's Trainer takes its arguments too


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs have set."""
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)


def test_what_other_programs_say_of_processes_is_hidden_from_lightning_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = dict(os.environ)
    assert is_first_process()
    with own_processes():
        assert _get_rank() is None  # which Lightning asks when it is imported
        assert not FOREIGN.keys() & os.environ.keys()
        os.environ["LOCAL_RANK"] = "0"  # as Lightning does in the process that starts others
        with own_processes():
            assert is_first_process()
            started = os.environ | {"LOCAL_RANK": "1"}
    assert dict(os.environ) == before
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with own_processes():
        assert not is_first_process()
        assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(("rank", "first"), [("0", True), ("1", False)])
def test_torchrun_says_which_process_is_the_first(rank: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert is_first_process()  # the name alone, without the numbers, is of another program
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "")
    assert not under_torchrun()
    for name, value in {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with own_processes():
        assert is_first_process() is first
        assert os.environ["LOCAL_RANK"] == rank
        monkeypatch.delenv("LOCAL_RANK")
        assert is_first_process()
