"""What every update is made of, each part by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ani_jax.defenses.base import Forward
from ani_jax.losses.task import cross_entropy
from ani_jax.training.state import init, optimizers
from ani_jax.training.updates import Rules, apply, objective, own_losses


@pytest.fixture
def rules(toy):
    defense = toy()
    return Rules(defense, defense.phases[1], optimizers(defense), 0.0)


def test_a_phase_trains_groups_of_either_party(rules):
    phase = dataclasses.replace(rules.phase, trainable=("client/dense", "server", "client/norm"))
    assert rules._replace(phase=phase).trained("client") == ("client/dense", "client/norm")
    assert rules._replace(phase=phase).trained("server") == ("server",)


def test_learning_moves_what_has_a_gradient_and_nothing_else(rules):
    state = init(rules.defense, jax.random.key(0))
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), state.params["server"])
    after, norms = rules.learn(state, {"server": gradient})
    assert set(norms) == {"gradient_norm/server"}
    assert float(norms["gradient_norm/server"]) == pytest.approx(float(optax.tree.norm(gradient)))
    for group in ("client", "adversaries"):
        assert after.params[group] is state.params[group]
    assert after.optimizers["client"] is state.optimizers["client"]
    # Adam's first step is the rate, whatever the gradient's size.
    moved = jax.tree.map(lambda a, b: a - b, state.params["server"], after.params["server"])
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_allclose(leaf, 1e-3, rtol=1e-4)


def test_groups_are_clipped_together_and_norms_are_of_before(rules):
    state = init(rules.defense, jax.random.key(0))
    gradients = {group: jax.tree.map(jnp.ones_like, state.params[group]) for group in ("client", "server")}
    after, norms = rules._replace(clip=0.5).learn(state, gradients)
    whole = np.hypot(*(float(norms[f"gradient_norm/{group}"]) for group in gradients))
    moments = [optax.tree.get(after.optimizers[group], "mu") for group in gradients]
    assert whole > 1
    # Adam's first moment after one step is (1 - b1) times the gradient.
    assert 10 * float(optax.tree.norm(moments)) == pytest.approx(0.5, rel=1e-5)


def test_batch_statistics_move_in_training_mode_alone(toy, toy_batch):
    defense, state = toy(), init(toy(), jax.random.key(0))
    inputs = (defense.client, state.params["client"], state.statistics["client"], toy_batch.image, jax.random.key(1))
    _, kept = apply(*inputs, train=False)
    _, moved = apply(*inputs, train=True)
    assert kept is state.statistics["client"]
    assert float(jnp.abs(moved["norm"]["mean"] - kept["norm"]["mean"]).max()) > 0
    # A module without statistics has none afterwards.
    z = jnp.ones((2, 6))
    assert apply(defense.server, state.params["server"], {}, z, train=True)[1] == {}


def test_the_sum_of_plain_losses_gives_each_adversary_its_own_gradient(toy, toy_batch):
    class Two(type(toy())):
        @property
        def adversaries(self):
            (one,) = super().adversaries
            loud = dataclasses.replace(
                one,
                name="loud",
                loss=lambda guess, batch: 3 * one.loss(guess, batch),
                health=lambda guess, batch, extra: {"prepared": extra["prepared"]},
            )
            return (one, loud)

    defense = toy(Two)
    params = init(defense, jax.random.key(0)).params["adversaries"]
    z, extra = jax.random.normal(jax.random.key(1), (32, 6)), {"prepared": jnp.int32(7)}

    def own(params):
        return own_losses(defense, params, dict.fromkeys(params, z), toy_batch, extra)

    gradients, (answers, metrics) = jax.grad(own, has_aux=True)(params)
    assert set(metrics) == {"adversary/ink", "adversary/loud", "adversary/loud/prepared"}
    assert int(metrics["adversary/loud/prepared"]) == 7
    for adversary, factor in zip(defense.adversaries, (1, 3), strict=True):

        def alone(params, module=adversary.module):
            return cross_entropy(module.apply({"params": params}, z), toy_batch.sensitive["ink"]).mean()

        expected = jax.grad(alone)(params[adversary.name])
        jax.tree.map(
            lambda a, b, k=factor: np.testing.assert_allclose(a, k * b, atol=1e-6), gradients[adversary.name], expected
        )
        assert answers[adversary.name].shape == (32, 2)


def test_the_objective_is_the_weighed_sum_of_the_phases_terms_and_one_without_a_weight_counts_once(rules, toy_batch):
    logits, guess = jax.random.normal(jax.random.key(0), (32, 3)), jax.random.normal(jax.random.key(1), (32, 2))
    forward, weights = Forward(jnp.zeros((32, 6)), {}, logits, {"ink": guess}), {"attribute": jnp.float32(0.25)}
    total, metrics = objective(rules, forward, toy_batch, weights)
    expected = float(metrics["term/task"]) - 0.25 * float(metrics["term/attribute"])
    assert float(total) == float(metrics["loss"]) == pytest.approx(expected, rel=1e-6)
    alone = rules._replace(phase=dataclasses.replace(rules.phase, objective=("task",)))
    total, metrics = objective(alone, forward, toy_batch, weights)
    assert set(metrics) == {"loss", "accuracy", "term/task"}
    assert float(total) == float(metrics["term/task"])
