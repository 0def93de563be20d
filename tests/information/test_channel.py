"""The ceiling is Shannon's for Gaussians, above the truth for others, and below what clipping alone allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ani_jax.information.channel import ceiling, most_right
from ani_jax.losses import gaussian_channel_capacity


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
    assert found.value <= gaussian_channel_capacity((reach / 2) ** 2, stddev, elements) * (1 + 1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"len\(mean\)=3: must be at least 4"):
        ceiling(np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"stddev=0\.0: must be above 0"):
        ceiling(np.ones((4, 1)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="classes=1: must be at least 2"):
        most_right(1.0, 1)
    with pytest.raises(ValueError, match=r"nats=-0\.1: must be 0 or more"):
        most_right(-0.1, 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 2000), st.floats(0, 1))
def test_a_symmetric_channel_is_read_as_well_as_fano_allows(classes, over):
    """Every answer right with probability a, every wrong one as likely as any other: there the inequality is an equality."""
    right = 1 / classes + over * (1 - 1 / classes)
    each = np.array([right, *[(1 - right) / (classes - 1)] * (classes - 1)])
    said = np.log(classes) + np.sum(np.where(each > 0, each * np.log(np.maximum(each, 1e-300)), 0))
    assert most_right(max(said, 0.0), classes) == pytest.approx(right, abs=2e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(2, 6), st.integers(0, 1000))
def test_nobody_is_right_more_often_than_a_channel_allows(classes, letters, seed):
    """Any channel with equally frequent inputs, and whoever answers the likeliest."""
    channel = np.random.default_rng(seed).dirichlet(np.full(letters, 0.3), classes)
    said = np.sum(channel * np.log(np.maximum(channel, 1e-300) / np.maximum(channel.mean(0), 1e-300))) / classes
    assert channel.max(0).sum() / classes <= most_right(max(said, 0.0), classes) + 1e-9
