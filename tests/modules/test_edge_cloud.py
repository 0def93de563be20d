"""Clients and servers: parameter counts, shapes, companions, running statistics across devices, and that they learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.cloud import CnnCloud, SplitCloud
from ani_jax.modules.edge import CnnEdge, SplitEdge
from ani_jax.types import Sent


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(module, shape, key):
    return jax.eval_shape(lambda x: module.init_with_output(key, x, train=True), jnp.zeros(shape))


def test_counts_of_the_paper(key):
    sent, variables = shapes(CnnEdge(), (1, 64, 64, 3), key)
    assert isinstance(sent, Sent)
    assert sent.aux == {}
    assert count(variables["params"]) == 76_032
    assert sent.z.size == 32_768


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (CnnEdge(depth=1), (2, 16, 16, 64)),
        (CnnEdge(width=8), (2, 8, 8, 16)),
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


def test_an_answer_does_not_depend_on_its_companions(key):
    client = CnnEdge(width=8)
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


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (CnnEdge(), (1, 30, 32, 3), "30x32 images; height and width must be multiples of 4"),
        (CnnEdge(depth=1), (1, 32, 31, 3), "multiples of 2"),
        (CnnEdge(depth=4), (1, 32, 32, 3), "depth: 4"),
        (CnnCloud(10, depth=4), (1, 8, 8, 3), "depth: 4"),
        (CnnCloud(10), (1, 8), "z: shape"),
    ],
)
def test_refuses(module, shape, message, key):
    with pytest.raises(ValueError, match=message):
        shapes(module, shape, key)


def conv(side, before, after, bias=True):
    return side * side * before * after + bias * after


def norm(channels):
    return 2 * channels


def resnet_by_hand(w, classes):
    """Stem, then stages of two basic blocks, the shortcut a 1x1 convolution where the shape changes; every block's parameters."""
    blocks, before = [conv(3, 3, w) + norm(w)], w
    for index, after in enumerate((w, 2 * w, 4 * w, 8 * w)):
        stage = conv(3, before, after, False) + 3 * conv(3, after, after, False) + 4 * norm(after)
        blocks.append(stage + (index > 0) * (conv(1, before, after, False) + norm(after)))
        before = after
    return blocks, before * classes + classes


def vgg_by_hand(w, classes, positions):
    blocks, before = [], 3
    for after in (w, 2 * w, 4 * w, 8 * w):
        blocks.append(conv(3, before, after) + conv(3, after, after) + 2 * norm(after))
        before = after
    return blocks, positions * before * classes + classes


@pytest.mark.parametrize("backbone", ["resnet", "vgg"])
def test_parameters_of_every_depth_by_hand(backbone, key):
    blocks, head = resnet_by_hand(4, 10) if backbone == "resnet" else vgg_by_hand(4, 10, 4)
    for depth in range(1, len(blocks) + 1):
        sent, edge = shapes(SplitEdge(4, depth, backbone=backbone), (2, 32, 32, 3), key)
        _, cloud = shapes(SplitCloud(10, 4, depth, backbone=backbone), sent.z.shape, key)
        assert count(edge["params"]) == sum(blocks[:depth])
        assert count(cloud["params"]) == sum(blocks[depth:]) + head


@pytest.mark.parametrize(
    ("backbone", "depth", "expected"),
    [
        ("cnn", 3, (2, 4, 4, 8)),
        ("resnet", 1, (2, 32, 32, 4)),
        ("resnet", 2, (2, 32, 32, 4)),
        ("resnet", 3, (2, 16, 16, 8)),
        ("resnet", 5, (2, 4, 4, 32)),
        ("vgg", 2, (2, 8, 8, 8)),
        ("vgg", 4, (2, 2, 2, 32)),
    ],
)
def test_shapes_of_backbones(backbone, depth, expected, key):
    assert shapes(SplitEdge(4, depth, backbone=backbone), (2, 32, 32, 3), key)[0].z.shape == expected


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (SplitEdge(backbone="mlp"), (1, 32, 32, 3), "backbone: 'mlp'; allowed: cnn, resnet, vgg"),
        (SplitEdge(depth=6, backbone="resnet"), (1, 32, 32, 3), "depth: 6 blocks on the device; allowed: 1 to 5"),
        (SplitEdge(depth=0, backbone="vgg"), (1, 32, 32, 3), "depth: 0 blocks on the device; allowed: 1 to 4"),
        (SplitEdge(depth=4, backbone="vgg"), (1, 24, 24, 3), "multiples of 16"),
        (SplitCloud(10, depth=5, backbone="vgg"), (1, 8, 8, 3), "depth: 5"),
    ],
)
def test_backbones_refuse(module, shape, message, key):
    with pytest.raises(ValueError, match=message):
        shapes(module, shape, key)
