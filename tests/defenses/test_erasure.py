"""What a line can read is gone, and features are moved least."""

import jax
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.erasure import leace
from tests.defenses import baselines


def test_erasure_leaves_a_line_nothing_and_moves_features_least():
    generator = np.random.default_rng(0)
    s = np.eye(3)[generator.integers(0, 3, 400)]
    h = generator.normal(size=(400, 6)) @ generator.normal(size=(6, 6)) + s @ generator.normal(size=(3, 6))
    mean, into, out = leace(h, s)
    z = h - (h - mean) @ into @ out.T
    assert into.shape == (6, 2)
    np.testing.assert_allclose((z - z.mean(0)).T @ (s - s.mean(0)), 0, atol=1e-8)
    # An orthogonal projection away from the classes' means takes it out too, and moves features more.
    shift = np.linalg.qr((h - h.mean(0)).T @ (s - s.mean(0)))[0][:, :2]
    moved = np.square((h - mean) @ shift @ shift.T).sum()
    assert np.square(z - h).sum() < moved
    # Of the whole defence: the ink was there to be read, and a line reads it no more.
    defense = baselines.built("erasure", steps=24)
    state, release = baselines.trained(defense)
    ink = np.asarray(baselines.pictures().sensitive["ink"])
    plain = np.asarray(defense.features(state, baselines.pictures().image)).reshape(baselines.ROWS, -1)
    sent = np.asarray(release(baselines.pictures().image, jax.random.key(0))).reshape(baselines.ROWS, -1)
    read = [
        (guess.argmax(1) == truth.argmax(1)).mean()
        for guess, truth in (baselines.ridge(z, np.eye(3)[ink]) for z in (plain, sent))
    ]
    assert read[0] > 0.6 > 0.45 > read[1], read


def test_it_needs_something_to_erase():
    with pytest.raises(ValueError, match="defense=erasure: must be another where the data has no sensitive attribute"):
        registry.build("erasure", 2, (8, 8, 3))


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("erasure")
