import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.attacks import query
from ani_jax.attacks.density import Library
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
