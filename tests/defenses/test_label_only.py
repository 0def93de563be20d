"""What answers on the device sends its answer, learns what it is asked, and costs what it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.config import client_macs
from ani_jax.defenses import registry
from ani_jax.defenses.base import freeze
from ani_jax.evaluation.cost import cost_card
from ani_jax.training.state import init
from ani_jax.training.step import make_step
from ani_jax.types import Batch


def test_it_learns_to_answer_and_sends_nothing_else():
    """Two classes that differ in which half is bright: only the client learns, and z is its answer."""
    half = jnp.arange(64) % 2
    bright = jnp.arange(16)[None, :, None, None] // 8 == half[:, None, None, None]
    batch = Batch(0.5 * bright + 0.5 * jax.random.uniform(jax.random.key(1), (64, 16, 16, 3)), half, {})
    defense = registry.build("label_only", 2, (16, 16, 3), light=True)
    state = init(defense, jax.random.key(0))
    assert (state.params["server"], defense.adversaries) == ({}, ())
    step = jax.jit(make_step(defense, defense.phases[0]))
    for _ in range(60):
        state, metrics = step(state, batch)
    assert float(metrics["accuracy"]) > 0.95
    release, predict = freeze(defense, state.params, state.statistics)
    z = np.asarray(release(batch.image, jax.random.key(2)))
    assert z.shape == (64, 2)
    np.testing.assert_array_equal(z.sum(1), 1)
    np.testing.assert_array_equal(np.asarray(predict(z)).argmax(1), z.argmax(1))
    assert (z.argmax(1) == np.asarray(half)).mean() > 0.9


def test_it_costs_its_whole_classifier():
    defense = registry.build("label_only", 10, (32, 32, 3), width=4)
    state = init(defense, jax.random.key(0))
    card = cost_card(freeze(defense, state.params, state.statistics)[0], (32, 32, 3))
    # The classifier that the data set's page names, whose last product is with 4 x 4 x 8 features.
    assert card.macs == client_macs(defense) == 222_464
    assert card.floats == 10


def test_what_cannot_be_is_refused():
    for options, message in (
        ({"backbone": "moe"}, "backbone=moe: must be one of cnn"),
        ({"backbone": "vgg", "light": True}, "light=True: must be False with backbone=vgg"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.build("label_only", 10, (32, 32, 3), **options)
