"""What is left of a row: against sorting in NumPy, and against the levels that a number of bits has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.discrete import bits, positions, topk
from ani_jax.attacks.query import as_release, query
from ani_jax.types import Release


def sent(release, x, seed=0):
    return np.asarray(release(x, jax.random.key(seed)))


@pytest.fixture
def x(key):
    return jax.random.normal(key, (5, 3, 4, 2))


@pytest.mark.parametrize("k", [1, 7, 24])
def test_the_largest_are_those_that_sorting_finds(x, k):
    rows = np.asarray(x).reshape(5, -1)
    kept = np.argsort(-np.abs(rows), axis=1)[:, :k]
    mask = np.zeros_like(rows)
    np.put_along_axis(mask, kept, 1, axis=1)
    np.testing.assert_array_equal(sent(topk(lambda x: x, k), x), (rows * mask).reshape(x.shape))
    np.testing.assert_array_equal(sent(positions(lambda x: x, k), x), mask.reshape(x.shape))


def test_positions_say_nothing_of_scale_or_sign(x):
    for other in (9 * x, -x):
        np.testing.assert_array_equal(sent(positions(lambda x: x, 4), x), sent(positions(lambda x: x, 4), other))


@pytest.mark.parametrize("count", [1, 4, 8])
def test_bits_are_as_many_levels_and_err_by_half_a_step_at_most(x, count):
    found = sent(bits(lambda x: x, count, -3.0, 3.0), jnp.linspace(-3, 3, 4096).reshape(64, 64))
    assert len(np.unique(found.round(5))) == 2**count
    inside = jnp.clip(x, -3, 3)
    assert np.abs(sent(bits(lambda x: x, count, -3.0, 3.0), x) - inside).max() <= 3 / (2**count - 1) + 1e-6


def test_one_bit_is_the_sign(x):
    np.testing.assert_array_equal(sent(bits(lambda x: x, 1), x), np.sign(x))


def test_a_wrapped_client_is_asked_as_the_client_is(x, key):
    def noisy(x, key):
        return x + jax.random.normal(key, x.shape)

    wrapped = positions(noisy, 3)
    assert wrapped.stochastic
    once = query(wrapped, x, key, 2)
    assert (once.reshape(2, 5, -1).sum(2) == 3).all()
    assert not (once[0] == once[1]).all()
    assert not topk(lambda x: x, 3).stochastic
    # What the client declares is the density of another thing.
    declared = Release((), lambda v, x, key: x, mean=lambda v, x: x, stddev=lambda v, x: x, memoised=True)
    assert bits(declared, 2).mean is None
    assert bits(declared, 2).memoised


def test_equal_wrappers_compile_once(x, key):
    client = as_release(lambda x: x)
    assert jax.tree.structure(topk(client, 3)) == jax.tree.structure(topk(client, 3))
    assert jax.tree.structure(topk(client, 3)) != jax.tree.structure(topk(client, 4))


def test_what_cannot_be_sent_is_refused(x):
    with pytest.raises(ValueError, match="k=0: must be 1 or more"):
        topk(lambda x: x, 0)
    with pytest.raises(ValueError, match="k=25: must be at most 24"):
        sent(positions(lambda x: x, 25), x)
    for count in (0, 17):
        with pytest.raises(ValueError, match=f"count={count}: must be 1 to 16"):
            bits(lambda x: x, count)
    with pytest.raises(ValueError, match=r"low=1\.0: must be below 1\.0"):
        bits(lambda x: x, 4, 1.0, 1.0)
