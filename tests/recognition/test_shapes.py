"""The doubt: how unlike digits a shape is."""

import numpy as np
import pytest
from PIL import Image

from torchdigits import Recognizer
from torchdigits.data.datasets import DigitSplits
from torchdigits.recognition.recognizer import UNSURE
from torchdigits.recognition.shapes import FARTHEST, distances, doubts, features, likeness, shapes, unlikeness


def test_an_edge_counts_in_its_direction_and_cell() -> None:
    """A vertical edge of a bar has gradients to the left and to the right, and none upwards or downwards."""
    bar = np.zeros((28, 28), np.uint8)
    bar[:, 12:16] = 255
    found = features(np.stack([bar.ravel(), bar.T.ravel()])).reshape(2, 12, 7, 7)
    upright, lying = found.sum((2, 3))
    assert set(upright.argsort()[-2:]) == {0, 6}  # of twelve directions, 30 degrees apart
    assert set(lying.argsort()[-2:]) == {3, 9}
    assert upright[[3, 9]].max() < 1e-3 * upright.max()
    np.testing.assert_allclose(lying[[3, 9]], upright[[0, 6]], rtol=1e-4)
    # Windows fall off from the middles of cells as a normal distribution of half a cell, an edge as one of 1.1 pixels.
    middles = 2.5 + 22 / 7 * (np.arange(7) + 0.5)
    near = np.exp(-((middles[:, np.newaxis] - [11.5, 15.5]) ** 2) / 2 / ((11 / 7) ** 2 + 1.1**2)).sum(1)
    columns = (found[0] ** 2).sum((0, 1))
    np.testing.assert_allclose(columns / columns[3], near / near[3], rtol=0.15, atol=0.01)


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


def test_many_images_are_as_far_as_each_of_them(mnist: DigitSplits) -> None:
    images = mnist.test.images[:1001].numpy()
    found, some = distances(images), [0, 499, 500, 999, 1000]
    assert found.shape == (1001, 10)
    np.testing.assert_allclose(found[some], np.vstack([distances(images[[i]]) for i in some]), rtol=1e-3)
    assert distances(images[:0]).shape == (0, 10)


def test_odds_are_of_the_features_and_the_distance(mnist: DigitSplits) -> None:
    images, weights = mnist.test.images[:1001].numpy().copy(), shapes().odds.astype(float)
    images[3].reshape(28, 28)[4:24, 4:24] = 255  # a square, far from every digit
    apart, found = likeness(images)
    assert apart[3].min() > FARTHEST
    assert np.array_equal(apart, distances(images))
    expected = features(images) @ weights[:, :588].T + np.outer(apart.min(1).clip(max=FARTHEST), weights[:, 588])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected + weights[:, 589], rtol=1e-3, atol=1e-3)
    assert [part.shape for part in likeness(images[:0])] == [(0, 10), (0, 2)]


def test_one_digit_has_other_odds_than_two_side_by_side(mnist: DigitSplits) -> None:
    images = mnist.test.images[:1000].view(-1, 28, 28).numpy()
    pairs = [
        Image.fromarray(np.hstack([one[:, one.any(0)], other[:, other.any(0)]])).resize((26, 14))
        for one, other in zip(images[::2], images[1::2], strict=True)
    ]
    two = np.pad(np.array([np.asarray(pair) for pair in pairs]), ((0, 0), (7, 7), (1, 1))).reshape(-1, 784)
    several = [likeness(given)[1][:, 1] for given in (images.reshape(-1, 784), two)]
    assert np.mean(several[0] < 0.5) > 0.98
    assert np.mean(several[1] > 0.5) > 0.8


def test_unlike_is_the_mean_of_two_distances_and_a_doubt_counts_those_that_are_less() -> None:
    apart = np.array([[9, 5, 7, *[20] * 7], [4, 8, 6, *[20] * 7]], np.float32)
    assert unlikeness(apart, np.array([2, 0])).tolist() == [6, 4]
    quantiles = shapes().quantiles
    assert doubts(np.array([-1, quantiles[-1] + 1])).tolist() == [0, 1]
    for place in (0, 1, 500, len(quantiles) - 1):
        between = (quantiles[place] + quantiles[max(place - 1, 0)]) / 2
        expected = [place / len(quantiles)] * 2 if place else [0, 0]
        assert doubts(np.array([quantiles[place], between])).tolist() == expected


def test_an_edge_between_two_directions_counts_for_both() -> None:
    """In each direction it counts as much as it is near; windows of cells overlap, and each sums to one."""
    across, down = np.meshgrid(np.arange(28), np.arange(28))
    for degrees in range(0, 360, 15):
        towards = np.radians(degrees)
        ramp = np.cos(towards) * (across - 13.5) + np.sin(towards) * (down - 13.5)
        strengths = features(np.clip(127 + 3 * ramp, 0, 255).astype(np.uint8).reshape(1, -1)).reshape(12, 7, 7) ** 2
        inner = strengths[:, 2:5, 2:5].reshape(12, 9)  # away from the picture's edges
        shares = inner.sum(1)
        shares /= shares.sum()
        below, share = divmod(degrees / 30, 1)
        assert abs(shares[int(below)] - (1 - share)) < 0.15
        assert abs(shares[int(below + 1) % 12] - share) < 0.15
        np.testing.assert_allclose(inner.sum(0), 3 / 255, rtol=0.1 if degrees % 90 else 0.001)


def test_a_doubt_is_the_share_of_training_images_that_are_more_like_their_digits(mnist: DigitSplits) -> None:
    images, labels = mnist.training.images[::10].numpy(), mnist.training.labels[::10].numpy()
    unlike = unlikeness(distances(images), labels)
    found = doubts(unlike)
    for level in (0.1, 0.5, 0.9, 0.985):
        assert abs((found <= level).mean() - level) < 0.02
        np.testing.assert_allclose(np.quantile(unlike, level), shapes().quantiles[int(1000 * level)], rtol=0.08)


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


@pytest.mark.slow
def test_two_digits_as_one_and_scribbles_are_unsure(mnist: DigitSplits) -> None:
    chance = np.random.default_rng(0)
    images = mnist.test.images.view(-1, 28, 28).numpy()
    pairs = [np.hstack([images[i], images[i + 1]]) for i in range(0, 100, 2)]
    recognizer = Recognizer()
    assert sum(recognizer.recognize(Image.fromarray(255 - pair).resize((224, 112))).sure for pair in pairs) == 0
    noise = [np.pad(chance.integers(0, 2, (4, 4)), 2).repeat(16, 0).repeat(16, 1) for _ in range(50)]
    assert sum(recognizer.recognize((255 * picture).astype(np.uint8)).sure for picture in noise) <= 3
