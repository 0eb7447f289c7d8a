"""What a sweep keeps of its networks, and which of them it calls lost or best."""

from pathlib import Path

import pytest
import torch

from torchdigits import SigmoidMLP, load_network
from torchdigits.population.ensemble import Trained
from torchdigits.population.folder import opened
from torchdigits.population.members import Member, Row, SweepOptions

OPTIONS = SweepOptions(seeds=3, epochs=1, dataset="digits")
CPU = torch.device("cpu")


def trained(member: Member, correct: int) -> Trained:
    row, network = Row(member, 1, correct, correct, ""), SigmoidMLP(member.sizes)
    return Trained([row], [network], row, network)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_equally_good_networks_the_first_is_kept_whenever_it_was_finished(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    members = OPTIONS.members()
    slices = [trained(member, correct) for member, correct in zip(members, (7, 9, 9), strict=True)]
    with opened(tmp_path / "sweep", OPTIONS, resume=False) as sweep:
        for place in order:
            sweep.add(slices[place])
        assert sweep.best is not None
        assert sweep.best.member == members[1]
    kept = load_network(tmp_path / "sweep" / "best.ckpt")
    for ours, theirs in zip(kept.parameters(), slices[1].networks[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
