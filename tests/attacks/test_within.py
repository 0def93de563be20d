"""Within an answer is read what all answers together cancel; a client without a provider is not asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.attacks.discriminant import Discriminant
from ani_jax.attacks.within import MOST, Within
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch, Knowledge, Source, fixed

INK = Attribute("ink", 3)


def batch(key, count, classes=4):
    """The ink shifts the last nine pixels along a pattern that the label turns round, so that over all labels nothing is left."""
    noise_key, ink_key, label_key = jax.random.split(key, 3)
    ink, label = jax.random.randint(ink_key, (count,), 0, 3), jax.random.randint(label_key, (count,), 0, classes)
    image = 0.3 * jax.random.normal(noise_key, (count, 6, 6, 1))
    image = image.at[:, 0, :classes, 0].add(3.0 * jax.nn.one_hot(label, classes))
    pattern = jax.random.normal(jax.random.key(9), (3, 2, 6, 1))
    sign = jnp.where(label % 2 == 0, 1.0, -1.0)[:, None, None, None]
    return Batch(image.at[:, 4:].add(0.5 * sign * pattern[ink]), label, {"ink": ink})


def predict(z):
    return z[:, 0, :4, 0]


def asked(provider=predict, count=3000, size=1.0):
    knowledge = Knowledge(query.as_release(lambda x: size * x), provider)
    parts = batch(jax.random.key(1), count), batch(jax.random.key(2), 600)
    return base.prepare(jax.random.key(0), knowledge, Source(parts[0], fixed), parts[1], count=count)


def strength(found, of):
    guess = INK.balanced(np.asarray(found.attacker(jax.random.key(0), of.held)), of.sample)
    return INK.strength(guess, of.validation)


@pytest.mark.parametrize("most", [MOST, 20])
def test_it_reads_what_the_label_turns_round(fit, monkeypatch, most):
    # With fewer rows than features, products of rows take the place of the covariance.
    monkeypatch.setattr("ani_jax.attacks.within.MOST", most)
    problem = asked()
    assert strength(fit(Discriminant(INK), jax.random.key(3), problem), problem) < 0.45
    assert strength(fit(Within(INK), jax.random.key(3), problem), problem) > (0.9 if most == MOST else 0.6)


def test_where_nothing_is_sent_or_one_answer_is_given_it_still_guesses(fit):
    silent = asked(size=0.0)
    assert strength(fit(Within(INK), jax.random.key(3), silent), silent) == pytest.approx(1 / 3, abs=0.06)
    single = asked(lambda z: jnp.zeros((len(z), 4)) + jnp.arange(4.0)[None])
    assert strength(fit(Within(INK), jax.random.key(3), single), single) < 0.45


def test_without_a_provider_it_sits_out():
    assert not Within.able(Knowledge(query.as_release(lambda x: x)))
    assert Within.able(Knowledge(query.as_release(lambda x: x), predict))
    assert Within(INK).repeated() is None
