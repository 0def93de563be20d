"""The ceiling is Shannon's for Gaussians, above the truth for others, and below what clipping alone allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ani_jax.information.channel import capacity, ceiling


def test_it_is_shannons_where_the_signal_is_gaussian():
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((5, 5))
    mean = generator.standard_normal((20_000, 5)) @ mixing
    stddev = np.broadcast_to([0.5, 1.0, 1.0, 2.0, 4.0], mean.shape)
    scaled = mixing / [0.5, 1.0, 1.0, 2.0, 4.0]
    known = np.linalg.slogdet(np.eye(5) + scaled.T @ scaled)[1] / 2
    found = ceiling(mean, stddev)
    assert found.value == pytest.approx(known, rel=0.01)
    assert found.low <= found.value <= found.high


def test_the_label_is_free():
    label = np.arange(4000) % 2
    mean = np.random.default_rng(1).standard_normal((4000, 1)) + 100 * label[:, None]
    assert ceiling(mean, np.ones_like(mean)).value > 3
    assert ceiling(mean, np.ones_like(mean), label).value == pytest.approx(np.log(2) / 2, abs=0.03)


def test_noise_of_each_image_is_counted_and_the_truth_is_below():
    """A signal of two values, whose noise differs, against the information that is integrated on a grid."""
    mean, stddev = np.array([[-1.0], [1.0]]).repeat(2000, 0), np.array([[0.3], [1.5]]).repeat(2000, 0)
    grid = np.linspace(-15, 15, 60_001)
    dense = [np.exp(-0.5 * ((grid - m) / s) ** 2) / (s * np.sqrt(2 * np.pi)) for m, s in ((-1, 0.3), (1, 1.5))]
    both = np.mean(dense, 0)
    entropies = [-np.trapezoid(one * np.log(np.maximum(one, 1e-300)), grid) for one in (both, *dense)]
    truth = entropies[0] - np.mean(entropies[1:])
    assert truth < ceiling(mean, stddev).value < np.log(2) + 1
    alone = ceiling(0 * mean, stddev).value
    # Without a mean the deviation still tells: log of the mean variance is above the mean of logs.
    assert alone == pytest.approx(0.5 * np.log(np.mean([0.3**2, 1.5**2])) - np.mean(np.log([0.3, 1.5])), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 10), st.floats(0.05, 5), st.integers(1, 6), st.integers(0, 1000))
def test_no_clipped_signal_is_above_its_capacity(reach, stddev, elements, seed):
    mean = np.random.default_rng(seed).choice([-reach / 2, reach / 2], (4000, elements))
    found = ceiling(mean, np.full_like(mean, stddev))
    assert found.value <= capacity(reach, stddev, elements) * (1 + 1e-9)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"len\(mean\)=3: must be at least 4"):
        ceiling(np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"stddev=0\.0: must be above 0"):
        ceiling(np.ones((4, 1)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="stddev=0: must be above 0"):
        capacity(1.0, 0, 2)
