"""One backward pass for both sides, against gradients written out by hand; partition's own is tested with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ani_jax.defenses.base import Phase
from ani_jax.defenses.mixins import Reversible
from ani_jax.losses.task import cross_entropy
from ani_jax.training.state import init
from ani_jax.training.step import make_step

PARTIES = ("client", "server")


@pytest.fixture(scope="module")
def reversible(toy):
    """The toy, whose term is minus its adversary's own loss, with a phase of either kind."""

    @dataclasses.dataclass(frozen=True)
    class Reversed(Reversible, type(toy())):
        @property
        def phases(self):
            terms = ("task", "attribute")
            return (
                Phase("reversed", 1, PARTIES, terms, reversal=True),
                Phase("alternating", 1, PARTIES, terms, adversary_updates=0),
            )

        def reversal_scales(self, weights):
            return {"ink": weights["attribute"]}

    return Reversed(classes=3, image_shape=(4, 4, 1))


def gradients(state):
    """Adam's first moment after one step is a tenth of the gradient."""
    return {group: optax.tree.get(found, "mu") for group, found in state.optimizers.items()}


def step(defense, phase, batch, **options):
    return jax.jit(make_step(defense, defense.phases[phase], **options))(init(defense, jax.random.key(0)), batch)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_client_and_server_get_the_gradient_of_the_alternation_and_the_adversary_its_own(reversible, toy_batch):
    once, metrics = step(reversible, 0, toy_batch)
    frozen, others = step(reversible, 1, toy_batch)
    for party in PARTIES:
        close(gradients(once)[party], gradients(frozen)[party])
    before = init(reversible, jax.random.key(0))
    variables = {"params": before.params["client"], "batch_stats": before.statistics["client"]}
    key, module = jax.random.fold_in(before.key, 0), reversible.adversaries[0].module
    z = reversible.client.apply(variables, toy_batch.image, key, train=True, mutable=["batch_stats"])[0].z

    def own(params):
        return cross_entropy(module.apply({"params": params}, z), toy_batch.sensitive["ink"]).mean()

    expected = jax.grad(own)(before.params["adversaries"]["ink"])
    close(gradients(once)["adversaries/ink"], jax.tree.map(lambda gradient: 0.1 * gradient, expected))
    assert float(metrics["adversary/ink"]) == pytest.approx(float(own(before.params["adversaries"]["ink"])), rel=1e-5)
    # The adversary's own loss is no part of what the defender reports to minimise.
    assert float(metrics["loss"]) == pytest.approx(float(others["loss"]), rel=1e-5)
    assert set(metrics) == {*others, "adversary/ink", "gradient_norm/adversaries/ink"}


def test_each_side_is_clipped_by_itself(reversible, toy_batch):
    clipped = gradients(step(reversible, 0, toy_batch, clip=1e-3)[0])
    assert float(optax.tree.norm(clipped.pop("adversaries/ink"))) == pytest.approx(1e-4, rel=1e-3)
    assert float(optax.tree.norm(clipped)) == pytest.approx(1e-4, rel=1e-3)


def test_a_defence_without_that_form_says_so(toy, toy_batch):
    phase = Phase("reversed", 1, PARTIES, ("task",), reversal=True)
    with pytest.raises(TypeError, match="toy has no gradient-reversal form"):
        make_step(toy(), phase)(init(toy(), jax.random.key(0)), toy_batch)
    assert jnp.isfinite(step(toy(), 1, toy_batch)[1]["loss"])
