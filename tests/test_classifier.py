import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from conftest import ROOT, leave_uncompiled
from lightning.pytorch.callbacks import ModelCheckpoint

from torchdigits import CompiledDigitClassifier, DigitClassifier, DigitsDataModule, quadratic_cost
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import OptionError
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train


def quiet_trainer(**options: object) -> L.Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(**quiet | options)  # type: ignore[arg-type]


def truth(classifier: DigitClassifier, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Cost and accuracy, worked out an example at a time."""
    with torch.no_grad():
        outputs = [classifier(image / 255) for image in images]
    costs = [
        sum((float(a) - (digit == label)) ** 2 for digit, a in enumerate(output)) / 2
        for output, label in zip(outputs, labels.tolist(), strict=True)
    ]
    hits = [int(output.argmax()) == label for output, label in zip(outputs, labels.tolist(), strict=True)]
    return sum(costs) / len(costs), sum(hits) / len(hits)


def test_logged_means_are_those_of_the_examples(digits: DigitSplits) -> None:
    torch.manual_seed(0)
    # So small a step leaves the network as it is, so that the means over the epoch can be worked out after it.
    classifier = DigitClassifier(learning_rate=1e-30)
    trainer = quiet_trainer(max_epochs=1)
    module = DigitsDataModule(digits, batch_size=100)
    trainer.fit(classifier, module)
    logged = dict(trainer.callback_metrics)
    trainer.test(classifier, module, verbose=False)
    logged |= trainer.callback_metrics
    for name, part in digits._asdict().items():
        cost, accuracy = truth(classifier, *part)
        assert float(logged[f"{name}_cost"]) == pytest.approx(cost, rel=1e-5)
        assert float(logged[f"{name}_accuracy"]) == pytest.approx(accuracy, rel=1e-6)


def test_training_lowers_the_cost_and_prediction_gives_the_activations(digits: DigitSplits) -> None:
    torch.manual_seed(0)
    classifier = DigitClassifier()
    before = truth(classifier, *digits.test)
    trainer = quiet_trainer(max_epochs=3)
    module = DigitsDataModule(digits)
    trainer.fit(classifier, module)
    after = truth(classifier, *digits.test)
    assert after[0] < before[0] / 2
    assert after[1] > 0.7 > before[1]
    images = digits.test.images / 255
    (predicted,) = trainer.predict(classifier, module) or []
    assert isinstance(predicted, torch.Tensor)
    assert torch.equal(predicted, classifier(images))
    assert torch.equal(classifier.predict_step(images, 0), predicted)


def test_an_update_averages_a_short_mini_batch_over_its_own_size(digits: DigitSplits) -> None:
    torch.manual_seed(0)
    classifier = DigitClassifier(learning_rate=2.0)
    images, labels = digits.training.images[:3] / 255, digits.training.labels[:3]
    gradients = torch.autograd.grad(quadratic_cost(classifier(images), labels), list(classifier.parameters()))
    expected = [p.detach() - 2.0 * g for p, g in zip(classifier.parameters(), gradients, strict=True)]
    part = type(digits.training)(digits.training.images[:3], labels)
    quiet_trainer(max_epochs=1).fit(classifier, DigitsDataModule(DigitSplits(part, part, part), batch_size=10))
    for parameter, wanted in zip(classifier.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted, rtol=0, atol=1e-6)


def test_hyper_parameters_are_saved_as_plain_types_and_reload(tmp_path: Path, digits: DigitSplits) -> None:
    classifier = DigitClassifier(tuple(np.array([784, 12, 10])), np.float64(0.5))
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(classifier, DigitsDataModule(digits))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    hyper_parameters = torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]
    assert hyper_parameters == {"sizes": [784, 12, 10], "learning_rate": 0.5}
    assert [type(value) for value in hyper_parameters.values()] == [list, float]
    assert {type(size) for size in hyper_parameters["sizes"]} == {int}
    again = DigitClassifier.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    for ours, theirs in zip(again.parameters(), classifier.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("learning_rate", [0, -1, float("nan"), float("inf")])
def test_a_learning_rate_that_is_no_positive_number_is_refused(learning_rate: float) -> None:
    with pytest.raises(OptionError, match="learning rate"):
        DigitClassifier(learning_rate=learning_rate)


def test_a_learning_rate_may_be_the_largest_float() -> None:
    largest = float(np.finfo(np.float32).max)
    assert DigitClassifier(learning_rate=largest).learning_rate == largest
    with pytest.raises(OptionError, match=r"^learning rate 3\.5e\+38: it must be more than 0, and at most 3\.4e38$"):
        DigitClassifier(learning_rate=3.5e38)


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Lets this be one of two processes, of which the other gives these numbers to a sum."""

    def pretend(numbers: list[float]) -> None:
        def all_reduce(sums: torch.Tensor) -> None:
            sums += torch.tensor(numbers).view_as(sums)

        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)

    return pretend


