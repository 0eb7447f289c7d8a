"""Fit the shapes of digits, which tell what is like one, to MNIST's training images.

python scripts/shapes.py FILE.npz
"""

import math
from pathlib import Path

import numpy as np
from made_pages import Written, blurred, plain, written
from rich.console import Console
from rich.progress import track
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchdigits.commands.cli import main
from torchdigits.data.datasets import Digits, load_splits
from torchdigits.errors import ImageError
from torchdigits.files.writing import becoming, check_new_file
from torchdigits.recognition.page import candidates_on
from torchdigits.recognition.pictures import read_grey
from torchdigits.recognition.shapes import FARTHEST, Shapes, distances, features

KINDS = 3  # of shapes, of each digit
DIMENSIONS = 100
SHRINKAGE = 0.2  # of a covariance towards a multiple of the identity
STEPS = 1000  # of the quantiles
CUT, WHOLE = 1800, 18_000  # pictures whose parts are all cut, and none
PENS = (0, 0, 0, 1, 2, 3.5)  # widths of the stroke, in MNIST's pixels; 0 as it is
PART, ONE, SEVERAL = range(3)  # what ink may be
WHOLES = 5.0  # weight of what is not cut out of something
MOST = 25_000  # examples of each


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
    kinds, odds = np.repeat(np.arange(10), KINDS), fit_odds(digits)
    return Shapes(mean, directions, kinds, np.stack(whitening), np.stack(centres), quantiles, odds)


def fit_odds(digits: Digits) -> np.ndarray:
    """The weights of the odds that ink is a part of a digit, or several, by what may be digits on made pages: all that
    a cut may leave of digits that touch, and single digits and pairs as they are.

    What is near a digit is told by the shapes that come along: if the features change, this is to be run twice.
    """
    images: list[np.ndarray] = []
    senses: list[int] = []
    weights: list[float] = []
    console = Console(stderr=True)
    for number in track(range(CUT + WHOLE), "cutting", console=console, transient=True):
        chance = np.random.default_rng(11_000_000 + number)
        pen, whole = float(chance.choice(PENS)), number >= CUT
        length = (1, 2)[number % 2] if whole else (2, 2, 3, 4)[number % 4]
        touching = number % 2 == 1 if whole else number % 4 < 3
        sheet = written(digits, chance, [length], touching=touching, pen=pen, gap=(0.05, 0.4))
        picture = plain(sheet, chance) if chance.random() < 0.7 else blurred(sheet, chance)
        try:
            found = candidates_on(read_grey(picture).pixels, math.inf if whole else -math.inf)
        except ImageError:  # too small to have a digit
            continue
        for candidate in found:
            sense = _sense(candidate.box, sheet.lines[0])
            if sense is not None:
                images.append(candidate.pixels)
                senses.append(sense)
                weights.append(WHOLES if whole else 1.0)
    truth = np.array(senses)
    order = np.random.default_rng(0).permutation(len(truth))
    kept = np.concatenate([order[truth[order] == sense][:MOST] for sense in (PART, ONE, SEVERAL)])
    chosen = np.array(images)[kept]
    found_features = np.concatenate([features(part) for part in np.array_split(chosen, 1 + len(chosen) // 2000)])
    nearest = distances(chosen).min(1).clip(max=FARTHEST)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=400))
    model.fit(
        np.column_stack([found_features, nearest]),
        truth[kept],
        logisticregression__sample_weight=np.array(weights)[kept],
    )
    scaler, regression = model[0], model[1]
    slopes = regression.coef_ / scaler.scale_
    of_all = np.column_stack([slopes, regression.intercept_ - slopes @ scaler.mean_])
    return np.asarray(of_all[[PART, SEVERAL]] - of_all[ONE])


def _sense(box: tuple[int, int, int, int], digits: list[Written]) -> int | None:
    """Whether a box is a part of a digit's, one digit's, or that of several; None if it is hard to say."""
    boxes = np.array([digit.box for digit in digits], float)
    width = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
    height = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
    shared = width.clip(0) * height.clip(0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    overlap = float((shared / (areas + (box[2] - box[0]) * (box[3] - box[1]) - shared)).max())
    taken = int((shared > 0.75 * areas).sum())
    if taken > 1:
        return SEVERAL
    if overlap >= 0.75:
        return ONE
    return PART if overlap < 0.6 else None


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
