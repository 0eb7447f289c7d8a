"""What OpenCV computes for us, against SciPy and against sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from torchdigits.recognition.pixels import (
    blur,
    centre_of_mass,
    closed,
    distance_inside,
    grown,
    otsu_threshold,
    parts_of,
    quantile,
    typical_length,
)

EIGHT = np.ones((3, 3))
masks = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(mask=masks)
def test_parts_are_scipys(mask: np.ndarray) -> None:
    parts = parts_of(mask)
    labels, number = ndimage.label(mask, EIGHT)
    boxes = [(c.start, r.start, c.stop, r.stop) for r, c in ndimage.find_objects(labels)]
    assert len(parts.areas) == number
    assert sorted(map(tuple, parts.boxes.tolist())) == sorted(boxes)
    for at, (left, top, right, bottom) in enumerate(parts.boxes):
        own = parts.labels == at + 1
        assert np.unique(labels[own]).tolist() == [labels[own][0]] != [0]
        assert parts.areas[at] == own.sum() == parts.own(at).sum()
        assert parts.lengths[at] == max(right - left, bottom - top)
        assert np.array_equal(parts.own(at), own[top:bottom, left:right])
    chosen = np.arange(number) % 2 == 0
    assert np.array_equal(parts.where(chosen), np.isin(parts.labels, np.flatnonzero(chosen) + 1))


@given(
    values=arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.integers(-3, 3)),
    share=st.sampled_from([0, 0.25, 0.5, 0.75, 0.9, 1]),
)
def test_quantiles_are_numpys(values: np.ndarray, share: float) -> None:
    before = values.copy()
    assert quantile(values, share) == pytest.approx(float(np.quantile(values.astype(float), share)), abs=1e-12)
    assert quantile(values) == np.median(values)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("number", [1000, 1001, 1002])
def test_quantiles_of_many_values_are_numpys(number: int) -> None:
    values = np.random.default_rng(0).random(number)
    for share in np.linspace(0, 1, 37):
        assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-12)


@given(mask=masks, pixels=st.integers(1, 4))
def test_a_mask_grows_as_scipys_does(mask: np.ndarray, pixels: int) -> None:
    assert np.array_equal(grown(mask, pixels), ndimage.binary_dilation(mask, EIGHT, pixels))


@pytest.mark.parametrize("shape", [(300, 331), (40, 200), (33, 3), (1, 70), (9, 1), (1, 1)])
@pytest.mark.parametrize("side", [1, 3, 63, 65, 127, 129])
def test_a_closing_is_scipys(shape: tuple[int, int], side: int) -> None:
    """Of a picture that goes on beyond its edges as it is there."""
    pixels = np.random.default_rng(0).random(shape, np.float32)
    expected = ndimage.grey_closing(np.pad(pixels, side, mode="edge"), (side, side))[side:-side, side:-side]
    assert np.array_equal(closed(pixels, side), expected)


def test_distances_are_within_two_percent_of_euclids() -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random((90, 70)) < 0.999
        mask[0, 0] = False
        near, far = distance_inside(mask), ndimage.distance_transform_edt(mask)
        assert far.max() > 15
        np.testing.assert_allclose(near, far, rtol=0.0201)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.7])
def test_a_blur_is_scipys(sigma: float) -> None:
    pixels = np.random.default_rng(0).random((40, 31), np.float32)
    np.testing.assert_allclose(blur(pixels, sigma), ndimage.gaussian_filter(pixels, sigma, truncate=3), atol=1e-5)


def test_a_narrow_blur_changes_nothing() -> None:
    pixels = np.random.default_rng(0).random((5, 5), np.float32)
    assert blur(pixels, 0.4) is pixels


@given(some=st.lists(st.integers(0, 255), max_size=60))
def test_otsus_threshold_has_the_largest_variance_between_its_classes(some: list[int]) -> None:
    values = np.array([0, 255, *some], np.float32)

    def between(over: np.ndarray) -> float:
        means = [values[half].mean(dtype=float) for half in (over, ~over)]
        return float(over.mean() * (~over).mean() * (means[0] - means[1]) ** 2)

    best = max(between(values > level) for level in range(255))
    assert between(values > otsu_threshold(values)) == pytest.approx(best, rel=1e-9)


def test_of_equal_values_none_is_over_otsus_threshold() -> None:
    values = np.full(7, 0.3, np.float32)
    assert not (values > np.float32(otsu_threshold(values))).any()


def test_a_threshold_of_two_values_however_near_parts_them() -> None:
    for low, high in ((0.0, 1e-6), (-3.0, -2.5), (0.5, np.nextafter(np.float32(0.5), np.float32(1)))):
        values = np.array([low, high, low], np.float32)
        assert (values > np.float32(otsu_threshold(values))).tolist() == [False, True, False]


def test_the_centre_of_mass_is_scipys() -> None:
    for dtype in (np.uint8, np.float32):
        pixels = np.random.default_rng(0).integers(0, 255, (28, 20)).astype(dtype)
        np.testing.assert_allclose(centre_of_mass(pixels), ndimage.center_of_mass(pixels), rtol=1e-6)


def test_above_and_below_the_typical_length_is_as_much_ink() -> None:
    nothing = parts_of(np.zeros((5, 5), bool))
    assert typical_length(nothing.lengths, nothing.areas) == 0
    assert typical_length(np.array([9, 3, 1, 2]), np.array([1, 10, 10, 10])) == 2
    assert [typical_length(np.array([1, 50]), np.array([ink, 100])) for ink in (99, 101)] == [50, 1]
