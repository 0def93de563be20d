from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.attacks import base, network, query
from ani_jax.types import Batch, Knowledge, Release, Source, fixed


def noisy(x, key):
    return x + jax.random.normal(key, x.shape)


def images(count):
    return jnp.linspace(0, 1, count * 4).reshape(count, 2, 2, 1)


class Halved(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(2, name="pixels")(z.reshape(len(z), -1))


def squares(output, batch, aim):
    return jnp.square(output - batch.image.reshape(len(output), -1)[:, :2] - aim).mean(1)


def test_a_network_learns_from_fresh_draws_and_keeps_the_best(key):
    batch = Batch(jax.random.uniform(key, (8, 2, 2, 1)), jnp.arange(8), {})
    release = Release((), lambda v, x, key: noisy(x, key), stochastic=True)
    view = base.prepare(key, Knowledge(release), Source(batch, fixed), batch, count=64)
    options = {"loss": squares, "selection": squares, "batch_size": 16, "learning_rate": 0.02}
    found = network.fit_network(key, Halved(), view, steps=200, aim=jnp.asarray(1.0), **options)
    guess = found.attacker(key, view.held)
    assert found.failed is None
    assert guess.shape == (8, 2)
    np.testing.assert_allclose(guess.mean(), 1.5, atol=0.1)
    again = network.fit_network(key, Halved(), view, steps=200, aim=jnp.asarray(1.0), **options)
    np.testing.assert_array_equal(guess, again.attacker(key, view.held))


class Middle(NamedTuple):
    def on(self, z):
        return jnp.full((len(z), 2), 0.25)


def test_a_correction_starts_at_its_base(key):
    batch = Batch(images(4), jnp.arange(4), {})
    view = base.prepare(key, Knowledge(query.as_release(lambda x: x)), Source(batch, fixed), batch, count=8)
    parameters = jax.tree_util.tree_map_with_path(
        network._without_pixels, Halved().init(key, view.held_z, train=False)["params"]
    )

    class Half(Halved):
        def __call__(self, z, *, train):
            return jax.nn.sigmoid(super().__call__(z, train=train))

    corrected = network.Network(parameters, view.whitener, Middle(), Half())
    np.testing.assert_allclose(corrected.on(view.held_z), 0.25, atol=1e-6)
