"""The funnel-shaped edges: parameter counts, shapes, companions, and that one learns with its server."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses.funnel import CnnFunnel, ResnetFunnel, VggFunnel
from ani_jax.modules.cloud import CnnCloud
from ani_jax.types import Sent


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(module, shape, key):
    return jax.eval_shape(lambda x: module.init_with_output(key, x, train=True), jnp.zeros(shape))


def conv(side, before, after, bias=True):
    return side * side * before * after + bias * after


def norm(channels):
    return 2 * channels


def test_counts_of_the_paper(key):
    sent, variables = shapes(CnnFunnel(), (1, 64, 64, 3), key)
    assert isinstance(sent, Sent)
    assert sent.aux == {}
    assert count(variables["params"]) == 10_354
    assert sent.z.size == 3_072


def test_an_answer_does_not_depend_on_its_companions(key):
    client = CnnFunnel(width=8, channels=4)
    x = jax.random.uniform(key, (3, 8, 8, 3))
    variables = jax.jit(lambda x: client.init(key, x, train=False))(x)
    send = jax.jit(lambda variables, x: client.apply(variables, x, None, train=False).z)
    first = send(variables, x)
    np.testing.assert_allclose(first[:1], send(variables, x.at[1:].set(0.9))[:1], atol=1e-6)
    assert float(jnp.abs(first[0] - first[1]).max()) > 1e-4


def sift_by_hand(before, c):
    return conv(1, before, c) + 2 * conv(3, c, c) + conv(1, c, c) + conv(5, c, c)


def attention_by_hand(c, reduction, final=False):
    """SE then CBAM at the end of an edge; SE then triplet attention (three 7x7 convolutions with normalisation) inside."""
    squeeze = 2 * c * max(1, c // reduction)
    return 2 * squeeze + 98 if final else squeeze + 3 * (98 + norm(1))


def test_parameters_of_the_other_funnels_by_hand(key):
    stem = conv(3, 3, 64) + norm(64) + attention_by_hand(64, 16)
    body = conv(3, 64, 128) + conv(3, 128, 128) + 2 * norm(128) + attention_by_hand(128, 32)
    tail = conv(1, 128, 32) + norm(32) + sift_by_hand(32, 6) + attention_by_hand(6, 3, final=True)
    assert count(shapes(ResnetFunnel(), (1, 64, 64, 3), key)[1]["params"]) == stem + body + tail
    body = conv(3, 3, 64) + conv(3, 64, 64) + conv(3, 64, 128) + conv(3, 128, 128) + 2 * norm(64) + 2 * norm(128)
    body += attention_by_hand(64, 16) + attention_by_hand(128, 32)
    tail = conv(3, 128, 32) + norm(32) + sift_by_hand(32, 4) + attention_by_hand(4, 4, final=True)
    assert count(shapes(VggFunnel(), (1, 64, 64, 3), key)[1]["params"]) == body + tail


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (CnnFunnel(width=8, channels=2, bottleneck=4), (2, 8, 8, 2)),
        (ResnetFunnel(4), (2, 16, 16, 6)),
        (VggFunnel(4), (2, 8, 8, 4)),
    ],
)
def test_shapes(client, expected, key):
    assert shapes(client, (2, 32, 32, 3), key)[0].z.shape == expected


@pytest.mark.slow
def test_client_and_server_learn_the_brighter_side(key):
    """Forty steps separate two classes that differ in which half is bright: the client learns through the server."""
    client, server = CnnFunnel(width=8, channels=4, bottleneck=4), CnnCloud(2, width=4)
    label = jnp.arange(32) % 2
    side = jnp.where((jnp.arange(8)[None, :] < 4) == (label[:, None] == 0), 0.8, 0.2)
    x = side[:, None, :, None] + 0.1 * jax.random.normal(key, (32, 8, 8, 1))

    def start(x):
        sent, client_variables = client.init_with_output(key, x, train=True)
        return client_variables, server.init(key, sent.z, train=True)

    variables = jax.jit(start)(x)
    params, stats = [v["params"] for v in variables], [v["batch_stats"] for v in variables]

    def loss(params, x):
        parts = [{"params": p, "batch_stats": s} for p, s in zip(params, stats)]
        sent = client.apply(parts[0], x, train=True, mutable=["batch_stats"])[0]
        logits = server.apply(parts[1], sent.z, train=True, mutable=["batch_stats"])[0]
        return -(nn.log_softmax(logits) * jax.nn.one_hot(label, 2)).sum(1).mean()

    @jax.jit
    def train(params, x):
        def step(params, _):
            value, gradient = jax.value_and_grad(loss)(params, x)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        return jax.lax.scan(step, params, None, length=40)

    trained, values = train(params, x)
    assert values[-1] < 0.3 * values[0]
    assert float(jnp.abs(params[0]["stem"]["conv"]["kernel"] - trained[0]["stem"]["conv"]["kernel"]).max()) > 1e-4


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (CnnFunnel(), (1, 32, 34, 3), "multiples of 4"),
        (CnnFunnel(), (32, 32, 3), "x: shape"),
        (ResnetFunnel(), (1, 31, 32, 3), "multiples of 2"),
        (VggFunnel(), (1, 30, 32, 3), "multiples of 4"),
    ],
)
def test_refuses(module, shape, message, key):
    with pytest.raises(ValueError, match=message):
        shapes(module, shape, key)
