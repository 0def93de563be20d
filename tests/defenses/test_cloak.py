"""The map is learned for a server that stays as it was, and suppressed pixels are gone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses.base import freeze
from ani_jax.training.state import init
from tests.defenses import baselines


@pytest.mark.slow
def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (baselines.told("cloak", options) for options in ({"entropy": 1e-3}, {"entropy": 3.0}))
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("cloak", "entropy") == {"client/maps"}


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("cloak")


def test_the_map_is_learned():
    """Public re-implementations train nothing."""
    state, _ = baselines.trained(baselines.built("cloak", finishing_steps=0))
    assert float(jnp.abs(state.params["client"]["maps"]["rho"]).mean()) > 1e-3


def test_suppressed_pixels_are_the_same_in_every_image():
    defense = baselines.built("cloak", threshold=1.0, stddev_max=2.0)
    state = init(defense, jax.random.key(0))
    rho = jnp.where(jnp.arange(8)[:, None, None] < 4, 1.0, -1.0) * jnp.ones((8, 8, 3))
    client = {"maps": {"rho": rho, "shift": 0.25 * jnp.ones((8, 8, 3))}}
    state = defense.suppress(dataclasses.replace(state, params={**state.params, "client": client}), baselines.data())
    release, _ = freeze(defense, state.params, state.statistics)
    z = np.asarray(release(baselines.pictures().image, jax.random.key(1)))
    np.testing.assert_array_equal(z[:, :4], 0.25)
    np.testing.assert_allclose(z[:, 4:], np.asarray(baselines.pictures().image)[:, 4:] + 0.25, atol=1e-3)
    assert np.isfinite(release.log_prob(release.variables, jnp.asarray(z), baselines.pictures().image)).all()
    # Before its training begins there is no noise at all.
    fresh = init(defense, jax.random.key(0))
    first, _ = freeze(defense, fresh.params, fresh.statistics)
    np.testing.assert_array_equal(first(baselines.pictures().image, jax.random.key(1)), baselines.pictures().image)
