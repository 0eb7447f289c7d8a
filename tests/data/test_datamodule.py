from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import lightning as L
import pytest
import torch

from torchdigits import DigitClassifier, DigitsDataModule
from torchdigits.data.batches import epoch_order
from torchdigits.data.datasets import Digits, DigitSplits
from torchdigits.errors import OptionError


def numbered(count: int) -> Digits:
    """Examples whose label is their number, and their pixels its remainder by 256."""
    numbers = torch.arange(count)
    return Digits((numbers % 256).to(torch.uint8)[:, None].expand(-1, 784).contiguous(), numbers)


def test_lightning_takes_each_epoch_in_its_own_order() -> None:
    class Watched(DigitClassifier):
        seen: list[int]

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.seen += batch[1].tolist()
            return super().training_step(batch, batch_idx)

    part = numbered(25)
    classifier = Watched([784, 25])
    classifier.seen = []
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(classifier, DigitsDataModule(DigitSplits(part, part, part), batch_size=10, seed=5))
    assert classifier.seen == [int(i) for epoch in range(3) for i in epoch_order(25, 5, epoch)]


def test_without_a_trainer_the_training_images_come_in_the_first_epochs_order() -> None:
    part = numbered(25)
    splits = DigitSplits(part, part, part)
    order = epoch_order(25, 5, 0).tolist()
    mini_batches = DigitsDataModule(splits, batch_size=10, seed=5).train_dataloader()
    assert [labels.tolist() for _, labels in mini_batches] == [order[:10], order[10:20], order[20:]]
    blocks = DigitsDataModule(splits, batch_size=4, seed=5, block_size=3).train_dataloader()
    assert [labels.shape for _, labels in blocks] == [(3, 4), (3, 4), (1, 1)]
    assert [label for _, labels in blocks for label in labels.flatten().tolist()] == order


def test_mnist_in_the_originals_mini_batches_is_the_default() -> None:
    module = DigitsDataModule()
    assert (module.dataset, module.data_dir, module.batch_size, module.seed) == ("mnist", None, 10, 0)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_mini_batches_are_of_the_trainers_precision_and_its_process_share(
    precision: Literal["32-true", "64-true"], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = numbered(25)
    module = DigitsDataModule(DigitSplits(part, part, part), batch_size=5, seed=5)
    module.trainer = trainer = L.Trainer(accelerator="cpu", precision=precision, barebones=True)
    monkeypatch.setattr(type(trainer), "global_rank", 1)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    batches = list(module.train_dataloader())
    assert {images.dtype for images, _ in batches} == {dtype}
    order = epoch_order(25, 5, 0).tolist()
    assert [labels.tolist() for _, labels in batches] == [order[5:10], order[15:20], order[23:]]


def test_what_is_trained_on_lies_on_the_trainers_device() -> None:
    part = numbered(25)
    for block_size in (None, 3):
        module = DigitsDataModule(DigitSplits(part, part, part), batch_size=5, block_size=block_size)
        assert module.train_dataloader().digits.images.device == torch.device("cpu")
        strategy = SimpleNamespace(root_device=torch.device("meta"))  # as any other but the CPU
        module.trainer = SimpleNamespace(  # type: ignore[assignment]
            precision="32-true", strategy=strategy, global_rank=0, world_size=1, limit_train_batches=1.0
        )
        assert {tensor.device.type for tensor in module.train_dataloader().digits} == {"meta"}


def test_the_held_out_parts_come_whole_and_in_order(digits: DigitSplits) -> None:
    module = DigitsDataModule("digits")
    for loader, part in (
        (module.val_dataloader(), digits.validation),
        (module.test_dataloader(), digits.test),
        (module.predict_dataloader(), digits.test),
    ):
        assert torch.equal(torch.cat([labels for _, labels in loader]), part.labels)
        assert torch.equal(torch.cat([images for images, _ in loader]), part.images / 255)


@pytest.mark.parametrize(
    ("option", "number", "allowed"),
    [
        ("batch_size", 0, "1 or more"),
        ("batch_size", -1, "1 or more"),
        ("block_size", 0, "1 or more"),
        ("seed", -1, "a whole number from 0 to 4294967295"),
        ("seed", 2**32, "a whole number from 0 to 4294967295"),
    ],
)
def test_an_option_out_of_range_says_the_range(option: str, number: int, allowed: str) -> None:
    with pytest.raises(OptionError, match=f"^{option.replace('_', ' ')} {number}: it must be {allowed}$"):
        DigitsDataModule("digits", None, **{option: number})
    DigitsDataModule("digits", None, batch_size=1, seed=2**32 - 1, block_size=1)


def test_lightning_downloads_mnist_before_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In one process of a machine, where others wait for it."""
    wanted: list[Path | None] = []
    monkeypatch.setattr("torchdigits.data.datamodule.fetch_mnist", wanted.append)
    for dataset in ("digits", "mnist"):
        DigitsDataModule(dataset, tmp_path / dataset).prepare_data()
    assert wanted == [tmp_path / "mnist"]
