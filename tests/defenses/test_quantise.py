"""So many values are sent, and no more."""

import jax
import numpy as np

from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (baselines.told("quantise", options) for options in ({"release_bits": 16}, {"release_bits": 1}))
    assert strong < weak - 0.01


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("quantise")


def test_so_many_values_are_sent():
    for bits in (1, 3):
        z = baselines.untrained(baselines.built("quantise", release_bits=bits))(
            baselines.pictures().image, jax.random.key(0)
        )
        assert len(np.unique(np.asarray(z))) <= 2**bits
