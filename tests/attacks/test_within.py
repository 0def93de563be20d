import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ani_jax.attacks import base, query
from ani_jax.attacks.discriminant import Discriminant
from ani_jax.attacks.within import MOST, Cells, Within, moment
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch, Knowledge, Release, Source, fixed

INK = Attribute("ink", 2)
SIZE, TASKS = 12, 3


def batch(key, count, sides):
    """Vectors around a mean of every task, moved by the ink along an axis whose side depends on the task."""
    noise_key, task_key, ink_key = jax.random.split(key, 3)
    task = jax.random.randint(task_key, (count,), 0, TASKS)
    ink = jax.random.bernoulli(ink_key, 0.5, (count,)).astype(jnp.int32)
    side = jnp.asarray(sides)[task] * (2 * ink - 1)
    x = jax.random.normal(noise_key, (count, SIZE)) + 3 * jax.nn.one_hot(task, SIZE)
    return Batch(x.at[:, -1].add(side), task, {"ink": ink})


def asked(sides, release=lambda x: x, count=4000):
    parts = batch(jax.random.key(1), count, sides), batch(jax.random.key(2), 3000, sides)
    knowledge = Knowledge(query.as_release(release))
    return base.prepare(jax.random.key(0), knowledge, Source(parts[0], fixed), parts[1], count=count)


def strength(found, of):
    guess = INK.balanced(np.asarray(found.attacker(jax.random.key(0), of.held)), of.sample)
    return INK.strength(guess, of.validation)


def test_what_turns_with_the_task_is_read_where_a_line_over_all_hears_nothing(fit):
    turned = asked((1.0, -1.0, 0.0))
    # Of two tasks the best is a normal's share below 1, of the third a guess.
    best = (2 * float(jax.scipy.stats.norm.cdf(1.0)) + 0.5) / 3
    assert strength(fit(Within(INK), jax.random.key(3), turned), turned) == pytest.approx(best, abs=0.03)
    assert strength(fit(Discriminant(INK), jax.random.key(3), turned), turned) < 0.56
    assert strength(fit(Within(INK), jax.random.key(3), asked((0.0,) * 3)), asked((0.0,) * 3)) < 0.54


def test_of_one_class_of_the_task_it_is_the_linear_discriminant(fit):
    of = asked((0.7, 0.7, 0.7))
    of = dataclasses.replace(of, sample=of.sample._replace(label=jnp.zeros_like(of.sample.label)))
    found = fit(Within(INK), jax.random.key(3), of)
    known = LinearDiscriminantAnalysis().fit(np.asarray(of.sample_z), np.asarray(of.sample.sensitive["ink"]))
    guess = np.asarray(found.attacker(jax.random.key(0), of.held)).argmax(1)
    assert (guess == known.predict(np.asarray(of.held[0]))).mean() > 0.99


def noisy(stddev, told):
    """Sends what it is given with noise, and declares so much of it."""
    return Release(
        {},
        lambda variables, x, key: x + stddev * jax.random.normal(key, x.shape),
        stochastic=True,
        mean=lambda variables, x: x,
        stddev=lambda variables, x: jnp.full_like(x, told),
    )


def test_declared_noise_is_not_averaged_out_but_added(fit):
    of = asked((1.0, -1.0, 0.0), noisy(2.0, 2.0))
    cell = np.asarray(of.sample.label * 2 + of.sample.sensitive["ink"])
    means, covariance, often = moment(of, cell, 2 * TASKS)
    rate, x = np.asarray(of.standardise.rate), np.asarray(of.standardise(of.sample.image))
    exact = np.stack([x[cell == one].mean(0) for one in range(2 * TASKS)])
    np.testing.assert_allclose(means, exact, atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov((x - exact[cell]).T, bias=True) + np.diag(4 * rate**2), atol=1e-4)
    assert often.tolist() == np.bincount(cell).tolist()
    # What is declared and not borne out is not believed.
    lied = asked((1.0, -1.0, 0.0), noisy(2.0, 1.0))
    sent = np.asarray(lied.standardise(lied.sample_z))
    np.testing.assert_allclose(moment(lied, cell, 2 * TASKS)[0][0], sent[cell == 0].mean(0), atol=1e-5)


def test_a_class_that_never_occurs_is_never_guessed_and_nothing_is_infinite(fit):
    of = asked((1.0, 1.0, 1.0), count=300)
    ink = jnp.zeros_like(of.sample.sensitive["ink"])
    of = dataclasses.replace(of, sample=of.sample._replace(sensitive={"ink": ink}))
    found = fit(Within(INK), jax.random.key(3), of).attacker
    guess = np.asarray(found(jax.random.key(0), of.held))
    assert np.isfinite(guess).all()
    assert (guess.argmax(1) == 0).all()


def test_a_constant_client_says_nothing_and_a_wide_one_is_left_to_others(fit):
    still = asked((1.0, 1.0, 1.0), lambda x: jnp.ones((len(x), 5)), 300)
    assert strength(fit(Within(INK), jax.random.key(3), still), still) == pytest.approx(0.5, abs=1e-6)
    wide = asked((1.0, 1.0, 1.0), lambda x: jnp.tile(x, (1, 1 + MOST // SIZE)), 300)
    found = fit(Within(INK), jax.random.key(3), wide)
    assert found.attacker is None
    assert found.failed is None
    assert "features" in found.ended


def test_it_is_a_pytree_with_a_program_for_all_its_kind():
    one = Cells(jnp.ones((2, 4)), jnp.zeros(4), base.Standardiser(jnp.zeros(2), jnp.ones(2)), 2)
    assert jax.tree.structure(one) == jax.tree.structure(jax.tree.map(lambda leaf: leaf + 1, one))