def test_a_mini_batch_of_two_processes_is_the_mean_over_all_its_examples(
    digits: DigitSplits, another_process: Callable[[list[float]], None]
) -> None:
    classifier = DigitClassifier()
    images, labels = digits.training.images[:4] / 255, digits.training.labels[:4]
    alone = classifier.training_step((images, labels), 0).item()
    another_process([3.0])
    # DDP takes the mean of both; what is wanted of this one's four, of seven, is 4/7 of the mean.
    assert classifier.training_step((images, labels), 0).item() / 2 == pytest.approx(alone * 4 / 7)


def test_means_of_two_processes_are_over_the_examples_of_both(
    another_process: Callable[[list[float]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, logged = DigitClassifier(), []
    monkeypatch.setattr(classifier, "log_dict", lambda means, **options: logged.append((means, options)))
    activations, labels = torch.zeros(4, 10).fill_diagonal_(1.0), torch.tensor([0, 1, 5, 5])
    classifier.validation_step((torch.rand(4, 784), labels), 0)
    another_process([5.0, 2.0, 3.0])  # the sum of its costs, those recognised, and all
    monkeypatch.setattr(classifier, "forward", lambda images: activations)
    classifier.test_step((torch.rand(4, 784), labels), 0)
    (_, alone), (means, options) = logged
    assert alone == {"on_step": False, "on_epoch": True, "batch_size": 4}
    assert options == {"on_step": False, "on_epoch": True, "batch_size": 7}
    # Of the four, two are right and cost nothing, and two cost a half for each of two wrong outputs.
    found = {name: float(mean) for name, mean in means.items()}
    assert found == {"test_cost": (2.0 + 5.0) / 7, "test_accuracy": pytest.approx(4 / 7)}


ENGINES = {"eager": (DigitClassifier, None), "compiled": (CompiledDigitClassifier, 50)}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_uncompiled(monkeypatch)


def fit(engine: str, folder: Path, epochs: int, digits: DigitSplits, resumed: Path | None = None) -> L.Trainer:
    """Train with an engine on the embedded digits, leaving `last.ckpt` in the folder."""
    kind, block_size = ENGINES[engine]
    torch.manual_seed(0)
    trainer = quiet_trainer(
        max_epochs=epochs,
        precision="64-true",
        enable_checkpointing=True,
        callbacks=[ModelCheckpoint(folder, save_top_k=-1, save_last=True)],
    )
    module = DigitsDataModule(digits, seed=3, block_size=block_size)
    trainer.fit(kind((784, 12, 10)), module, ckpt_path=resumed, weights_only=True if resumed else None)
    return trainer


@pytest.mark.usefixtures("uncompiled")
def test_engines_leave_the_same_checkpoints_steps_and_metrics(tmp_path: Path, digits: DigitSplits) -> None:
    eager, compiled = (fit(engine, tmp_path / engine, 2, digits) for engine in ENGINES)
    assert eager.global_step == compiled.global_step == 2 * 122
    assert {name: metric.item() for name, metric in compiled.callback_metrics.items()} == pytest.approx(
        {name: metric.item() for name, metric in eager.callback_metrics.items()}, rel=1e-6
    )
    names = sorted(path.name for path in (tmp_path / "eager").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "compiled").iterdir())
    assert names == ["epoch=0-step=122.ckpt", "epoch=1-step=244.ckpt", "last.ckpt"]
    ours, theirs = (torch.load(tmp_path / engine / "last.ckpt", weights_only=True) for engine in ENGINES)
    assert ours.keys() == theirs.keys()
    for key in ("epoch", "global_step", "hyper_parameters", "optimizer_states", "lr_schedulers"):
        assert ours[key] == theirs[key], key
    for name, tensor in ours["state_dict"].items():
        torch.testing.assert_close(theirs["state_dict"][name], tensor, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
def test_a_run_goes_on_from_a_checkpoint_of_either_engine(
    tmp_path: Path, digits: DigitSplits, first: str, second: str
) -> None:
    whole = fit(second, tmp_path / "whole", 3, digits)
    fit(first, tmp_path / "begun", 1, digits)
    resumed = fit(second, tmp_path / "resumed", 3, digits, tmp_path / "begun" / "last.ckpt")
    assert resumed.global_step == whole.global_step == 3 * 122
    tolerance = 0 if first == second else 1e-11
    for ours, theirs in zip(resumed.lightning_module.parameters(), whole.lightning_module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_the_compiled_classifier_wants_blocks(digits: DigitSplits) -> None:
    with pytest.raises(OptionError, match="block_size"):
        quiet_trainer(max_epochs=1).fit(CompiledDigitClassifier(), DigitsDataModule(digits))


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one")
    options = TrainOptions(dataset="digits", epochs=2, precision="64", accelerator="cpu", engine="eager", output=output)
    return train(options).folder


def gone_on(run: Path, digits: DigitSplits) -> dict[str, torch.Tensor]:
    """The weights after one more epoch, in one process."""
    trainer = quiet_trainer(max_epochs=3, precision="64-true")
    module = DigitsDataModule(digits, batch_size=10, seed=0)
    trainer.fit(DigitClassifier(), module, ckpt_path=run / "last.ckpt", weights_only=True)
    return dict(trainer.lightning_module.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        ([], "--batch-size 5 --devices 2"),
        (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], "--batch-size 5"),
    ],
)
def test_two_processes_take_the_updates_of_one(
    one_process: Path, tmp_path: Path, digits: DigitSplits, launcher: list[str], options: str
) -> None:
    # Of 1,217 images the last mini-batch has 7, and the processes 4 and 3 of those.
    options += (
        f" --dataset digits --epochs 2 --precision 64 --accelerator cpu --engine eager --output {tmp_path / 'runs'}"
    )
    done = subprocess.run(
        [sys.executable, *launcher, ROOT / "scripts" / "train.py", *options.split()],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SLURM_NTASKS": "4"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert lines[:4] == ["Engine", "Epoch 1/2", "Epoch 2/2", "Test"]
    (two_processes,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in two_processes.iterdir()) == [
        "best.ckpt",
        "curve.png",
        "last.ckpt",
        "metrics.csv",
        "run.json",
    ]
    runs = one_process, two_processes
    one, two = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in runs)
    metrics = [np.loadtxt(run / "metrics.csv", delimiter=",", skiprows=1, usecols=range(5)) for run in runs]
    np.testing.assert_allclose(metrics[1], metrics[0], atol=1.1e-6)  # written with six decimals
    one_more, two_more = (gone_on(run, digits) for run in runs)
    for ours, theirs in ((two, one), (two_more, one_more)):
        for name, tensor in theirs.items():
            assert torch.linalg.norm(ours[name] - tensor) <= 1e-11 * torch.linalg.norm(tensor), name


def test_images_may_come_as_torchvision_gives_them() -> None:
    """`(m, 1, 28, 28)`, of MNIST with ToTensor, in a DataLoader."""
    images, labels = torch.rand(20, 1, 28, 28), torch.randint(10, (20,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=5)
    flat = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images.view(20, 784), labels), batch_size=5)
    trained = []
    for batches in (loader, flat):
        torch.manual_seed(1)
        classifier = DigitClassifier()
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(classifier, batches, batches)
        trainer.test(classifier, batches, verbose=False)
        trained.append(classifier)
        assert torch.cat(trainer.predict(classifier, batches)).shape == (20, 10)  # type: ignore[arg-type]
    for ours, theirs in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28)])
def test_bytes_are_to_be_divided_by_255(shape: tuple[int, ...]) -> None:
    images = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(OptionError, match=r"^images of uint8: divide them by 255, so that they are floats in "):
        DigitClassifier()(images)
