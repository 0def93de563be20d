"""PyTorch's transcriptions compute what ours do: same weights, same batch, same losses over several updates."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ani_jax.attacks import descent
from ani_jax.defenses.base import freeze
from ani_jax.information import critics
from ani_jax.losses.dependence import distance_correlation
from ani_jax.modules.initialise import initialise
from ani_jax.modules.readers import DecoderReader
from ani_jax.targets.image import image_mse
from ani_jax.training.state import init
from ani_jax.training.step import Work, advance
from experiments.benchmark import cases
from experiments.benchmark.peers import cases as peers
from experiments.benchmark.peers import losses
from experiments.benchmark.sides import Shape

SMALL = Shape(batch=8, width=8, image=16, classes=3)


def leaves(tree, path=()):
    """Path -> array of a tree of ours."""
    if not hasattr(tree, "items"):
        return {path: np.asarray(tree)}
    return {key: leaf for name, part in tree.items() for key, leaf in leaves(part, (*path, name)).items()}


def name_of(path):
    """PyTorch's name of our parameter."""
    return ".".join((*path[:-1], {"kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])))


def copy(params, module):
    """Gives PyTorch's module our parameters; every one of them, and no other."""
    ours, theirs = leaves(params), dict(module.named_parameters())
    assert len(ours) == len(theirs)
    assert sum(leaf.size for leaf in ours.values()) == sum(value.numel() for value in theirs.values())
    for path, leaf in ours.items():
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
        with torch.no_grad():
            theirs[name_of(path)].copy_(torch.from_numpy(leaf.transpose(axes).copy()))


def pad_as_xla(module):
    """A strided convolution then pads the end alone: the same work on other pixels, so it is ours that is computed."""
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d) and part.stride == (2, 2) and part.kernel_size == (3, 3):
            part.padding = (0, 0)
            part.register_forward_pre_hook(lambda _, inputs: (F.pad(inputs[0], (0, 1, 0, 1)),))


def pair(name, shape):
    """Our state and the peer that has its weights."""
    defense = cases.DEFENSES[name](shape)
    state, peer = cases.fresh(defense, shape), peers.TRAININGS[name](shape)
    names = {"image": "image", "attribute-conv": "attribute"}
    for module, params in (
        (peer.client, state.params["client"]),
        (peer.server, state.params["server"]),
        *((peer.adversaries[names[key]], tree["module"]) for key, tree in state.params["adversaries"].items()),
    ):
        copy(params, module)
        pad_as_xla(module)
    return defense, state, peer


NAMES = [
    ("plain", "cnn"),
    ("ani", "cnn"),
    *(pytest.param(name, "cnn", marks=pytest.mark.slow) for name in peers.TRAININGS if name not in ("plain", "ani")),
    *(pytest.param(name, "resnet", marks=pytest.mark.slow) for name in ("plain", "funnel", "partition")),
]


@pytest.mark.parametrize(("name", "backbone"), NAMES)
def test_three_steps_have_the_same_losses(name, backbone):
    shape = dataclasses.replace(SMALL, backbone=backbone)
    defense, state, peer = pair(name, shape)
    held = cases.batch(shape.batch, shape)
    work = Work(defense, cases.main_phase(defense), shape.batch)
    step = jax.jit(functools.partial(advance, work, draw=lambda _: held))
    for index in range(3):
        if name == "ani":
            noise = jax.random.normal(jax.random.fold_in(state.key, index), held.image.shape)
            given = torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2)
            peer.client.draw = lambda _, given=given: given
        state, outcome = step(state)
        # A difference of 1e-7 grows under Adam: what is equal is the first loss, and nearly so the next two.
        assert peer().item() == pytest.approx(float(outcome.metrics["loss"]), rel=(1e-4, 2e-3, 1e-2)[index], abs=1e-4)


def turned(images):
    """NHWC to PyTorch's, channels_last."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def test_the_critic_climbs_the_same_bound():
    keys = jax.random.split(jax.random.key(3), 3)
    chosen, peer = critics.Critics("mine", batch=8), peers.CriticStep(SMALL)
    x, z = (jax.random.normal(key, (8, part.shape[1])) for key, part in zip(keys, (peer.x, peer.z)))
    params = chosen.network.init(keys[2], x, z)["params"]
    # Away from the start, where every score is 0.
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    copy(params, peer.critic)
    # A batch of all pairs has them all, in whatever order.
    pairs = critics.Pairs(x, z)
    data = (pairs, pairs, jnp.float32(0))
    start = {"critic": {"params": params}, "log_ema": jnp.float32(0)}
    gradient = jax.grad(critics.Objective(chosen))(start, data, keys[0])
    peer.update(*(torch.from_numpy(np.array(value)) for value in (x, z)))
    # Plain descent at rate 1 moves the average, from 0 here.
    assert peer.log_ema.item() == pytest.approx(-float(gradient["log_ema"]), rel=1e-5)
    same_gradient(gradient["critic"]["params"], peer.critic)


def same_gradient(gradient, module):
    """Of every parameter; PyTorch's has been clipped to norm 1."""
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in leaves(gradient).values()))
    theirs = dict(module.named_parameters())
    for path, leaf in leaves(gradient).items():
        found = theirs[name_of(path)].grad.numpy().transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[leaf.ndim])
        np.testing.assert_allclose(found * max(norm, 1.0), leaf, atol=1e-4 * norm, rtol=1e-3)


