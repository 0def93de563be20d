"""docs/examples/hog.py: histograms and a line tell pictures apart, and what it needs is named."""

import re
import sys

import numpy as np
import pytest

from docs.examples import hog


def stripes(seed, count=90):
    """Grey pictures, of stripes that lie, stand or lean."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, count)
    y, x = np.mgrid[:32, :32]
    ways = np.stack([x, y, x + y])[label] + rng.uniform(0, 6, (count, 1, 1))
    return (0.5 + 0.4 * np.sin(ways) + 0.05 * rng.normal(size=(count, 32, 32))).clip(0, 1)[..., None], label


def test_stripes_are_told_apart_by_their_gradients():
    parts = {
        name: (hog.histograms(images), label)
        for name, (images, label) in zip(("defend", "validation", "test"), map(stripes, range(3)), strict=True)
    }
    assert parts["test"][0].shape == (90, 324)
    assert min(hog.fitted(parts)) > 0.95
    blind = {name: (np.zeros_like(told), label) for name, (told, label) in parts.items()}
    assert max(hog.fitted(blind)) < 0.5


def test_without_scikit_image_it_is_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(ValueError, match=re.escape('pip install "ani-jax[examples]"')):
        hog.histograms(np.zeros((1, 32, 32, 3)))
