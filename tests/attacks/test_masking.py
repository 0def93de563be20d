import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, masking, query
from ani_jax.targets.image import Image
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


@jax.custom_vjp
def doubled(x):
    return x


doubled.defvjp(lambda x: (x, None), lambda saved, g: (2 * g,))

EVEN = np.arange(12) % 2 == 0
SCATTERED = np.random.default_rng(4).permutation(16).reshape(1, SIDE, SIDE, 1) < 8
LEFT = np.arange(SIDE)[None, None, :, None] < SIDE // 2
MORE = np.random.default_rng(5).normal(size=(16, 32)).astype(np.float32)


def relu(x):
    """A network of two layers."""
    return jax.nn.relu(jax.nn.relu(x.reshape(len(x), -1) @ MORE) @ MORE.T - 5) @ MATRIX


def rounded(x):
    """Straight through a rounding, backwards another way than forwards."""
    z = spread(x)
    return lying(z) + jax.lax.stop_gradient(jnp.round(8 * z) / 8 - z)


MASKED = {
    "stopped": jax.lax.stop_gradient,
    "rounded": lambda x: jnp.round(15 * spread(x)),
    # The square root's slope at the 0 that is added to every pixel is infinite, and 0 * inf is not a number.
    "not finite": lambda x: x + jnp.sqrt(jax.lax.stop_gradient(x) * 0 * x),
    "lying": lying,
    "half the features": lambda x: jnp.where(EVEN[None], spread(x), jax.lax.stop_gradient(spread(x))),
    "half the features, the others twice": lambda x: jnp.where(
        EVEN[None], doubled(relu(x)), jax.lax.stop_gradient(relu(x))
    ),
    "half the features the wrong way": lambda x: jnp.where(EVEN[None], relu(x), lying(relu(x))),
    "half the pixels": lambda x: relu(jnp.where(SCATTERED, x, jax.lax.stop_gradient(x))),
    "the left half": lambda x: spread(jnp.where(LEFT, jax.lax.stop_gradient(x), x)),
    "one of two branches": lambda x: spread(x) + jax.lax.stop_gradient(spread(x[:, ::-1])),
    "straight through, lying": rounded,
}
HONEST = {
    "identity": lambda x: x,
    "curved": spread,
    "relu": relu,
    "small": lambda x: 1e-3 * x,
    "shifted": lambda x: 1e3 * x + 5e3,
    "noisy": lambda x, key: x + jax.random.normal(key, x.shape),
    "constant": lambda x: jnp.full((len(x), 5), 0.7),
    "straight through, fine": lambda x: x + jax.lax.stop_gradient(jnp.round(255 * x) / 255 - x),
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


@pytest.mark.parametrize(
    ("name", "forms", "noted"), [("called back", 1, True), ("stopped", 2, True), ("curved", 2, False)]
)
def test_a_copy_always_stands_beside_the_client(key, fit, name, forms, noted):
    seen = asked({"called back": called_back, **MASKED, **HONEST}[name])
    found = fit(masking.Forms(Image(), steps=20), key, seen)
    assert found.failed is None
    assert (len(found.attacker), bool(found.note)) == (forms, noted)


def test_a_copys_gradient_is_followed_from_what_the_client_answers(key):
    both = masking.straight(query.as_release(jnp.floor), query.as_release(lambda x: 3 * x))
    x = jax.random.uniform(key, (4, SIDE, SIDE, 1), maxval=9.0)
    sent, gradient = jax.value_and_grad(lambda x: both(x, key).sum())(x)
    np.testing.assert_array_equal(both(x, key), jnp.floor(x))
    np.testing.assert_array_equal(gradient, jnp.full(x.shape, 3.0))
    assert float(sent) == float(jnp.floor(x).sum())


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
