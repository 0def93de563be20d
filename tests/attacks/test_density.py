import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.attacks import query
from ani_jax.attacks.density import UNEXPLAINED, Library, Pairs, declares
from ani_jax.attacks.query import CHUNK
from ani_jax.types import Release

STDDEV = 0.5
NOISY = Release(
    jnp.float32(STDDEV),
    lambda v, x, key: x + v * jax.random.normal(key, x.shape),
    stochastic=True,
    mean=lambda v, x: x,
    stddev=lambda v, x: jnp.broadcast_to(v, x.shape),
)


def test_log_density_is_the_gaussian_one_up_to_a_constant():
    images = jax.random.uniform(jax.random.key(0), (5, 2, 2, 1))
    z = jax.random.normal(jax.random.key(1), (3, 4, 2, 2, 1))
    found = np.asarray(Library.of(NOISY, images).log_density(z))
    exact = scipy.stats.norm.logpdf(np.asarray(z)[:, :, None], np.asarray(images)[None, None], STDDEV).sum((0, 3, 4, 5))
    np.testing.assert_allclose(found - found[:, :1], exact - exact[:, :1], rtol=1e-3, atol=1e-3)


def test_a_release_without_declared_noise_is_refused():
    with pytest.raises(ValueError, match="release: declares no mean and stddev"):
        Library.of(query.as_release(lambda x: x), jnp.zeros((1, 1, 1, 1)))


def test_density_in_chunks_is_the_density():
    library = Library.of(NOISY, jax.random.uniform(jax.random.key(0), (5, 1, 1, 1)))
    z = jax.random.normal(jax.random.key(1), (2, CHUNK + 3, 1, 1, 1))
    np.testing.assert_allclose(library.density(z), library.log_density(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 64])
@pytest.mark.parametrize("stddev", [1e-4, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("own", [False, True], ids=["one stddev", "a stddev each"])
def test_differences_are_right_to_a_hundredth_of_a_nat(stddev, k, own):
    rng = np.random.default_rng(0)
    mean = rng.random((24, 3072), dtype=np.float32)
    # Half of them are all but one image: these are what a posterior is divided between.
    mean[12:] = mean[:1] + np.float32(0.05 * stddev) * rng.normal(size=(12, 3072)).astype(np.float32)
    spread = np.float32(stddev) * (1 + own * rng.random(mean.shape, dtype=np.float32))
    z = (mean[None, :2] + spread[None, :2] * rng.normal(size=(k, 2, 3072))).astype(np.float32)
    parts = [array.astype(np.float64) for array in (z, mean, spread)]
    exact = sum(scipy.stats.norm.logpdf(one[:, None], parts[1][None], parts[2][None]).sum(2) for one in parts[0])
    exact -= exact.max(1, keepdims=True)
    library = Library.made(mean, spread)
    np.testing.assert_allclose(library.log_density(z), exact, rtol=0, atol=0.01)
    # In float32 what is far behind is known to seven digits.
    np.testing.assert_allclose(library.density(z), exact, rtol=1e-6, atol=0.01)


def laplace(v, z, x):
    return -(jnp.abs(z - x) / v + jnp.log(2 * v)).reshape(len(z), -1).sum(1)


def bounded(v, z, x):
    inside = jnp.abs(z - x) <= v
    return jnp.where(inside, -jnp.log(2 * v), -jnp.inf).reshape(len(z), -1).sum(1)


def uniform(v, x, key):
    return x + v * jax.random.uniform(key, x.shape, minval=-1, maxval=1)


def test_a_density_of_another_kind_is_asked_for_pair_by_pair():
    release = Release(jnp.float32(0.3), lambda v, x, key: x + v * jax.random.laplace(key, x.shape), True, None, laplace)
    images = jax.random.uniform(jax.random.key(0), (CHUNK + 3, 2, 2, 1))
    z = jax.random.normal(jax.random.key(1), (3, 70, 2, 2, 1))
    found = Pairs.of(release, images, jax.random.key(2), 3).density(z)
    exact = scipy.stats.laplace.logpdf(np.asarray(z)[:, :, None], np.asarray(images)[None, None], 0.3).sum((0, 3, 4, 5))
    assert declares(release)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-3)


def test_what_no_image_explains_is_weighed_by_how_near_it_is():
    release = Release(jnp.float32(0.5), uniform, True, None, bounded)
    images = jnp.array([0.0, 0.4, 2.0, 9.0]).reshape(4, 1, 1, 1)
    library = Pairs.of(release, images, jax.random.key(0), 1)
    share = np.exp(library.density(jnp.array([0.2, 1.2, 1e6]).reshape(1, 3, 1, 1, 1)))
    assert np.isfinite(share).all()
    # Two explain the first equally well, and what cannot have sent it keeps a little: a guess is never certain.
    np.testing.assert_allclose(share[0, :2], 0.5, rtol=1e-5)

    assert 0 <= share[0, 2:].sum() < UNEXPLAINED
    # None explains the others: a uniform of half-width w has the deviation w / sqrt(3).
    normal = scipy.stats.norm.pdf(1.2, np.asarray(images).ravel(), 0.5 / 3**0.5)
    np.testing.assert_allclose(share[1], normal / normal.sum(), atol=0.12)
    np.testing.assert_allclose(share.sum(1)[1:], 1, rtol=1e-4)
    assert share[2].argmax() == 3
