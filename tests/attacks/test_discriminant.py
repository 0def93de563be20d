import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ani_jax.attacks import base, discriminant, query
from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.discriminant import Discriminant
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch, Knowledge, Source, fixed

INK = Attribute("ink", 3)


def batch(key, count):
    """Smooth images of four waves; the ink is said by nothing in them."""
    wave_key, ink_key = jax.random.split(key)
    waves = jnp.cos(jnp.arange(1, 5)[:, None] * jnp.linspace(0, 3, 36)[None])
    image = (0.5 + 0.1 * jax.random.normal(wave_key, (count, 4)) @ waves).reshape(count, 6, 6, 1)
    ink = jax.random.choice(ink_key, 3, (count,), p=jnp.array([0.5, 0.3, 0.2]))
    return Batch(image, ink, {"ink": ink})


def asked(size, auxiliary, validation, **options):
    """A client that adds a pattern of that size for each ink, as a look-up of what it was given."""
    pattern = jax.random.normal(jax.random.key(9), (3, 6, 6, 1))
    batches = [one._replace(image=one.image + size * pattern[one.label]) for one in (auxiliary, validation)]
    knowledge = Knowledge(query.as_release(lambda x: x))
    return base.prepare(jax.random.key(0), knowledge, Source(batches[0], fixed), batches[1], **options)


def strength(found, of):
    guess = INK.balanced(np.asarray(found.attacker(jax.random.key(0), of.held)), of.sample)
    return INK.strength(guess, of.validation)


@pytest.mark.parametrize("most", [4096, 20])
def test_a_quiet_mark_is_read_where_descent_hears_nothing(fit, monkeypatch, most):
    # With fewer than features, products of rows take the place of the covariance.
    monkeypatch.setattr("ani_jax.attacks.discriminant.MOST", most)
    parts = batch(jax.random.key(1), 1000), batch(jax.random.key(2), 600)
    marked = asked(1e-4, *parts, count=2000)
    assert strength(fit(Probe(INK), jax.random.key(3), marked), marked) < 0.45
    assert strength(fit(Discriminant(INK), jax.random.key(3), marked), marked) > 0.99
    silent = asked(0.0, *parts, count=2000)
    assert strength(fit(Discriminant(INK), jax.random.key(3), silent), silent) == pytest.approx(1 / 3, abs=0.06)


def test_it_is_the_linear_discriminant(fit):
    # Noise of its own for every feature: a covariance that can be inverted, and inks that overlap.
    parts = [
        one._replace(image=one.image + 0.05 * jax.random.normal(jax.random.key(index), one.image.shape))
        for index, one in enumerate((batch(jax.random.key(1), 3000), batch(jax.random.key(2), 600)))
    ]
    problem = asked(0.02, *parts, count=3000)
    found = fit(Discriminant(INK), jax.random.key(3), problem)
    z, held = (np.asarray(part).reshape(len(part), -1) for part in (problem.sample_z, problem.held_z))
    known = LinearDiscriminantAnalysis().fit(z, np.asarray(problem.sample.sensitive["ink"]))
    guess = np.asarray(found.attacker(jax.random.key(0), problem.held))
    assert strength(found, problem) > 0.6
    assert (guess.argmax(1) == known.predict(held)).mean() > 0.9


def test_a_constant_client_says_nothing(fit):
    parts = batch(jax.random.key(1), 200), batch(jax.random.key(2), 100)
    knowledge = Knowledge(query.as_release(lambda x: jnp.ones((len(x), 5))))
    still = base.prepare(jax.random.key(0), knowledge, Source(parts[0], fixed), parts[1], count=300)
    found = fit(Discriminant(INK), jax.random.key(3), still)
    assert found.failed is None
    assert strength(found, still) == pytest.approx(1 / 3, abs=1e-6)


def test_what_a_line_tells_without_error_is_read_beyond_least_squares(fit, monkeypatch):
    key = jax.random.key(1)
    image = jax.random.uniform(key, (1600, 6, 6, 1))
    told = image.reshape(1600, -1) @ jax.random.normal(jax.random.key(2), (36,))
    ink = jnp.searchsorted(jnp.quantile(told, jnp.array([1 / 3, 2 / 3])), told)
    parts = [Batch(image[cut], ink[cut], {"ink": ink[cut]}) for cut in (slice(0, 800), slice(800, 1600))]
    of = asked(0.0, *parts, count=800)
    finer = strength(fit(Discriminant(INK), key, of), of)
    monkeypatch.setattr(discriminant, "FOUND", 1.0)
    plain = strength(fit(Discriminant(INK), key, of), of)
    assert plain < 0.93 < 0.95 < finer
