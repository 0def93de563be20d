import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.attacks import base, query
from ani_jax.attacks.density import Library
from ani_jax.attacks.likelihood import Likelihood, Posterior, Reconstruction
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Release, Source, fixed

STDDEV = 0.5
INK = Attribute("ink", 2)


def client(variables, x, key):
    return x + variables * jax.random.normal(key, x.shape)


def mean(variables, x):
    return x


def stddev(variables, x):
    return jnp.broadcast_to(variables, x.shape)


NOISY = Release(jnp.float32(STDDEV), client, stochastic=True, mean=mean, stddev=stddev)
SILENT = Release(
    jnp.float32(1.0),
    lambda v, x, key: jax.random.normal(key, x.shape),
    stochastic=True,
    mean=lambda v, x: jnp.zeros_like(x),
    stddev=stddev,
)


def two_kinds(key, count):
    """Images that are 0 or 1 all over; the ink says which."""
    ink = jax.random.bernoulli(key, 0.5, (count,)).astype(int)
    image = jnp.broadcast_to(ink[:, None, None, None].astype(float), (count, 1, 1, 1))
    return Batch(image, ink, {"ink": ink})


def asked(queries=1, release=NOISY):
    auxiliary, validation = two_kinds(jax.random.key(0), 64), two_kinds(jax.random.key(1), 256)
    source = Source(auxiliary, fixed)
    return base.prepare(jax.random.key(2), Knowledge(release), source, validation, count=64, queries=queries)


@pytest.mark.parametrize("queries", [1, 4])
def test_reaches_the_bayes_rate_of_two_gaussians(queries, fit):
    fitted = fit(Likelihood(INK), jax.random.key(3), asked(queries))
    test = two_kinds(jax.random.key(4), 4000)
    guess = fitted.attacker(None, query.query(NOISY, test.image, jax.random.key(5), queries))
    rate = scipy.stats.norm.cdf(0.5 / (STDDEV / queries**0.5))
    error = 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert float((guess.argmax(1) == test.sensitive["ink"]).mean()) == pytest.approx(rate, abs=error + 0.002)
    np.testing.assert_allclose(jnp.exp(guess).sum(1), 1, rtol=1e-4)


def test_chance_where_the_client_says_nothing(fit):
    fitted = fit(Likelihood(INK), jax.random.key(3), asked(release=SILENT))
    guess = fitted.attacker(None, query.query(SILENT, two_kinds(jax.random.key(4), 512).image, jax.random.key(5)))
    assert float(jnp.ptp(guess, axis=0).max()) == pytest.approx(0, abs=1e-4)


def test_a_class_missing_from_the_library_is_never_guessed_and_never_nan():
    library = Library.of(NOISY, jnp.zeros((3, 1, 1, 1)))
    guess = Posterior(library, jnp.zeros(3, int), jnp.float32(1), 2)(None, jnp.ones((1, 2, 1, 1, 1)))
    assert bool(jnp.isfinite(guess).all())
    assert guess.argmax(1).tolist() == [0, 0]


def test_the_reconstruction_is_the_posterior_mean_of_two_gaussians(fit):
    fitted = fit(Reconstruction(Image(), temperatures=(1.0,)), jax.random.key(3), asked())
    z = query.query(NOISY, two_kinds(jax.random.key(4), 300).image, jax.random.key(5))
    found = np.asarray(fitted.attacker(None, z)).ravel()
    share = float(asked().sample.sensitive["ink"].mean())
    ones, zeros = (scipy.stats.norm.pdf(np.asarray(z).ravel(), centre, STDDEV) for centre in (1.0, 0.0))
    np.testing.assert_allclose(found, share * ones / (share * ones + (1 - share) * zeros), atol=2e-3)


def test_a_silent_client_yields_no_more_than_the_mean_image(fit):
    silent = asked(release=SILENT)
    fitted = fit(Reconstruction(Image()), jax.random.key(3), silent)
    guess = fitted.attacker(None, query.query(SILENT, silent.validation.image, jax.random.key(5)))
    np.testing.assert_allclose(guess, jnp.broadcast_to(silent.sample.image.mean(0), guess.shape), atol=1e-5)


def test_against_a_client_that_declares_nothing_it_fails_instead_of_guessing(fit):
    fitted = fit(Likelihood(INK), jax.random.key(3), asked(release=query.as_release(lambda x: x)))
    assert fitted.attacker is None
    assert fitted.failed == "the client declares no Gaussian noise"


def test_a_density_that_is_not_finite_is_a_failure(fit):
    broken = Release(jnp.float32(0.0), client, stochastic=True, mean=mean, stddev=stddev)
    fitted = fit(Likelihood(INK), jax.random.key(3), asked(release=broken))
    assert fitted.attacker is None
    assert "finite" in str(fitted.failed)
