"""The doubt: how unlike digits a shape is."""

import numpy as np
from PIL import Image

from torchdigits import Recognizer
from torchdigits.data.datasets import DigitSplits
from torchdigits.recognition.recognizer import UNSURE
from torchdigits.recognition.shapes import distances, doubts, features, shapes, unlikeness


def test_an_edge_counts_in_its_direction_and_cell() -> None:
    """A vertical edge of a bar has gradients to the left and to the right, and none upwards or downwards."""
    bar = np.zeros((28, 28), np.uint8)
    bar[:, 12:16] = 255
    found = features(np.stack([bar.ravel(), bar.T.ravel()])).reshape(2, 12, 4, 4)
    upright, lying = found.sum((2, 3))
    assert set(upright.argsort()[-2:]) == {0, 6}  # of twelve directions, 30 degrees apart
    assert set(lying.argsort()[-2:]) == {3, 9}
    assert upright[[3, 9]].max() < 1e-3 * upright.max()
    np.testing.assert_allclose(lying[[3, 9]], upright[[0, 6]], rtol=1e-4)
    columns = found[0].sum((0, 1))
    assert columns[1:3].min() > 2 * columns[[0, 3]].max()


def test_a_distance_is_mahalanobis(mnist: DigitSplits) -> None:
    """To the nearest of a digit's three kinds, by the covariance that the whitening stands for."""
    known, images = shapes(), mnist.test.images[:20].numpy()
    at = ((features(images) - known.mean) @ known.basis).astype(float)
    expected = np.full((20, 10), np.inf)
    for digit, whitening, centre in zip(known.digits, known.whitening.astype(float), known.centres, strict=True):
        precision, mean = whitening.T @ whitening, np.linalg.solve(whitening, centre)
        apart = at - mean
        squares = np.einsum("ni,ij,nj->n", apart, precision, apart)
        expected[:, digit] = np.minimum(expected[:, digit], squares)
    np.testing.assert_allclose(distances(images), expected, rtol=1e-3)


def test_a_doubt_is_the_share_of_training_images_that_are_more_like_their_digits(mnist: DigitSplits) -> None:
    images, labels = mnist.training.images[::10].numpy(), mnist.training.labels[::10].numpy()
    unlike = unlikeness(distances(images), labels)
    found = doubts(unlike)
    for level in (0.1, 0.5, 0.9, 0.985):
        assert abs((found <= level).mean() - level) < 0.02
        np.testing.assert_allclose(np.quantile(unlike, level), shapes().quantiles[int(1000 * level)], rtol=0.05)


def test_97_in_100_of_the_test_images_are_answered_and_doubts_are_worth_something(mnist: DigitSplits) -> None:
    answers = Recognizer().answers(mnist.test.images.numpy())
    sure = np.array([answer.sure for answer in answers])
    right = np.array([answer.digit for answer in answers]) == mnist.test.labels.numpy()
    assert sure.mean() >= 0.97
    assert right[sure].mean() > right.mean() + 0.015
    assert right[~sure].mean() < 0.5
    assert all(answer.sure == (answer.doubt <= UNSURE) for answer in answers)


def test_the_level_is_the_callers(mnist: DigitSplits) -> None:
    images = mnist.test.images[:500].numpy()
    shares = [np.mean([answer.sure for answer in Recognizer(unsure=level).answers(images)]) for level in (0, 0.5, 1)]
    assert shares[0] < 0.02 < 0.4 < shares[1] < 0.6
    assert shares[2] == 1


def test_two_digits_as_one_and_scribbles_are_unsure(mnist: DigitSplits) -> None:
    chance = np.random.default_rng(0)
    images = mnist.test.images.view(-1, 28, 28).numpy()
    pairs = [np.hstack([images[i], images[i + 1]]) for i in range(0, 100, 2)]
    recognizer = Recognizer()
    assert sum(recognizer.recognize(Image.fromarray(255 - pair).resize((224, 112))).sure for pair in pairs) == 0
    noise = [np.pad(chance.integers(0, 2, (4, 4)), 2).repeat(16, 0).repeat(16, 1) for _ in range(50)]
    assert sum(recognizer.recognize((255 * picture).astype(np.uint8)).sure for picture in noise) <= 3
