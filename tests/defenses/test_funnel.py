import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward, freeze
from ani_jax.losses.dependence import channel_pearson, distance_correlation
from ani_jax.training.state import init
from ani_jax.training.step import make_step
from ani_jax.types import Batch


@pytest.fixture(scope="module")
def batch():
    image = jax.random.uniform(jax.random.key(0), (8, 16, 16, 3))
    return Batch(image, jnp.arange(8) % 5, {})


def small(**options):
    return registry.build("funnel", 5, (16, 16, 3), width=8, expansion=16, **options)


def test_client_has_the_published_size_at_64_pixels():
    params = init(registry.build("funnel", 10, (64, 64, 3)), jax.random.key(0)).params["client"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 10_354


def test_terms_are_named_after_their_weights():
    assert small().phases[0].objective == ("alpha", "beta", "gamma", "l1")
    assert tuple(small().weights.values) == ("excess", *small().phases[0].objective)
    assert small(beta=0.0, l1=0.0).phases[0].objective == ("alpha", "gamma")


def terms(defense, z, batch):
    """The defence's terms in one program; one operation after the other they take many times as long to compile."""
    logits = jnp.zeros((len(z), 5))
    return jax.jit(lambda z: defense.client_loss(Forward(z, {}, logits, {}), batch))(z)


def test_identical_features_are_fully_dependent_and_constant_ones_not_at_all(batch):
    copied = terms(small(dependence="corrected"), batch.image, batch)
    constant = terms(small(), jnp.ones((8, 4, 4, 3)), batch)
    assert float(copied["beta"]) == pytest.approx(1.0, abs=1e-3)
    assert float(constant["beta"]) == pytest.approx(0.0, abs=1e-3)
    assert float(constant["l1"]) == pytest.approx(1.0)
    assert float(constant["gamma"]) == pytest.approx(0.0, abs=1e-6)


def test_total_is_the_weighted_sum(batch):
    defense = small(beta=0.7, gamma=0.3, l1=0.1)
    state = init(defense, jax.random.key(0))
    _, metrics = jax.jit(make_step(defense, defense.phases[0]))(state, batch)
    values = defense.weights.values
    total = sum(values[name] * float(metrics[f"term/{name}"]) for name in defense.weights.active)
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
    assert 0 <= float(metrics["live_channels"]) <= 12


def test_finishing_phase_freezes_the_edge(batch):
    defense = small(finishing_steps=2)
    phase = defense.phases[1]
    assert phase.steps == 2
    state = init(defense, jax.random.key(0))
    after, _ = jax.jit(make_step(defense, phase))(state, batch)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state.params["client"], after.params["client"]))
    assert not jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), state.params["server"], after.params["server"])
    )


def test_without_privacy_terms_and_smoothing_it_is_plain_cross_entropy_training(batch):
    """METHODS 7: weights 0, smoothing 0, alpha 1 give the step of the same modules under cross-entropy."""
    defense = small(alpha=1.0, beta=0.0, gamma=0.0, l1=0.0, smoothing=0.0)
    state = init(defense, jax.random.key(0))
    after, _ = jax.jit(make_step(defense, defense.phases[0]))(state, batch)

    class Plain(type(defense)):
        def client_loss(self, forward, batch):
            picked = jnp.take_along_axis(jax.nn.log_softmax(forward.logits), batch.label[:, None], axis=1)
            return {"alpha": -picked.mean()}

    plain = Plain(**{field.name: getattr(defense, field.name) for field in dataclasses.fields(defense)})
    expected, _ = jax.jit(make_step(plain, plain.phases[0]))(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected.params)


@pytest.mark.parametrize("dependence", ["biased", "corrected", pytest.param("local", marks=pytest.mark.slow)])
def test_every_form_of_dependence_sees_a_copy_and_is_differentiable(batch, dependence):
    defense = small(dependence=dependence)
    shade = jax.random.uniform(jax.random.key(9), (8, 1, 1, 1))
    flat = batch._replace(image=jnp.broadcast_to(shade, batch.image.shape))

    @jax.jit
    @jax.value_and_grad
    def loss(z):
        return defense.client_loss(Forward(z, {}, jnp.zeros((8, 5)), {}), flat)["beta"]

    assert float(loss(flat.image)[0]) > 0.9
    for z in (flat.image, jnp.zeros((8, 4, 4, 3))):
        assert jnp.isfinite(loss(z)[1]).all()


@pytest.mark.slow
def test_local_dependence_does_not_let_a_quiet_copy_hide():
    """A copy at a hundredth of the scale of independent noise: the plain statistic misses it, the attacker does not."""
    keys = jax.random.split(jax.random.key(5))
    image, noise = jax.random.normal(keys[0], (64, 1, 1, 1)), 3 * jax.random.normal(keys[1], (64, 2, 2, 1))
    hidden = jnp.concatenate([noise, 0.01 * image + 0 * noise], axis=-1)
    batch = Batch(image, jnp.zeros(64, int), {})
    values = {kind: float(terms(small(dependence=kind), hidden, batch)["beta"]) for kind in ("corrected", "local")}
    assert values["local"] > 0.5 > 0.1 > values["corrected"]


def test_faithful_takes_the_released_formulas_and_optimiser(batch):
    defense = small(faithful=True, dependence="biased")
    adam = defense.optimizer("client")
    assert (adam.b1, adam.weight_decay, adam.amsgrad) == (0.5, 1e-3, True)
    z = jax.random.uniform(jax.random.key(2), (8, 4, 4, 3))
    loss = terms(defense, z, batch)
    assert float(loss["beta"]) == pytest.approx(
        float(distance_correlation(batch.image, z, squared=True, epsilon=1e-10)), rel=1e-6
    )
    assert float(loss["gamma"]) == pytest.approx(float(channel_pearson(z, faithful=True).mean()), rel=1e-6)
    with pytest.raises(ValueError, match="dependence=local: must be one of biased"):
        small(faithful=True)


def test_features_may_be_sent_with_noise_at_unit_variance(batch):
    defense = small(release_stddev=0.5, release_bits=8, repeats="memoised")
    state = init(defense, jax.random.key(0))
    release = freeze(defense, state.params, state.statistics)[0]
    assert (release.stochastic, release.varies, release.stddev is None) == (True, False, False)
    assert not small().stochastic
    after, metrics = jax.jit(make_step(defense, defense.phases[0]))(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    moved = jax.tree.map(lambda old, new: bool((old != new).any()), state.params["client"], after.params["client"])
    assert any(jax.tree.leaves(moved))
    paying = small(release_stddev=0.5, excess=0.1)
    more = jax.jit(make_step(paying, paying.phases[0]))(state, batch)[1]
    assert 0 < float(more["term/excess"]) < np.log(5) / 2 * release(batch.image, state.key)[0].size
    with pytest.raises(ValueError, match="release_bits=0: must be above 0 with repeats=memoised"):
        small(release_stddev=0.5, repeats="memoised")
