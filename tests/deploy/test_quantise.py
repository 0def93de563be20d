"""Fewer bits: so many values and no more, near what they stand for, at the server's own scale again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.deploy.quantise import quantised
from ani_jax.types import Release

KEY = jax.random.key(3)
SCALE = np.array([1e-3, 1.0, 50.0, 0.0], np.float32)


def client(variables, x, key):
    """Channels of very different sizes; the last says nothing."""
    return variables["scale"] * jnp.stack([x[..., 0], x[..., 0] ** 2, x[..., 1], x[..., 1]], -1) + 3


def server(variables, z):
    return variables["factor"] * z.reshape(z.shape[0], -1)


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), (600, 4, 4, 2))


@pytest.fixture
def pair():
    release = Release({"scale": jnp.asarray(SCALE)[None, None, None]}, client)
    return release, jax.tree_util.Partial(server, {"factor": jnp.float32(2)})


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (1, 0.6)])
def test_so_many_values_are_sent_and_the_server_reads_them(pair, x, bits, error):
    coarse, answer = quantised(*pair, x, bits, jax.random.key(1))
    sent = coarse(x, KEY)
    grid = coarse.apply.grid
    step = (grid.high - grid.low) / (grid.levels - 1)
    codes = np.asarray((sent - grid.low) / step)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert len({*np.round(codes).ravel().tolist()}) <= grid.levels == 2**bits
    # Every channel at its own scale: the loudest does not silence the others.
    told, found = (np.asarray(z).reshape(600, 16, 4) / 2 - 3 for z in (pair[1](pair[0](x, KEY)), answer(sent)))
    for channel in range(3):
        own = told[..., channel]
        assert np.sqrt(np.square(found[..., channel] - own).mean()) < error * own.std()
    np.testing.assert_allclose(found[..., 3], told[..., 3], atol=1e-4)


def test_bits_are_a_capacity_that_noise_can_only_lessen(pair, x):
    own = dataclasses.replace(pair[0], capacity=lambda variables, elements: variables["scale"].size * elements)
    for release, bits, known in ((pair[0], 1, 64 * np.log(2)), (own, 1, 64 * np.log(2)), (own, 8, 4 * 64)):
        coarse, _ = quantised(release, pair[1], x, bits, jax.random.key(1))
        assert coarse.capacity(coarse.variables, 64) == pytest.approx(known)


def test_two_levels_are_those_of_least_error(pair, x):
    """Of uniform numbers of deviation 1 they are at plus and minus half of root three."""
    release = Release({}, lambda variables, x, key: x.reshape(x.shape[0], -1))
    coarse, _ = quantised(release, pair[1], x, 1, jax.random.key(1))
    assert [coarse.apply.grid.low, coarse.apply.grid.high] == pytest.approx([-(3**0.5) / 2, 3**0.5 / 2], abs=0.02)


def test_gradients_pass_and_a_declared_mean_is_at_the_scale_that_is_sent(pair, x):
    release = Release(pair[0].variables, client, True, mean=lambda variables, x: client(variables, x, None))
    coarse, _ = quantised(release, pair[1], x, 8, jax.random.key(1))
    assert (coarse.stochastic, coarse.stddev, coarse.log_prob) == (True, None, None)
    np.testing.assert_allclose(coarse.mean(coarse.variables, x), coarse(x, KEY), atol=0.02)
    found, told = (
        jax.grad(lambda x, one=one: one(x).sum())(x)
        for one in (lambda x: coarse(x, KEY), lambda x: coarse.mean(coarse.variables, x))
    )
    assert np.isclose(found, told, rtol=1e-4).mean() > 0.99
    assert float(jnp.abs(found).max()) > 0


def test_a_client_that_says_nothing_still_has_a_grid(pair, x):
    release = Release({}, lambda variables, x, key: jnp.zeros((x.shape[0], 3)))
    for bits in (1, 8):
        coarse, _ = quantised(release, pair[1], x, bits, jax.random.key(1))
        assert np.isfinite(np.asarray(coarse(x, KEY))).all()


def test_other_bits_are_refused(pair, x):
    with pytest.raises(ValueError, match="bits=3: must be one of 1, 8"):
        quantised(*pair, x, 3, jax.random.key(0))
