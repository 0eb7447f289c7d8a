import hashlib
from pathlib import Path

import pytest

from torchdigits.files.networks import shipped_checkpoint
from torchdigits.recognition import card
from torchdigits.recognition.card import card_facts

SHA256 = hashlib.sha256(shipped_checkpoint().read_bytes()).hexdigest()


def test_the_card_of_the_shipped_network_says_what_it_was_trained_on_and_how_good_it_is() -> None:
    facts = card_facts(SHA256)
    assert facts["data"].startswith("MNIST: the first 50,000")
    assert "94d51b72" not in facts["data"]  # the next sentence
    assert (facts["validation"], facts["test"]) == ("9,583 / 10,000", "9,509 / 10,000")


def test_another_network_has_no_card() -> None:
    assert card_facts("0" * 64) == {}


def test_a_package_without_the_card_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(card, "shipped_checkpoint", lambda: tmp_path / "network.ckpt")
    assert card_facts(SHA256) == {}
