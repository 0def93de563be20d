"""Reconstruction of vectors: what a line tells, any shift and unit, and what only a curve tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.base import Context, Fits, prepare
from ani_jax.attacks.decoder import Kernel, Ridge
from ani_jax.attacks.query import as_release, query
from ani_jax.attacks.vector import Corrected
from ani_jax.targets.vector import Vector
from ani_jax.types import Batch, Knowledge, Source, fixed


def strength(attack, client, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    own, held, test = (
        Batch(50 + 7 * jax.random.normal(key, (count, 3)), jnp.zeros(count, int), {})
        for key, count in zip(keys, (1500, 200, 300), strict=True)
    )
    release = as_release(client)
    asked = prepare(jax.random.key(1), Knowledge(release), Source(own, fixed), held, count=1500)
    fits = Fits(asked, lambda attack: jax.random.key(2))
    found = attack.fit(Context(jax.random.key(2), asked, fits))
    guess = found.attacker(jax.random.key(3), query(release, test.image, jax.random.key(4)))
    return attack.target.strength(np.asarray(guess), test)


@pytest.mark.parametrize("attack", [Ridge(Vector()), Corrected(Vector(), 60, width=32)])
def test_a_line_is_read_whatever_the_scale(attack):
    assert strength(attack, lambda x: 1e-3 * x @ jnp.array([[1.0, 2, 0], [0, 1, 1], [1, 0, 3]])) > 0.9


def test_of_a_constant_the_mean_is_what_is_guessed():
    assert abs(strength(Ridge(Vector()), lambda x: jnp.zeros((len(x), 1)))) < 0.05


def test_curves_are_read_by_those_that_bend():
    def folded(x):
        return jnp.abs(x - 50) / 7

    def bent(x):
        return jnp.concatenate([jnp.sin((x - 50) / 7), jnp.cos((x - 50) / 7)], axis=1)

    assert strength(Ridge(Vector()), folded) < 0.1
    line = strength(Ridge(Vector()), bent)
    assert strength(Kernel(Vector()), bent) > line + 0.05
    assert strength(Corrected(Vector(), 400, width=64), bent) > line + 0.05
