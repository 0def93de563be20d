"""The largest features are sent, and no others."""

import jax
import numpy as np

from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (baselines.told("topk", options) for options in ({"kept": 16}, {"kept": 1}))
    assert strong < weak - 0.01


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("topk")


def test_the_largest_of_each_image_are_sent_as_they_are():
    defense, x = baselines.built("topk", kept=3), baselines.pictures().image[:8]
    release, whole = (baselines.untrained(baselines.built("topk", kept=kept)) for kept in (3, 10_000))
    sent, features = (np.asarray(one(x, jax.random.key(0))).reshape(8, -1) for one in (release, whole))
    assert not defense.stochastic
    for row, full in zip(sent, features, strict=True):
        kept = np.flatnonzero(row)
        np.testing.assert_array_equal(row[kept], full[kept])
        rest = np.delete(np.abs(full), kept)
        assert len(kept) <= 3 or len(set(np.abs(row[kept]))) < len(kept)
        assert not len(kept) or rest.max(initial=0) <= np.abs(row[kept]).min()
