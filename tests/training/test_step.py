"""The min-max step, against gradients written out by hand."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ani_jax.defenses.base import Phase
from ani_jax.losses.task import cross_entropy
from ani_jax.training.state import init
from ani_jax.training.step import Work, advance, make_step


def run(defense, batch, phase=1, seed=0, steps=1):
    state = before = init(defense, jax.random.key(seed))
    step = jax.jit(make_step(defense, defense.phases[phase]))
    for _ in range(steps):
        state, metrics = step(state, batch)
    return before, state, metrics


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def by_hand(defense, state, batch, adversary):
    """The defender's gradient in one plain expression, at given adversary parameters."""
    key = jax.random.fold_in(state.key, state.step)

    def loss(client, server):
        variables = {"params": client, "batch_stats": state.statistics["client"]}
        sent, _ = defense.client.apply(variables, batch.image, key, train=True, mutable=["batch_stats"])
        logits = defense.server.apply({"params": server}, sent.z, train=True)
        guess = defense.adversaries[0].module.apply({"params": adversary}, sent.z)
        leaked = cross_entropy(guess, batch.sensitive["ink"]).mean()
        return cross_entropy(logits, batch.label).mean() - state.weights["attribute"] * leaked

    return jax.grad(loss, (0, 1))(state.params["client"], state.params["server"])


@pytest.mark.parametrize("updates", [1, 3])
def test_defender_and_adversary_follow_their_own_gradients(toy, toy_batch, updates):
    defense = toy(updates=updates)
    before, after, _ = run(defense, toy_batch)

    # k plain Adam steps of the adversary on stopped features.
    key = jax.random.fold_in(before.key, before.step)
    variables = {"params": before.params["client"], "batch_stats": before.statistics["client"]}
    z = defense.client.apply(variables, toy_batch.image, key, train=True, mutable=["batch_stats"])[0].z
    module, adam = defense.adversaries[0].module, optax.adam(1e-3)
    adversary = before.params["adversaries"]["ink"]
    moments = adam.init(adversary)
    for _ in range(updates):
        gradient = jax.grad(lambda p: cross_entropy(module.apply({"params": p}, z), toy_batch.sensitive["ink"]).mean())(
            adversary
        )
        change, moments = adam.update(gradient, moments)
        adversary = optax.apply_updates(adversary, change)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), after.params["adversaries"]["ink"], adversary
    )

    # One Adam step of the defender against the updated, frozen adversary.
    client, server = by_hand(defense, before, toy_batch, adversary)
    for party, gradient in (("client", client), ("server", server)):
        optimizer = defense.optimizer(party).build()
        change, _ = optimizer.update(gradient, optimizer.init(before.params[party]), before.params[party])
        expected = optax.apply_updates(before.params[party], change)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), after.params[party], expected)


def test_server_gets_the_gradient_of_the_task_alone(toy, toy_batch):
    with_adversary = run(toy(attribute=0.9), toy_batch)[1].params["server"]
    without = run(toy(attribute=0.0), toy_batch)[1].params["server"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), with_adversary, without)


def test_adversary_update_leaves_the_client_untouched(toy, toy_batch):
    defense = toy()
    before = init(defense, jax.random.key(0))
    after, _ = jax.jit(make_step(defense, Phase("adversaries", 1, (), ("task",), 2)))(before, toy_batch)
    for part in ("client", "server"):
        assert same(before.params[part], after.params[part])
    assert same(before.statistics, after.statistics)
    assert not same(before.params["adversaries"], after.params["adversaries"])


def test_defender_update_leaves_the_adversaries_untouched(toy, toy_batch):
    before, after, metrics = run(toy(updates=0), toy_batch)
    assert same(before.params["adversaries"], after.params["adversaries"])
    assert not same(before.params["client"], after.params["client"])
    assert "adversary/ink" not in metrics


