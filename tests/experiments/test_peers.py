"""PyTorch's transcriptions compute what ours do: same weights, same batch, same losses over several updates."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ani_jax.training.dispatch import Work, advance
from experiments import cases
from experiments.peers import cases as peers
from experiments.sides import Shape

SMALL = Shape(batch=8, width=8, image=16, classes=3)


def leaves(tree, path=()):
    """Path -> array of a tree of ours."""
    if not hasattr(tree, "items"):
        return {path: np.asarray(tree)}
    return {key: leaf for name, part in tree.items() for key, leaf in leaves(part, (*path, name)).items()}


def copy(params, module):
    """Gives PyTorch's module our parameters; every one of them, and no other."""
    ours, theirs = leaves(params), dict(module.named_parameters())
    assert len(ours) == len(theirs)
    assert sum(leaf.size for leaf in ours.values()) == sum(value.numel() for value in theirs.values())
    for path, leaf in ours.items():
        name = ".".join((*path[:-1], {"kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])))
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
        with torch.no_grad():
            theirs[name].copy_(torch.from_numpy(leaf.transpose(axes).copy()))


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
    *((name, "cnn") for name in peers.TRAININGS),
    *(pytest.param(name, "resnet", marks=pytest.mark.slow) for name in ("plain", "funnel", "partition")),
]


@pytest.mark.parametrize(("name", "backbone"), NAMES)
def test_three_steps_have_the_same_losses(name, backbone):
    shape = dataclasses.replace(SMALL, backbone=backbone)
    defense, state, peer = pair(name, shape)
    held = cases.batch(shape.batch, shape)
    work = Work(defense, cases._phase(defense), shape.batch)
    step = jax.jit(functools.partial(advance, work, draw=lambda _: held))
    for index in range(3):
        if name == "ani":
            noise = jax.random.normal(jax.random.fold_in(state.key, index), held.image.shape)
            given = torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2)
            peer.client.draw = lambda _, given=given: given
        state, outcome = step(state)
        # A difference of 1e-7 grows under Adam: what is equal is the first loss, and nearly so the next two.
        assert peer().item() == pytest.approx(float(outcome.metrics["loss"]), rel=(1e-4, 2e-3, 1e-2)[index], abs=1e-4)
