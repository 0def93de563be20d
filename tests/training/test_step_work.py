import dataclasses

import jax
import jax.numpy as jnp

from ani_jax.training.state import init
from ani_jax.training.step import Work, advance


def test_work_that_compiles_to_the_same_program_is_equal(toy):
    defense = toy()
    phase = defense.phases[1]
    assert Work(defense, phase, 8) == Work(defense, dataclasses.replace(phase, name="other", steps=99), 8)
    assert Work(defense, phase, 8) != Work(defense, phase, 8, clip=1.0)


def test_a_bad_step_is_reported_and_not_its_victims(toy, toy_batch):
    defense = toy(updates=0)
    spoilt = toy_batch._replace(image=toy_batch.image * jnp.nan)
    work = Work(defense, defense.phases[1], 32, count=4)

    def draw(step):
        return jax.tree.map(lambda good, bad: jnp.where(step == 1, bad, good), toy_batch, spoilt)

    _, outcome = jax.jit(lambda state: advance(work, state, draw))(init(defense, jax.random.key(0)))
    assert not outcome.good
    assert int(outcome.step) == 2
    _, outcome = jax.jit(lambda state: advance(work, state, lambda step: toy_batch))(init(defense, jax.random.key(0)))
    assert outcome.good
    assert int(outcome.step) == 4
