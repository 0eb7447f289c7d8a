"""Convert a trained network to another format."""

from pathlib import Path

from torchdigits.files.networks import load_network, save_network


def convert(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Convert a trained network to another format.

    TARGET's suffix names the format.

    Args:
        source: the network: .ckpt, .json or .npz.
        target: the file to write: .ckpt, .json, .npz or .onnx.
        overwrite: replace TARGET if it exists.
    """
    network = load_network(source)
    save_network(network, target, overwrite)
    precision = str(next(network.parameters()).dtype).removeprefix("torch.")
    print(f"{target}: {'-'.join(map(str, network.sizes))}, {precision}")