def test_zero_weight_equals_plain_training(toy, toy_batch):
    """METHODS 7: a term that is off is removed statically; bit for bit the same program, and the plain one up to rounding."""
    defense = toy(attribute=0.0, updates=0)
    before, after, _ = run(defense, toy_batch)

    class Plain(type(defense)):
        adversaries: ClassVar = ()

        def client_loss(self, forward, batch):
            return {"task": cross_entropy(forward.logits, batch.label).mean()}

    _, same_modules, _ = run(Plain(classes=3, image_shape=(4, 4, 1), steps=6, updates=0, attribute=0.0), toy_batch)
    for party, gradient in zip(
        ("client", "server"), by_hand(defense, before, toy_batch, before.params["adversaries"]["ink"]), strict=True
    ):
        assert same(after.params[party], same_modules.params[party])
        optimizer = defense.optimizer(party).build()
        change, _ = optimizer.update(gradient, optimizer.init(before.params[party]), before.params[party])
        expected = optax.apply_updates(before.params[party], change)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), after.params[party], expected)


def test_a_bad_term_that_is_off_cannot_poison(toy, toy_batch):
    class Poisoned(type(toy())):
        def client_loss(self, forward, batch):
            return super().client_loss(forward, batch) | {"attribute": jnp.float32(jnp.nan)}

    clean = Poisoned(classes=3, image_shape=(4, 4, 1), attribute=0.0)
    assert jnp.isfinite(run(clean, toy_batch)[2]["loss"])
    assert not jnp.isfinite(run(Poisoned(classes=3, image_shape=(4, 4, 1)), toy_batch)[2]["loss"])


def test_weights_are_data_not_architecture(toy):
    assert toy(attribute=0.5) == toy(attribute=0.7)
    assert hash(toy(attribute=0.5)) == hash(toy(attribute=0.7))
    assert toy(stddev=0.5) != toy(stddev=0.7)
    assert float(toy(attribute=0.7).weights.arrays()["attribute"]) == pytest.approx(0.7)


def test_frozen_client_keeps_parameters_statistics_and_moments(toy, toy_batch):
    before, after, _ = run(toy(pretraining=1), toy_batch, phase=2)
    assert same(before.params["client"], after.params["client"])
    assert same(before.statistics["client"], after.statistics["client"])
    assert same(before.optimizers["client"], after.optimizers["client"])
    assert not same(before.params["server"], after.params["server"])


def test_noise_differs_between_steps_and_examples(toy, toy_batch):
    defense = toy(stddev=1.0)
    state = init(defense, jax.random.key(0))
    images = jnp.broadcast_to(toy_batch.image[:1], toy_batch.image.shape)
    variables = {"params": state.params["client"], "batch_stats": state.statistics["client"]}
    z = [defense.client.apply(variables, images, jax.random.fold_in(state.key, t), train=False).z for t in (0, 1)]
    assert not jnp.allclose(z[0], z[1])
    assert len(jnp.unique(z[0][:, 0])) == len(images)


def test_pmap_over_equal_batches_equals_one_device(toy, toy_batch):
    """The gradient's scale: eight devices with the same batch must take the step of one device."""
    one = run(toy(stddev=0.0), toy_batch)[1]
    defense = toy(stddev=0.0, axis_name="devices")
    state = init(toy(stddev=0.0), jax.random.key(0))
    spread = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (8, *leaf.shape)), (state, toy_batch))
    many = jax.pmap(make_step(defense, defense.phases[1]), axis_name="devices")(*spread)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[0], atol=2e-6), one.params, many.params)


def test_clipping_scales_the_whole_gradient_and_only_a_longer_one(toy, toy_batch):
    defense = toy(updates=1)
    state = init(defense, jax.random.key(0))
    moments = []
    for clip in (0.0, 1e-3, 1e3):
        after, metrics = jax.jit(make_step(defense, defense.phases[1], clip=clip))(state, toy_batch)
        moments.append({group: optax.tree.get(found, "mu") for group, found in after.optimizers.items()})
    norm = float(metrics["gradient_norm"])
    assert norm > 2e-3
    for group in ("client", "server"):
        # Adam's first moment after one step is (1 - b1) times the gradient.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a * 1e-3 / norm, b, rtol=2e-2, atol=1e-9),
            moments[0][group],
            moments[1][group],
        )
        assert same(moments[0][group], moments[2][group])
    # Party by party the norms add up to the whole, and the adversary is clipped by itself.
    parts = np.hypot(float(metrics["gradient_norm/client"]), float(metrics["gradient_norm/server"]))
    assert parts == pytest.approx(norm, rel=1e-4)
    assert float(optax.tree.norm(moments[1]["adversaries/ink"])) == pytest.approx(1e-4, rel=1e-3)


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
