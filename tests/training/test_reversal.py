"""Both sides in one backward pass, against the alternation at the same adversaries; partition's own is in its tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ani_jax.defenses.base import Phase
from ani_jax.defenses.mixins import Reversible
from ani_jax.training.state import init
from ani_jax.training.step import make_step

REVERSED = Phase("train", 6, ("client", "server"), ("task", "attribute"), 1, reversal=True)


@pytest.fixture(scope="module")
def reversible(toy):
    class Turned(Reversible, type(toy())):
        def reversal_scales(self, weights):
            return {"ink": weights["attribute"]}

    return toy(Turned, attribute=0.5)


def first(moments, group):
    """Adam's first moment after one step is (1 - b1) times the gradient."""
    return jax.tree.map(lambda mu: 10 * mu, optax.tree.get(moments[group], "mu"))


def test_it_is_the_alternating_gradient_at_the_same_adversaries(reversible, toy_batch):
    state = init(reversible, jax.random.key(0))
    frozen = dataclasses.replace(REVERSED, reversal=False, adversary_updates=0)
    only = dataclasses.replace(frozen, trainable=(), objective=("task",), adversary_updates=1)
    one, metrics = jax.jit(make_step(reversible, REVERSED))(state, toy_batch)
    other, expected = jax.jit(make_step(reversible, frozen))(state, toy_batch)
    # The client runs in another mode where nobody trains it, and another z would be heard.
    heard, _ = jax.jit(make_step(reversible, dataclasses.replace(only, trainable=("client",))))(state, toy_batch)
    for group, found in (("client", other), ("server", other), ("adversaries/ink", heard)):
        gradient = first(found.optimizers, group)
        apart = optax.tree.norm(jax.tree.map(lambda a, b: a - b, gradient, first(one.optimizers, group)))
        assert float(apart) <= 1e-5 * float(optax.tree.norm(gradient)), group
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(expected["gradient_norm"]), rel=1e-5)
    assert {"adversary/ink", "gradient_norm/adversaries/ink"} <= set(metrics)


def test_the_scale_is_the_weights(reversible, toy_batch):
    """The comparison above can fail: at half the weight the client's gradient is another."""
    state = init(reversible, jax.random.key(0))
    step = jax.jit(make_step(reversible, REVERSED))
    whole, half = (step(state.replace(weights={"attribute": jnp.float32(w)}), toy_batch)[0] for w in (0.5, 0.25))
    gradient = first(whole.optimizers, "client")
    apart = optax.tree.norm(jax.tree.map(lambda a, b: a - b, gradient, first(half.optimizers, "client")))
    assert float(apart) > 1e-2 * float(optax.tree.norm(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), *(one.params["adversaries"] for one in (whole, half))
    )


def test_adversaries_are_clipped_by_themselves(reversible, toy_batch):
    state = init(reversible, jax.random.key(0))
    after, _ = jax.jit(make_step(reversible, REVERSED, clip=1e-3))(state, toy_batch)
    parties = [first(after.optimizers, group) for group in ("client", "server")]
    assert float(optax.tree.norm(parties)) == pytest.approx(1e-3, rel=1e-3)
    assert float(optax.tree.norm(first(after.optimizers, "adversaries/ink"))) == pytest.approx(1e-3, rel=1e-3)


def test_a_defence_without_a_reversed_form_is_refused(toy, toy_batch):
    with pytest.raises(TypeError, match="toy has no gradient-reversal form"):
        make_step(toy(), REVERSED)(init(toy(), jax.random.key(0)), toy_batch)
