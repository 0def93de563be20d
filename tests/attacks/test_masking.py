import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, masking, query
from ani_jax.types import Batch, Knowledge, Source, fixed

SIDE = 4


def asked(function, count=128):
    batches = [
        Batch(jax.random.uniform(jax.random.key(i), (count, SIDE, SIDE, 1)), jnp.zeros(count, int), {}) for i in (0, 1)
    ]
    source = Source(batches[0], fixed)
    return base.prepare(jax.random.key(2), Knowledge(query.as_release(function)), source, batches[1], count=count)


MATRIX = np.random.default_rng(3).normal(size=(16, 12)).astype(np.float32)


def spread(x):
    return jnp.tanh(x.reshape(len(x), -1) @ MATRIX)


@jax.custom_vjp
def lying(x):
    return x


lying.defvjp(lambda x: (x, None), lambda saved, g: (-g,))


def called_back(x):
    return jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


MASKED = {
    "stopped": jax.lax.stop_gradient,
    "rounded": lambda x: jnp.round(15 * spread(x)),
    # The square root's slope at the 0 that is added to every pixel is infinite, and 0 * inf is not a number.
    "not finite": lambda x: x + jnp.sqrt(jax.lax.stop_gradient(x) * 0 * x),
    "lying": lying,
}
HONEST = {
    "identity": lambda x: x,
    "curved": spread,
    "small": lambda x: 1e-3 * x,
    "noisy": lambda x, key: x + jax.random.normal(key, x.shape),
    "constant": lambda x: jnp.full((len(x), 5), 0.7),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_gradients_are_detected(key, name):
    assert masking.masked(key, asked(MASKED[name]))


@pytest.mark.parametrize("name", HONEST)
def test_honest_gradients_are_not_taken_for_masked(key, name):
    assert not masking.masked(key, asked(HONEST[name]))


def test_a_callback_cannot_be_differentiated():
    assert not masking.differentiable(asked(called_back))
    assert masking.differentiable(asked(spread))


def test_a_linear_copy_of_a_linear_client_is_exact(key):
    turn = jax.random.normal(jax.random.key(4), (16, 20))
    seen = asked(lambda x: jax.lax.stop_gradient(x.reshape(len(x), -1) @ turn + 3))
    copy = masking.surrogate(key, seen, 0)
    x = jax.random.uniform(jax.random.key(5), (8, SIDE, SIDE, 1))
    np.testing.assert_allclose(copy(x, key), x.reshape(8, -1) @ turn + 3, atol=1e-3)
    gradient = jax.grad(lambda x: copy(x, key).sum())(x)
    np.testing.assert_allclose(gradient.reshape(8, -1), jnp.broadcast_to(turn.sum(1), (8, 16)), atol=1e-3)


def test_a_network_copies_what_is_not_linear(key):
    def bent(x):
        return jax.lax.stop_gradient(jnp.abs(x.reshape(len(x), -1) - 0.5))

    seen = asked(bent)
    linear, network = masking._linear(key, seen), masking.surrogate(key, seen, 500)
    x = jax.random.uniform(jax.random.key(5), (64, SIDE, SIDE, 1))
    errors = [float(jnp.square(copy(x, key) - bent(x)).mean()) for copy in (linear, network)]
    assert errors[1] < 0.7 * errors[0]
