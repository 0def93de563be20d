"""The pieces of an update: who learns from what, and what is measured beside."""

import jax
import jax.numpy as jnp
import pytest

from ani_jax.defenses.base import Forward, Phase
from ani_jax.defenses.mixins import Measured
from ani_jax.losses.task import cross_entropy
from ani_jax.training.state import init, optimizers
from ani_jax.training.updates import Rules, objective, own_losses


def rules(defense, phase=1):
    return Rules(defense, defense.phases[phase], optimizers(defense), 0.0)


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_groups_belong_to_the_party_that_they_lie_in(toy):
    phase = Phase("some", 1, ("client/dense", "server"), ("task",))
    found = Rules(toy(), phase, {}, 0.0)
    assert found.trained("client") == ("client/dense",)
    assert found.trained("server") == ("server",)


def test_only_what_has_a_gradient_learns(toy):
    state = init(toy(), jax.random.key(0))
    gradient = jax.tree.map(jnp.ones_like, state.params["server"])
    after, norms = rules(toy()).learn(state, {"server": gradient})
    assert same(after.params["client"], state.params["client"])
    assert same(after.optimizers["adversaries/ink"], state.optimizers["adversaries/ink"])
    assert not same(after.params["server"], state.params["server"])
    size = sum(leaf.size for leaf in jax.tree.leaves(gradient))
    assert float(norms["gradient_norm/server"]) == pytest.approx(size**0.5, rel=1e-6)


def forward(defense, batch):
    logits = jnp.zeros((32, 3)).at[:, 0].set(1.0)
    return Forward(batch.image, {}, logits, {"ink": jnp.ones((32, 2))}, {"prepared": jnp.int32(0)})


def test_the_objective_is_the_weighted_sum_of_the_active_terms(toy, toy_batch):
    defense = toy(attribute=0.7)
    seen, weights = forward(defense, toy_batch), defense.weights.arrays()
    total, metrics = objective(rules(defense), seen, toy_batch, weights)
    task = cross_entropy(seen.logits, toy_batch.label).mean()
    # An adversary that knows nothing of two inks has a cross-entropy of log 2.
    assert float(total) == pytest.approx(float(task) - 0.7 * float(jnp.log(2)), rel=1e-5)
    assert set(metrics) == {"loss", "accuracy", "term/task", "term/attribute"}
    alone, _ = objective(rules(defense, 0), seen, toy_batch, weights)
    assert float(alone) == pytest.approx(float(task), rel=1e-6)


def test_who_measures_more_has_it_logged(toy, toy_batch):
    class Watched(Measured, type(toy())):
        def measurements(self, forward, batch):
            return {"brightness": batch.image.mean()}

    defense = Watched(classes=3, image_shape=(4, 4, 1))
    _, metrics = objective(rules(defense), forward(defense, toy_batch), toy_batch, defense.weights.arrays())
    assert float(metrics["brightness"]) == pytest.approx(float(toy_batch.image.mean()))


def test_adversaries_answer_and_are_scored_by_their_own_loss(toy, toy_batch):
    defense = toy()
    state, z = init(defense, jax.random.key(0)), jnp.ones((32, 6))
    total, (answers, metrics) = own_losses(defense, state.params["adversaries"], {"ink": z}, toy_batch, state.extra)
    assert answers["ink"].shape == (32, 2)
    assert float(total) == float(metrics["adversary/ink"]) > 0
