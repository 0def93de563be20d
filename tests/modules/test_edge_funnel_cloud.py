"""Clients and servers: parameter counts, shapes, companions, running statistics across devices, and that they learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.cloud import CnnCloud
from ani_jax.modules.edge import CnnEdge
from ani_jax.modules.funnel import CnnFunnel
from ani_jax.types import Sent


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(module, shape, key):
    return jax.eval_shape(lambda x: module.init_with_output(key, x, train=True), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("client", "parameters", "floats"), [(CnnEdge(), 76_032, 32_768), (CnnFunnel(), 10_354, 3_072)]
)
def test_counts_of_the_paper(client, parameters, floats, key):
    sent, variables = shapes(client, (1, 64, 64, 3), key)
    assert isinstance(sent, Sent)
    assert sent.aux == {}
    assert count(variables["params"]) == parameters
    assert sent.z.size == floats


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (CnnEdge(depth=1), (2, 16, 16, 64)),
        (CnnEdge(width=8), (2, 8, 8, 16)),
        (CnnFunnel(width=8, channels=2, bottleneck=4), (2, 8, 8, 2)),
    ],
)
def test_shapes(client, expected, key):
    assert shapes(client, (2, 32, 32, 3), key)[0].z.shape == expected


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("expansion", [None, 8])
def test_cloud_takes_any_features(depth, expansion, key):
    cloud = CnnCloud(10, width=8, depth=depth, expansion=expansion)
    for shape in [(2, 8, 8, 3), (2, 7, 7, 12)]:
        logits, variables = shapes(cloud, shape, key)
        assert logits.shape == (2, 10)
        assert len([name for name in variables["params"] if name.startswith("block")]) == 3 - depth


def test_edge_and_cloud_are_one_network_wherever_it_is_cut(key):
    """The cut moves blocks, not parameters."""
    totals = set()
    for depth in (1, 2):
        sent, edge = shapes(CnnEdge(8, depth), (2, 16, 16, 3), key)
        totals.add(count(edge["params"]) + count(shapes(CnnCloud(10, 8, depth), sent.z.shape, key)[1]["params"]))
    totals.add(count(shapes(CnnCloud(10, 8, 0), (2, 16, 16, 3), key)[1]["params"]))
    assert len(totals) == 1


@pytest.mark.parametrize("client", [CnnEdge(width=8), CnnFunnel(width=8, channels=4)])
def test_an_answer_does_not_depend_on_its_companions(client, key):
    x = jax.random.uniform(key, (3, 8, 8, 3))
    variables = jax.jit(lambda x: client.init(key, x, train=False))(x)
    send = jax.jit(lambda variables, x: client.apply(variables, x, None, train=False).z)
    first = send(variables, x)
    np.testing.assert_allclose(first[:1], send(variables, x.at[1:].set(0.9))[:1], atol=1e-6)
    assert float(jnp.abs(first[0] - first[1]).max()) > 1e-4


def test_pooling_before_the_relu_is_the_same_function(key):
    x = jax.random.normal(key, (2, 6, 6, 3))
    np.testing.assert_array_equal(nn.relu(nn.max_pool(x, (2, 2), (2, 2))), nn.max_pool(nn.relu(x), (2, 2), (2, 2)))


def test_batch_statistics_are_shared_over_the_axis(key):
    """Two halves under an axis name give the features of the whole batch."""
    x = jax.random.uniform(key, (4, 8, 8, 3))
    alone, shared = CnnEdge(4, depth=1), CnnEdge(4, depth=1, axis_name="devices")
    variables = jax.jit(lambda x: alone.init(key, x, train=True))(x)

    def send(client, x):
        return client.apply(variables, x, train=True, mutable=["batch_stats"])[0].z

    halves = jax.jit(jax.vmap(lambda x: send(shared, x), axis_name="devices"))(x.reshape(2, 2, 8, 8, 3))
    np.testing.assert_allclose(halves.reshape(4, 4, 4, 4), jax.jit(lambda x: send(alone, x))(x), atol=1e-5)


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
        (CnnEdge(), (1, 30, 32, 3), "30x32 images; height and width must be multiples of 4"),
        (CnnEdge(depth=1), (1, 32, 31, 3), "multiples of 2"),
        (CnnEdge(depth=3), (1, 32, 32, 3), "depth: 3"),
        (CnnFunnel(), (1, 32, 34, 3), "multiples of 4"),
        (CnnFunnel(), (32, 32, 3), "x: shape"),
        (CnnCloud(10, depth=4), (1, 8, 8, 3), "depth: 4"),
        (CnnCloud(10), (1, 8), "z: shape"),
    ],
)
def test_refuses(module, shape, message, key):
    with pytest.raises(ValueError, match=message):
        shapes(module, shape, key)
