import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ani_jax.losses import pairwise


def exact(x):
    x = np.asarray(x, np.float64)
    return np.square(x[:, None] - x[None]).sum(-1)


def clouds(kind):
    x = jax.random.normal(jax.random.key(1), (16, 6))
    jitter = jax.random.normal(jax.random.key(2), (16, 6))
    return {
        "spread": x,
        "twins": jnp.where(jnp.arange(16)[:, None] % 2 == 0, x, jnp.roll(x, 1, 0) + 1e-5 * jitter),
        "duplicates": jnp.repeat(x[:4], 4, axis=0),
        "outlier": x.at[3].set(1e4),
        "offset": x + 1e4,
        "two clusters": jnp.where(jnp.arange(16)[:, None] < 8, 100.0, -100.0) + 1e-3 * jitter,
        "constant": jnp.full((16, 6), 0.1),
    }[kind]


KINDS = ("spread", "twins", "duplicates", "outlier", "offset", "two clusters", "constant")


@pytest.mark.parametrize("kind", KINDS)
def test_distances_keep_their_digits_where_the_gram_form_loses_them(kind):
    x = clouds(kind)
    distances = jax.jit(pairwise.squared_distances)(x)
    np.testing.assert_allclose(distances, exact(x), rtol=2e-3, atol=1e-12)
    np.testing.assert_allclose(np.sqrt(distances).sum(), np.sqrt(exact(x)).sum(), rtol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_distances(kind):
    x = clouds(kind)
    gradient = jax.jit(jax.grad(lambda v: pairwise.distances(v).sum()))(x)
    difference = np.asarray(x, np.float64)[:, None] - np.asarray(x, np.float64)[None]
    norm = np.sqrt(exact(x))[..., None]
    expected = 2 * np.divide(difference, norm, out=np.zeros_like(difference), where=norm > 0).sum(1)
    np.testing.assert_allclose(gradient, expected, atol=2e-3 * max(1, np.abs(expected).max()))


def test_second_order_gradient():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (5, 3), "float64")
        check_grads(jax.jit(lambda v: pairwise.distances(v, 1.5)), (x,), order=2, modes=["rev"])


def test_prepare_never_reads_padding_and_settles_the_dtype():
    x = jnp.array([[1.0], [jnp.nan], [3.0]], jnp.bfloat16)
    shifted, z, mask = pairwise.prepare(x, jnp.arange(3), jnp.array([1, 0, 1]), None, rescale=True)
    assert shifted.ravel().tolist() == [0.0, 0.0, 1.0]
    assert z.ravel().tolist() == [0.0, 0.0, 1.0]
    assert mask.tolist() == [1.0, 0.0, 1.0]
    assert {value.dtype.name for value in (shifted, z, mask)} == {"float32"}


def test_centrings():
    matrix = np.sqrt(exact(clouds("spread")))
    n, ones = 16, jnp.ones(16)
    double = matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean()
    np.testing.assert_allclose(pairwise.centred(jnp.array(matrix, jnp.float32), ones), double, atol=1e-5)
    rows = matrix.sum(0) / (n - 2)
    unbiased = matrix - rows - rows[:, None] + matrix.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(unbiased, 0)
    centred = pairwise.u_centred(jnp.array(matrix, jnp.float32), ones)
    np.testing.assert_allclose(centred, unbiased, atol=1e-5)
    np.testing.assert_allclose(centred.sum(1), np.zeros(n), atol=1e-4)
    np.testing.assert_allclose(
        pairwise.mean_product(centred, centred, ones, unbiased=True), (unbiased**2).sum() / (n * (n - 3)), rtol=1e-5
    )


def test_median_distance():
    x = clouds("spread")
    expected = np.median(np.sqrt(exact(x))[np.triu_indices(16, 1)])
    np.testing.assert_allclose(
        pairwise.median_distance(pairwise.squared_distances(x), jnp.ones(16)), expected, rtol=1e-5
    )
    mask = jnp.arange(16) < 5
    few = np.median(np.sqrt(exact(x[:5]))[np.triu_indices(5, 1)])
    np.testing.assert_allclose(pairwise.median_distance(pairwise.squared_distances(x), 1.0 * mask), few, rtol=1e-5)
    assert pairwise.median_distance(jnp.zeros((16, 16)), jnp.ones(16)) == 1


def test_safe_power():
    assert pairwise.safe_power(jnp.array([-1.0, 0.0, 4.0]), 0.5).tolist() == [0.0, 0.0, 2.0]
    assert jax.vmap(jax.grad(pairwise.safe_power), (0, None))(jnp.array([0.0, 4.0]), 0.5).tolist() == [0.0, 0.25]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"len\(x\)=3: must be z's, 2"):
        pairwise.prepare(jnp.ones(3), jnp.ones(2), None, None, rescale=True)
    with pytest.raises(ValueError, match=r"mask\.shape="):
        pairwise.prepare(jnp.ones(3), jnp.ones(3), jnp.ones(2), None, rescale=True)
