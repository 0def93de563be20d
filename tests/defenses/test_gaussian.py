"""Gaussian noise is as large as it says, at the split and on the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ani_jax.defenses.base import freeze
from ani_jax.training.state import init
from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (baselines.told("gaussian", options) for options in ({"noise_stddev": 0.1}, {"noise_stddev": 4.0}))
    assert strong < weak - 0.01


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("gaussian")


def test_its_density_is_that_of_what_is_sent():
    release, x = baselines.untrained(baselines.built("gaussian", noise_stddev=0.7)), baselines.pictures().image[:3]
    z, mean = release(x, jax.random.key(1)), release.mean(release.variables, x)
    each = stats.norm(0, 0.7).logpdf(np.asarray(z - mean, float))
    np.testing.assert_allclose(release.log_prob(release.variables, z, x), each.reshape(3, -1).sum(1), rtol=1e-4)
    np.testing.assert_allclose(release.stddev(release.variables, x), 0.7)
    np.testing.assert_allclose(release.given(release.variables, x, jnp.ones_like(z)), mean + 0.7, rtol=1e-5)


def test_noise_on_the_image_leaves_nothing_for_the_device_to_compute():
    defense = baselines.built("gaussian", noise_at="input", noise_stddev=0.5)
    state = init(defense, jax.random.key(0))
    release, predict = freeze(defense, state.params, state.statistics)
    assert not state.params["client"]
    image = baselines.pictures().image
    z = release(image, jax.random.key(1))
    assert float((z - image).std()) == pytest.approx(0.5, rel=0.02)
    assert predict(z).shape == (baselines.ROWS, 2)