def frozen():
    """Our undefended client of the small shape, and its weights."""
    defense = cases.DEFENSES["plain"](SMALL)
    state = init(defense, jax.random.key(0))
    return freeze(defense, state.params, state.statistics)[0], state.params["client"]


def test_the_decoder_has_the_same_loss_and_gradient():
    peer = peers.DecoderStep(SMALL, width=8, blocks=1, pool=4)
    image = cases.batch(4, SMALL)
    module, z = DecoderReader((16, 16, 3), 8, 1), jax.random.normal(jax.random.key(0), (4, 4, 4, 2 * SMALL.width))
    network = initialise(module, jax.random.key(1), z)["params"]
    copy(network, peer.decoder)

    def loss(network):
        guess, _ = module.apply({"params": network}, z, train=True, mutable=["batch_stats"])
        return image_mse(guess, image).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(network)
    assert peer.update(turned(z), turned(image.image)).item() == pytest.approx(float(value), abs=1e-5)
    same_gradient(gradient, peer.decoder)


def test_inversion_walks_the_same_way():
    shape, steps = dataclasses.replace(SMALL, count=2), 5
    release, params = frozen()
    peer = peers.Inversion(shape, steps)
    copy(params, peer.client)
    image, key = cases.batch(2, shape).image, jax.random.key(0)
    z = release(image, key)
    goal = descent.Goal(release, jnp.ones(z.shape[1:]))
    starts, setting = cases.elsewhere(image)[None], descent.Setting(0.01, 1e-3)
    found = descent.descend(goal, descent.Pixels(), None, starts, z[None], setting, steps, key)
    peer.goal = turned(z)
    np.testing.assert_allclose(peer().permute(0, 2, 3, 1).numpy(), found.unknown, atol=2e-3)


def test_distance_correlation_is_one_number_in_three_forms():
    x, z = (jax.random.normal(key, (6, 20)) for key in jax.random.split(jax.random.key(0)))
    known, gradient = jax.value_and_grad(distance_correlation, 1)(x, z)
    other, slow = jax.value_and_grad(cases.by_differences, 1)(x, z)
    their = torch.from_numpy(np.array(z)).requires_grad_(True)
    value = losses.distance_correlation(torch.from_numpy(np.array(x)), their)
    (found,) = torch.autograd.grad(value, their)
    assert value.item() == pytest.approx(float(known), abs=1e-5)
    assert float(other) == pytest.approx(float(known), abs=1e-5)
    np.testing.assert_allclose(found.numpy(), gradient, atol=1e-5)
    np.testing.assert_allclose(slow, gradient, atol=1e-5)


def test_every_peer_runs():
    table = peers.peers()
    assert set(table) <= set(cases.ours())
    for name in ("critic", "inversion", "decoder", "correlation", "forward", "matmul"):
        case = table[name](dataclasses.replace(SMALL, count=2))
        case.unit()
        assert case.pieces == (50 if name == "inversion" else 1)
