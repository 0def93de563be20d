import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.attacks import base, query
from ani_jax.attacks.density import Library
from ani_jax.attacks.likelihood import CONVERGED, GAINING, Likelihood, Posterior, Reconstruction
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
    assert fitted.failed == "the client declares no density of what it sends"


def test_a_density_that_is_not_finite_is_a_failure(fit):
    broken = Release(jnp.float32(0.0), client, stochastic=True, mean=mean, stddev=stddev)
    fitted = fit(Likelihood(INK), jax.random.key(3), asked(release=broken))
    assert fitted.attacker is None
    assert "finite" in str(fitted.failed)


def laplace(variables, x, key):
    return x + variables * jax.random.laplace(key, x.shape)


def uniform(variables, x, key):
    return x + variables * jax.random.uniform(key, x.shape, minval=-1, maxval=1)


def laplace_density(variables, z, x):
    return -(jnp.abs(z - x) / variables + jnp.log(2 * variables)).reshape(len(z), -1).sum(1)


def uniform_density(variables, z, x):
    inside = jnp.abs(z - x) <= variables
    return jnp.where(inside, -jnp.log(2 * variables), -jnp.inf).reshape(len(z), -1).sum(1)


def spread(key, count):
    """Like ``two_kinds``, but no two images are equal: each strays by up to 0.1 from what its ink says."""
    ink_key, own_key = jax.random.split(key)
    batch = two_kinds(ink_key, count)
    return batch._replace(
        image=0.1 + 0.8 * batch.image + 0.1 * jax.random.uniform(own_key, batch.image.shape, minval=-1)
    )


@pytest.mark.parametrize(
    ("sends", "density", "rate"),
    [(laplace, laplace_density, 1 - 0.5 * np.exp(-0.5 / 0.5)), (uniform, uniform_density, 0.5 + 0.5 * 1 / (2 * 0.6))],
    ids=["laplace", "uniform"],
)
def test_reaches_the_bayes_rate_where_only_a_log_prob_is_declared(sends, density, rate, fit):
    width = 0.5 if sends is laplace else 0.6
    release = Release(jnp.float32(width), sends, stochastic=True, log_prob=density)
    fitted = fit(Likelihood(INK), jax.random.key(3), asked(release=release))
    test = two_kinds(jax.random.key(4), 4000)
    guess = fitted.attacker(None, query.query(release, test.image, jax.random.key(5)))
    # Of two uniforms the overlap is a coin's toss: 1 / (2 w) of each lies outside of the other.
    error = 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert float((guess.argmax(1) == test.sensitive["ink"]).mean()) == pytest.approx(rate, abs=error + 0.002)


@pytest.mark.parametrize("kind", [Likelihood(INK), Reconstruction(Image())])
def test_bounded_noise_that_no_image_explains_is_still_answered(kind, fit):
    # 16 releases within a hundredth of an image that is not in the library.
    release = Release(jnp.float32(0.01), uniform, stochastic=True, log_prob=uniform_density)
    own, held, test = (spread(jax.random.key(i), count) for i, count in enumerate((6, 64, 256)))
    seen = base.prepare(jax.random.key(3), Knowledge(release), Source(own, fixed), held, count=6, queries=16)
    found = fit(kind, jax.random.key(4), seen)
    guess = found.attacker(None, query.query(release, test.image, jax.random.key(5), 16))
    assert found.failed is None
    assert bool(jnp.isfinite(guess).all())
    if isinstance(kind, Likelihood):
        assert float((guess.argmax(1) == test.sensitive["ink"]).mean()) == 1
    else:
        assert float(jnp.square(guess - test.image).mean()) < 0.05 * float(jnp.var(test.image))


def test_the_library_is_as_large_whatever_the_number_of_releases_recorded():
    auxiliary, validation = two_kinds(jax.random.key(0), 64), two_kinds(jax.random.key(1), 16)
    knowledge = Knowledge(NOISY)
    ask = functools.partial(base.prepare, jax.random.key(2), knowledge, Source(auxiliary, fixed), validation)
    once = ask(count=40, library=30)
    often = ask(count=8, queries=4, library=30, like=once)
    assert (often.sample_z.shape[0], often.held_density.shape, len(often.owned.label)) == (8, (16, 30), 30)
    np.testing.assert_array_equal(often.sample.image, once.sample.image[:8])
    # What it declares does not depend on how often it is asked.
    assert often.library is once.library
    assert ask(count=40, library=5).held_density.shape == (16, 5)


def plane(key, count):
    """Images of three pixels anywhere; the ink says on which side of a plane."""
    image = jax.random.uniform(key, (count, 3, 1, 1))
    ink = (image.reshape(count, 3).sum(1) > 1.5).astype(int)
    return Batch(image, ink, {"ink": ink})


@pytest.mark.parametrize(("rows", "ended"), [(16, GAINING), (4096, CONVERGED)])
def test_says_whether_more_images_would_help(rows, ended, fit):
    release = Release(jnp.float32(0.03 if rows == 16 else 0.3), client, stochastic=True, mean=mean, stddev=stddev)
    own, held = plane(jax.random.key(0), rows), plane(jax.random.key(1), 400)
    seen = base.prepare(jax.random.key(2), Knowledge(release), Source(own, fixed), held, count=rows)
    found = fit(Likelihood(INK), jax.random.key(3), seen)
    assert [look.steps for look in found.curves[0]] == [rows // 4, rows // 2, rows]
    assert found.ended == ended
    # What is on record is what the finished attacker has.
    guess = found.attacker(None, seen.held)
    loss = -np.take_along_axis(np.asarray(guess), np.asarray(held.sensitive["ink"])[:, None], 1).mean()
    assert found.curves[0][-1].loss == pytest.approx(loss, rel=1e-4)
