"""Clusters are those of each class, and their scatter is in nats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses.cem import FLOOR, centres, spread
from tests.defenses import baselines


@pytest.mark.slow
def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("cem", options) for options in ({"conditional_entropy": 1e-3}, {"conditional_entropy": 30.0})
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("cem", "conditional_entropy") == {"client/encoder"}


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("cem")


def test_clusters_are_those_of_each_class_and_their_scatter_is_in_nats():
    key, corner = jax.random.key(0), jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    place = jnp.arange(400) % 4
    z = corner[place] + 0.3 * jax.random.normal(key, (400, 2))
    labels = place // 2
    found = centres(z, labels, 2, 2)
    for label in (0, 1):
        order = np.argsort(np.asarray(found[label, :, 0]))
        np.testing.assert_allclose(np.asarray(found[label])[order], corner[2 * label : 2 * label + 2], atol=0.1)
    own = np.square(np.asarray(z) - np.asarray(corner)[np.asarray(place)]).mean(1)
    by = [own[np.asarray(place) == k].mean() for k in range(4)]
    expected = np.mean([np.log(v + FLOOR) - np.log(0.02 + FLOOR) for v in by])
    assert float(spread(z, labels, found, 0.02)) == pytest.approx(expected, rel=0.05)
    assert float(spread(z, labels, found, 10.0)) == 0
    # A class that a batch does not have asks for nothing.
    assert float(spread(z[:100], jnp.zeros(100, int), found[:1], 10.0)) == 0
