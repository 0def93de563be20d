"""Laplace noise is as large as it says, with the tails that it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (baselines.told("laplace", options) for options in ({"noise_stddev": 0.1}, {"noise_stddev": 4.0}))
    assert strong < weak - 0.01


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("laplace")


def test_its_density_and_its_tails_are_those_of_what_is_sent():
    release, x = baselines.untrained(baselines.built("laplace", noise_stddev=0.7)), baselines.pictures().image[:3]
    z, mean = release(x, jax.random.key(1)), release.mean(release.variables, x)
    each = stats.laplace(scale=0.7 / 2**0.5).logpdf(np.asarray(z - mean, float))
    np.testing.assert_allclose(release.log_prob(release.variables, z, x), each.reshape(3, -1).sum(1), rtol=1e-4)
    # Whoever reads a deviation takes the noise for Gaussian.
    assert release.stddev is None
    drawn = np.asarray(release(jnp.repeat(x[:1], 4000, 0), jax.random.key(2)) - mean[:1])
    assert drawn.std() == pytest.approx(0.7, rel=0.02)
    assert (drawn**4).mean() / (drawn**2).mean() ** 2 == pytest.approx(6, rel=0.1)
