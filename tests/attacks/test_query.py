import dataclasses

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import query
from ani_jax.types import Release


def noisy(x, key):
    return x + jax.random.normal(key, x.shape)


def images(count):
    return jnp.linspace(0, 1, count * 4).reshape(count, 2, 2, 1)


def test_wraps_functions_with_and_without_key(key):
    plain, keyed = query.as_release(lambda x: x + 1), query.as_release(noisy)
    np.testing.assert_array_equal(plain(images(2), key), images(2) + 1)
    np.testing.assert_array_equal(keyed(images(2), key), noisy(images(2), key))
    assert (plain.stochastic, keyed.stochastic) == (False, True)
    assert query.as_release(plain) is plain
    assert query.as_release(lambda x, key=None: x).stochastic
    assert not query.as_release(lambda x, train=False: x).stochastic


def test_a_partial_compiles_once_for_all_its_weights(key):
    traces = []

    def counted(scale, x):
        traces.append(1)
        return scale * x

    for scale in (1.0, 2.0, 3.0):
        release = query.as_release(jax.tree_util.Partial(counted, jnp.asarray(scale)))
        np.testing.assert_allclose(query.query(release, images(3), key)[0], scale * images(3))
    assert len(traces) == 1
    assert not query.as_release(jax.tree_util.Partial(counted, 1.0)).stochastic


def test_wraps_models_of_other_libraries(key):
    model = equinox.nn.Linear(4, 3, key=key)
    release = query.as_release(lambda x: jax.vmap(model)(x.reshape(-1, 4)))
    assert query.query(release, images(5), key).shape == (1, 5, 3)
    network = equinox.nn.Sequential([equinox.nn.Lambda(jax.vmap(jnp.ravel)), equinox.nn.Lambda(jax.nn.relu)])
    assert query.query(query.as_release(network), images(5), key).shape == (1, 5, 4)
    np.testing.assert_array_equal(
        jax.jit(lambda f, z: f(z))(query.as_predictor(network), images(2)), images(2).reshape(2, 4)
    )


@pytest.mark.parametrize("wrong", [3, lambda: 0, lambda a, b, c: a])
def test_refuses_what_is_no_release(wrong):
    with pytest.raises(ValueError, match="release="):
        query.as_release(wrong)


@pytest.mark.parametrize("wrong", [lambda x: x[:1], lambda x: x.sum((1, 2, 3)), lambda x: x.astype(jnp.int32)])
def test_refuses_wrong_features(wrong, key):
    with pytest.raises(ValueError, match="release: gave"):
        query.query(query.as_release(wrong), images(3), key)


def test_a_client_that_cannot_be_mapped_is_asked_one_by_one(key):
    def foreign(x, key):
        noise = jax.random.normal(key, x.shape)
        return jax.pure_callback(lambda x, noise: x + noise, jax.ShapeDtypeStruct(x.shape, x.dtype), x, noise)

    z = query.query(query.as_release(foreign), jnp.zeros((3, 2, 2, 1)), key, query.AT_ONCE + 1)
    assert z.shape == (query.AT_ONCE + 1, 3, 2, 2, 1)
    assert len(np.unique(np.asarray(z))) == z.size


def test_queries_are_independent_and_chunks_do_not_repeat_noise(key):
    release = query.as_release(noisy)
    x = jnp.zeros((2 * query.CHUNK + 3, 2, 2, 1))
    z = np.asarray(query.query(release, x, key, 3))
    assert z.shape == (3, *x.shape)
    assert len(np.unique(z)) > 0.99 * z.size  # Equal floats happen; a repeated chunk would halve it.
    np.testing.assert_array_equal(z, query.query(release, x, key, 3))
    same = query.query(query.as_release(lambda x: x), images(2), key, 3)
    np.testing.assert_array_equal(same, jnp.stack([images(2)] * 3))


def test_summary_is_the_release_or_four_statistics_of_several(key):
    z = jax.random.normal(key, (5, 4, 2, 2, 3))
    np.testing.assert_array_equal(query.summarise(z[:1]), z[0])
    exact = np.asarray(z, np.float64)
    expected = np.concatenate([exact.mean(0), exact.std(0), exact.min(0), exact.max(0)], axis=-1)
    np.testing.assert_allclose(query.summarise(z), expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 65])
def test_moments_are_those_of_numpy_even_where_the_noise_is_small(k):
    z = 100 + 0.1 * jax.random.normal(jax.random.key(0), (k, 3, 5))
    exact = np.asarray(z, np.float64)
    for found, expected in zip(query.moments(z), (exact.mean(0), exact.var(0)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_near_duplicates_are_shifted_by_a_pixel_and_brightened_a_little(key):
    x = 0.2 + 0.6 * jax.random.uniform(key, (40, 5, 6, 3))
    found, kept = np.asarray(query.near(x, jax.random.key(1))), np.asarray(x)
    bordered = np.pad(kept, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    seen = set()
    for own, wide in zip(found, bordered, strict=True):
        moved = {(i, j): own - wide[i : i + 5, j : j + 6] for i in range(3) for j in range(3)}
        # Under the right shift all pixels differ by one number.
        at = min(moved, key=lambda at: np.ptp(moved[at]))
        assert np.ptp(moved[at]) < 1e-6
        assert np.abs(moved[at]).max() <= query.BRIGHTER + 1e-6
        seen.add(at)
    assert len(seen) == 9
    assert float(query.near(jnp.ones((9, 2, 2, 1)), key).max()) == 1


def test_a_burst_shows_near_duplicates_to_any_client(key):
    x = images(query.CHUNK + 3)
    z = np.asarray(query.query(query.as_release(lambda x: x), x, key, query.AT_ONCE + 1, burst=True))
    assert z.shape == (query.AT_ONCE + 1, *x.shape)
    assert len(np.unique(z.reshape(len(z), -1), axis=0)) == len(z)
    np.testing.assert_array_less(np.abs(z - x[None]), 1)
    # A client that cannot be mapped over keys is asked about one near-duplicate after the other.
    shape = jax.ShapeDtypeStruct((query.CHUNK, 2, 2, 1), jnp.float32)
    foreign = query.as_release(lambda x: jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x))
    assert len(np.unique(np.asarray(query.query(foreign, jnp.full(shape.shape, 0.5), key, 3, burst=True)))) > 3


def test_a_device_that_remembers_its_noise_says_the_same_again(key):
    def send(variables, x, key):
        return x + jax.random.normal(key, x.shape)

    images = jax.random.uniform(key, (query.CHUNK + 2, 4, 4, 1))
    release = Release((), send, stochastic=True, memoised=True)
    assert not release.varies
    again = query.query(release, images, key, 3)
    np.testing.assert_array_equal(again[0], again[2])
    # It is asked what it is asked once, and the next images are another device's.
    np.testing.assert_array_equal(again[0], query.query(release, images, key)[0])
    noise = np.asarray(again[0] - images)
    assert abs(noise[:2] - noise[query.CHUNK :]).max() > 0.1
    # In a burst what differs is the image alone, here that it is shifted and brighter; of any length one device sends it.
    burst = query.query(release, jnp.full((1, 4, 4, 1), 0.5), key, 2 * query.AT_ONCE, burst=True)[:, 0]
    shared = burst - burst.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(shared, jnp.broadcast_to(shared[:1], shared.shape), atol=1e-5)
    fresh = dataclasses.replace(release, memoised=False)
    assert abs(query.query(fresh, images, key, 2)[0] - query.query(fresh, images, key, 2)[1]).max() > 0.1
