"""Small clients, one of each kind of noise, and the folders that they are exported to."""

import atexit
import functools
import pathlib
import shutil
import tempfile
import types

import jax
import jax.numpy as jnp

from ani_jax.defenses.base import freeze
from ani_jax.deploy import artefact, export
from ani_jax.modules.cloud import CnnCloud
from ani_jax.modules.edge import SplitEdge
from ani_jax.modules.sender import Sender

SHAPE = (8, 8, 3)
KINDS = {
    "none": Sender(SplitEdge(2, 1)),
    "fresh": Sender(SplitEdge(2, 1), 2.0),
    "memoised": Sender(SplitEdge(2, 1), 2.0, 8, True),
}
"""By its noise, the network on the device."""


@functools.cache
def made(kind):
    """A client and its server with weights and statistics that training might have left."""
    client, server = KINDS[kind], CnnCloud(10, 2, depth=3)
    x, key = jnp.zeros((1, *SHAPE)), jax.random.key(0)
    variables = {"client": jax.jit(lambda: client.init(key, x, key, train=False))()}
    variables["server"] = jax.jit(lambda: server.init(key, jnp.zeros((1, 4, 4, 2)), train=False))()
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    # Variances are among them, so nothing is taken away.
    moved = [leaf + 0.3 * jax.random.uniform(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    variables = jax.tree.unflatten(tree, moved)
    params, statistics = (
        {party: of.get(name, {}) for party, of in variables.items()} for name in ("params", "batch_stats")
    )
    defense = types.SimpleNamespace(client=client, server=server, stochastic=kind != "none", memoised=client.memoised)
    grid = client.grid if kind != "none" else (None, None, 0)
    return *freeze(defense, params, statistics), grid


def card(release, grid, shape=SHAPE):
    return artefact.Card(
        defence="partition",
        dataset="digits",
        classes=tuple("0123456789"),
        image_shape=shape,
        noise="memoised" if release.memoised else "fresh" if release.stochastic else "none",
        key_words=export.key_words(release),
        **artefact.wire(export.feature_shape(release, shape), *grid),
    )


@functools.cache
def folder(kind):
    """Where that client was exported to; gone with the process."""
    place = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    release, predict, grid = made(kind)
    export.write(place, release, predict, card(release, grid), onnx=True)
    return place


def loaded(kind, secret):
    """The artefact on a device whose secret lies there."""
    return artefact.load(folder(kind), secret)


def images(count, seed=2):
    return jax.random.uniform(jax.random.key(seed), (count, *SHAPE))


def rms(z):
    return float(jnp.sqrt(jnp.square(z).mean()))
