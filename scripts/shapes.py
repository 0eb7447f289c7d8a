"""Fit the shapes of digits, which tell what is like one, to MNIST's training images.

python scripts/shapes.py FILE.npz
"""

from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from torchdigits.commands.cli import main
from torchdigits.data.datasets import Digits, load_splits
from torchdigits.files.writing import becoming, check_new_file
from torchdigits.recognition.shapes import Shapes, features

KINDS = 3  # of shapes, of each digit
DIMENSIONS = 100
SHRINKAGE = 0.2  # of a covariance towards a multiple of the identity
STEPS = 1000  # of the quantiles


def fit(digits: Digits) -> Shapes:
    """Describe the shapes of labelled images: features in their principal directions, clustered for each digit, and
    a normal distribution for each cluster."""
    images, labels = digits.images.numpy(), digits.labels.numpy()
    found = np.concatenate([features(part) for part in np.array_split(images, 1 + len(images) // 2000)]).astype(float)
    mean = found.mean(0)
    directions = np.linalg.eigh(np.cov(found.T))[1][:, ::-1][:, :DIMENSIONS]
    at = (found - mean) @ directions
    whitening, centres, distance = [], [], np.empty((len(labels), 10 * KINDS))
    for digit in range(10):
        own = at[labels == digit]
        kinds = KMeans(KINDS, n_init=3, random_state=0).fit_predict(own)
        for kind in range(KINDS):
            covariance = np.cov(own[kinds == kind].T)
            level = np.trace(covariance) / DIMENSIONS
            covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(DIMENSIONS)
            whitening.append(np.linalg.inv(np.linalg.cholesky(covariance)))
            centres.append(whitening[-1] @ own[kinds == kind].mean(0))
            distance[:, len(centres) - 1] = ((at @ whitening[-1].T - centres[-1]) ** 2).sum(1)
    nearest = distance.reshape(-1, 10, KINDS).min(2)
    likeness = (nearest[np.arange(len(labels)), labels] + nearest.min(1)) / 2
    quantiles = np.quantile(likeness, (np.arange(STEPS) + 0.5) / STEPS)
    return Shapes(mean, directions, np.repeat(np.arange(10), KINDS), np.stack(whitening), np.stack(centres), quantiles)


def shapes(file: Path, *, data_dir: Path | None = None) -> None:
    """Fit the shapes of digits to MNIST's training images.

    Args:
        file: a new .npz file.
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).
    """
    check_new_file("FILE", file, (".npz",))
    found = fit(load_splits("mnist", data_dir).training)
    with becoming("FILE", file) as part, part.open("wb") as opened:
        np.savez_compressed(opened, **{name: array.astype(np.float16) for name, array in found._asdict().items()})


if __name__ == "__main__":
    main(shapes)
