import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from ani_jax.losses import adversarial
from ani_jax.losses.reconstruction import mse
from ani_jax.losses.task import cross_entropy

LABELS = jnp.array([0, 2, 1, 1, 2, 0])
PRIOR = jnp.array([0.5, 0.3, 0.2])


def logits(seed=0, scale=2.0):
    return scale * jax.random.normal(jax.random.key(seed), (6, 3))


def test_losses_are_pytorchs():
    values = torch.tensor(np.array(logits()))
    expected = torch.distributions.Categorical(logits=values)
    np.testing.assert_allclose(adversarial.max_entropy(logits()), expected.entropy(), rtol=1e-5)
    prior = torch.distributions.Categorical(probs=torch.tensor(np.array(PRIOR)))
    kl = torch.distributions.kl_divergence(expected, prior)
    np.testing.assert_allclose(adversarial.kl_to_prior(logits(), PRIOR), -kl, rtol=1e-4, atol=1e-6)
    ce = torch.nn.functional.cross_entropy(values, torch.tensor(np.array(LABELS)).long(), reduction="none")
    np.testing.assert_allclose(cross_entropy(logits(), LABELS), ce, rtol=1e-5)


@pytest.mark.parametrize("name", ["neg_ce", "max_entropy", "kl_to_prior"])
def test_maximising_it_confuses_the_adversary(name):
    call = {
        "neg_ce": lambda x: cross_entropy(x, LABELS),
        "max_entropy": adversarial.max_entropy,
        "kl_to_prior": lambda x: adversarial.kl_to_prior(x, jnp.full(3, 1 / 3)),
    }[name]
    certain = 4.0 * jax.nn.one_hot(LABELS, 3)
    assert (call(jnp.zeros((6, 3))) > call(certain)).all()
    climbed = certain + jax.grad(lambda x: call(x).sum())(certain)
    assert (cross_entropy(climbed, LABELS) > cross_entropy(certain, LABELS)).all()


def test_neg_ce_prefers_a_confidently_wrong_adversary_and_max_entropy_does_not():
    wrong = 9.0 * jax.nn.one_hot((LABELS + 1) % 3, 3)
    assert (cross_entropy(wrong, LABELS) > cross_entropy(jnp.zeros((6, 3)), LABELS)).all()
    assert (adversarial.max_entropy(wrong) < adversarial.max_entropy(jnp.zeros((6, 3)))).all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0, 100))
def test_ranges(seed, scale):
    x = logits(seed, scale)
    entropy = adversarial.max_entropy(x)
    assert (entropy >= -1e-6).all()
    assert (entropy <= np.log(3) + 1e-5).all()
    assert (adversarial.kl_to_prior(x, PRIOR) <= 1e-5).all()
    np.testing.assert_allclose(adversarial.kl_to_prior(x, jnp.full(3, 1 / 3)), entropy - np.log(3), atol=1e-5)


def test_extreme_logits_have_finite_gradients():
    x = 1e30 * jax.nn.one_hot(LABELS, 3)
    for call in (adversarial.max_entropy, lambda v: adversarial.kl_to_prior(v, PRIOR)):
        value, gradient = jax.value_and_grad(lambda v, call=call: call(v).sum())(x)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


def test_gradients():
    x = logits(scale=1.0)
    for call in (adversarial.max_entropy, lambda v: adversarial.kl_to_prior(v, PRIOR)):
        check_grads(call, (x,), order=1, atol=1e-2, rtol=1e-2)


def test_hinge_stops_value_and_gradient():
    value, gradient = jax.value_and_grad(lambda v: adversarial.hinged(v, 0.5).sum())(jnp.array([0.2, 0.5, 0.9]))
    np.testing.assert_allclose(value, 1.2, rtol=1e-6)
    assert gradient.tolist() == [1.0, 0.0, 0.0]
    assert adversarial.hinged(3.0, jnp.float32(1.0)) == 1.0


def scores(weights, z, target, name):
    guess = z @ weights
    return cross_entropy(guess, LABELS).mean() if name == "neg_ce" else mse(guess, target).mean()


@pytest.mark.parametrize("name", ["neg_ce", "mse"])
def test_reversal_is_the_alternating_gradient_at_the_same_adversary(name):
    x, target = logits(1), logits(2)
    encoder, weights, scale = logits(3)[:3], logits(4)[:3], 0.7
    reversed_encoder, adversary = jax.grad(
        lambda e, w: scores(w, adversarial.reverse_gradient(x @ e, scale), target, name), (0, 1)
    )(encoder, weights)
    defender = jax.grad(lambda e: -scale * scores(weights, x @ e, target, name))(encoder)
    plain = jax.grad(lambda w: scores(w, x @ encoder, target, name))(weights)
    np.testing.assert_allclose(reversed_encoder, defender, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(adversary, plain, rtol=1e-5, atol=1e-7)


def test_reversal_is_the_identity_in_any_dtype_and_with_a_traced_scale():
    x = logits().astype(jnp.bfloat16)
    value, vjp = jax.vjp(jax.jit(adversarial.reverse_gradient), x, jnp.float32(2.0))
    assert (value == x).all()
    gradient, scale_gradient = vjp(jnp.ones_like(x))
    assert gradient.dtype == jnp.bfloat16
    assert (gradient == -2).all()
    assert scale_gradient == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adversarial.max_entropy(jnp.ones(3)), "logits.shape=.3,.: must be of rank 2"),
        (lambda: adversarial.kl_to_prior(logits(), jnp.ones(2)), "prior.shape=.2,.: must be .3,."),
        (lambda: cross_entropy(logits(), LABELS[:2]), "labels.shape=.2,.: must be .6,."),
        (lambda: adversarial.hinged(jnp.ones(2), jnp.ones(2)), "ceiling.shape=.2,.: must be a scalar's"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
