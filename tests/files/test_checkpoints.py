import io
import pickle
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import Hostile
from torch import nn
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from torchdigits import DigitClassifier, SigmoidMLP, load_network
from torchdigits.errors import CheckpointError
from torchdigits.files import checkpoints
from torchdigits.files.checkpoints import read_checkpoint
from torchdigits.files.networks import save_network


def state_of(network: SigmoidMLP) -> dict[str, torch.Tensor]:
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()}


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(784, 30, 10), (784, 10), (5, 4, 3, 2)])
def test_a_network_comes_back_bit_for_bit(tmp_path: Path, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    network = SigmoidMLP(sizes).to(dtype)
    again = load_network(save(tmp_path / "x.ckpt", {"state_dict": state_of(network)}))
    assert again.sizes == sizes
    assert not again.training
    for ours, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, theirs)
    images = torch.rand(3, sizes[0], dtype=dtype)
    assert torch.equal(again(images), network(images))


@pytest.mark.slow
def test_loading_and_recognising_import_nothing_that_they_do_not_need() -> None:
    code = "import sys, torchdigits; torchdigits.load_network(); torchdigits.Recognizer(); print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    packages = {name.partition(".")[0] for name in imported.split()}
    assert "torch" in packages
    assert not packages & {"lightning", "tyro", "matplotlib", "sklearn", "torchvision"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, torchdigits; dir(torchdigits); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere\.ckpt"):
        load_network(tmp_path / "nowhere.ckpt")
    for path, words in ((tmp_path, "it is a folder"), ("", "it is a folder"), ("x" * 1000, "cannot read x.*too long")):
        with pytest.raises(CheckpointError, match=words):
            load_network(path)


def test_all_of_a_checkpoint_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    several = torch.randn(3, 4, 5)
    content: dict[str, object] = {
        "state_dict": OrderedDict(weight=nn.Parameter(several[1]), bias=several[2, 1].double(), turned=several[0].T),
        "optimizer_states": [{"state": {0: {"momentum": None}}, "param_groups": [{"lr": 3.0, "params": [0, 1]}]}],
        "rng": torch.get_rng_state(),
        "others": [torch.tensor(True), torch.tensor(7), torch.ones(2, dtype=torch.bfloat16), torch.ones(0)],
        "counted": Counter({"a": torch.ones(2)}),
        "plain": (1, -(2**40), 2**70, 1.5, float("-inf"), "é\n", True, None, (), [[]], {}),
        "made": [Counter(a=1, b=2), torch.Size([2, 3])],
    }
    path = save(tmp_path / "x.ckpt", content)
    ours, theirs = read_checkpoint(path), torch.load(path, weights_only=True)
    assert ours.pop("plain") == theirs.pop("plain")
    assert ours.pop("made") == theirs.pop("made")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 100, pickle.dumps({"state_dict": {}}), b"PK\x03\x04junk"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    for name, kind in (("x.ckpt", "checkpoint of DigitClassifier"), ("x.h5", "network in .ckpt or .json or .npz")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is not a {kind}: damaged, or of another kind"):
            load_network(tmp_path / name)


def test_a_checkpoint_may_have_another_suffix(tmp_path: Path) -> None:
    network = SigmoidMLP([4, 3, 2])
    assert load_network(save(tmp_path / "x.pt", {"state_dict": state_of(network)})).sizes == network.sizes


def other_programs() -> dict[str, object]:
    good = state_of(SigmoidMLP([4, 3, 2]))
    huge = torch.zeros(1).expand(10**6, 10**6)
    tied = {"weight": torch.ones(4, 4), "bias": torch.ones(4)}
    return {
        "a list": [1, 2],
        "no state": {"epoch": 3},
        "state of another kind": {"state_dict": [1, 2]},
        "an empty state": {"state_dict": {}},
        "numbers": {"state_dict": {"network.layers.0.weight": 1, "network.layers.0.bias": 2}},
        "another model": {"state_dict": torch.nn.Linear(3, 2).state_dict()},
        "a missing bias": {"state_dict": {k: v for k, v in good.items() if k != "network.layers.1.bias"}},
        "one tensor more": {"state_dict": good | {"network.layers.2.weight": torch.ones(2, 2)}},
        "layers that do not fit": {"state_dict": good | {"network.layers.1.weight": torch.ones(2, 7)}},
        "a bias that does not fit": {"state_dict": good | {"network.layers.1.bias": torch.ones(7)}},
        "no matrix": {"state_dict": good | {"network.layers.0.weight": torch.tensor(1.0)}},
        "integers": {"state_dict": {name: tensor.long() for name, tensor in good.items()}},
        "two precisions": {"state_dict": good | {"network.layers.1.bias": torch.ones(2).double()}},
        "not a number": {"state_dict": good | {"network.layers.1.bias": torch.tensor([1.0, torch.nan])}},
        "infinity": {"state_dict": good | {"network.layers.1.bias": torch.tensor([1.0, torch.inf])}},
        "a huge view": {"state_dict": {"network.layers.0.weight": huge, "network.layers.0.bias": huge[0]}},
        "tied layers": {
            "state_dict": {
                f"network.layers.{layer}.{kind}": shared for layer in (0, 1) for kind, shared in tied.items()
            }
        },
        "a huge product": {
            "state_dict": good
            | {"network.layers.0.weight": torch.ones(10**6, 1), "network.layers.1.weight": torch.ones(10**6, 1)}
        },
    }


SAID = {
    "a list": "it holds a list",
    "integers": r"layers\.0\.weight is torch\.int64",
    "two precisions": r"layers\.1\.bias is torch\.float64",
    "layers that do not fit": "its weight matrices do not fit each other",
    "tied layers": "its tensors share their elements",
}


@pytest.mark.parametrize("kind", other_programs())
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "x.ckpt", other_programs()[kind])
    with pytest.raises(CheckpointError, match=rf"x\.ckpt is not a checkpoint of DigitClassifier: {SAID.get(kind, '')}"):
        load_network(path)


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "epoch"])
def test_a_hostile_checkpoint_runs_no_code(tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    content = {"state_dict": state_of(SigmoidMLP()), "hyper_parameters": {}, "epoch": 1}
    path = save(tmp_path / "x.ckpt", content | {place: {"x": Hostile(canary)}})
    with pytest.raises(CheckpointError, match=r"it asks for posix\.mkdir, which was refused"):
        load_network(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the proof that it would have
    assert canary.exists()


def test_loading_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_network()
    assert torch.equal(torch.rand(3), expected)


def test_hyper_parameters_that_lie_are_not_believed(tmp_path: Path) -> None:
    content = {
        "state_dict": state_of(SigmoidMLP([4, 3, 2])),
        "hyper_parameters": {"sizes": [10**9, 10**9], "_instantiator": "os.mkdir"},
    }
    assert load_network(save(tmp_path / "x.ckpt", content)).sizes == (4, 3, 2)


def test_lightning_reads_the_shipped_checkpoint_too() -> None:
    from torchdigits.files.networks import shipped_checkpoint

    classifier = DigitClassifier.load_from_checkpoint(shipped_checkpoint(), map_location="cpu", weights_only=True)
    for ours, theirs in zip(classifier.parameters(), load_network().parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lightning_reads_what_is_saved_here(tmp_path: Path, dtype: torch.dtype) -> None:
    network = SigmoidMLP([6, 5, 4]).to(dtype)
    save_network(network, tmp_path / "x.ckpt")
    classifier = DigitClassifier.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert classifier.network.sizes == (6, 5, 4)
    for ours, theirs in zip(classifier.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert content["pytorch-lightning_version"] == metadata.version("lightning")


def refused(path: Path, content: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(save(path, content))
    assert str(caught.value).startswith(f"{path} is not a checkpoint of DigitClassifier: ")
    return str(caught.value)


def test_a_checkpoint_may_hold_100_000_values_and_16_mb_beside_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, rest = [0] * 1009, [0] * 8  # with the two around them, 1 + 1 + 99 * 1010 + 8 values
    assert len(read_checkpoint(save(tmp_path / "x.ckpt", {"x": [shared] * 99 + rest}))["x"]) == 107
    assert "more than 100,000 values" in refused(tmp_path / "x.ckpt", {"x": [shared] * 99 + [0, *rest]})
    pickled = len(pickle.dumps({"x": "x" * 1000}, protocol=2))
    monkeypatch.setattr(checkpoints, "MOST_PICKLED", pickled)
    assert read_checkpoint(save(tmp_path / "x.ckpt", {"x": "x" * 1000})) == {"x": "x" * 1000}
    assert f"it holds {pickled + 1:,} bytes beside its tensors" in refused(tmp_path / "x.ckpt", {"x": "x" * 1001})


class Called:
    """Pickled as a call of what torch's checkpoints may name, but not as torch calls it."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


def test_what_torch_would_not_call_like_this_is_refused(tmp_path: Path) -> None:
    for function, arguments in ((Counter, ("abc",)), (torch.Size, ()), (_rebuild_parameter, (1, True, OrderedDict()))):
        content = {"hyper_parameters": {"x": Called(function, *arguments)}}
        name = f"{function.__module__}.{function.__name__}"
        assert f"it calls {name} in another way than torch" in refused(tmp_path / "x.ckpt", content)


def with_entry(path: Path, entry: str, content: bytes) -> Path:
    """The checkpoint with another content in one of its entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in entries.items():
            archive.writestr(name, content if name.endswith(f"/{entry}") else part)
    return path


def test_a_checkpoint_from_a_machine_of_another_byte_order_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", {"state_dict": state_of(SigmoidMLP([4, 3]))})
    load_network(with_entry(path, "byteorder", sys.byteorder.encode()))
    other = {"little": b"big", "big": b"little"}[sys.byteorder]
    with pytest.raises(CheckpointError, match=r": it is from a machine of another byte order$"):
        load_network(with_entry(path, "byteorder", other))


class Storage:
    """Stands for a tensor's elements, which torch's pickles name and do not hold."""


class WithStorage(pickle.Pickler):
    named: tuple[object, ...] = ()

    def persistent_id(self, value: object) -> object:
        return self.named if isinstance(value, Storage) else None


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", 2), ""),
        (("storage", torch.FloatStorage, "0", "cpu", 3), "its storage 0 is not as large as it claims"),
        (("storage", torch.DoubleStorage, "0", "cpu", 2), "its storage 0 is not as large as it claims"),
        (("other", torch.FloatStorage, "0", "cpu", 2), "it calls torch._utils._rebuild_tensor_v2 in another way"),
        (None, "it calls a persistent object in another way than torch"),
    ],
)
def test_a_tensor_has_the_elements_that_it_claims(named: tuple[object, ...] | None, said: str, tmp_path: Path) -> None:
    rebuilt = Called(_rebuild_tensor_v2, Storage(), 0, (2,), (1,), False, OrderedDict())
    pickler = WithStorage(pickled := io.BytesIO(), protocol=2)
    pickler.named = ("other",) if named is None else named
    pickler.dump({"x": Storage() if named is None else rebuilt})
    path = save(tmp_path / "x.ckpt", {"x": torch.tensor([1.5, 2.5])})
    with_entry(path, "data.pkl", pickled.getvalue())
    if not said:
        assert read_checkpoint(path)["x"].tolist() == [1.5, 2.5]
        return
    with pytest.raises(CheckpointError, match=f": {said}"):
        read_checkpoint(path)
