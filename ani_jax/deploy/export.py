"""Writes an exported folder: client and server as programs of any batch, their weights beside them."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, UInt32

from ani_jax.attacks.query import summarise
from ani_jax.deploy.artefact import CARD, DECLARED, GRAPH, WEIGHTS, Card, needed
from ani_jax.deploy.translation import onnx_bytes
from ani_jax.modules.pseudorandom import SECRET, fresh, normal
from ani_jax.records import to_json
from ani_jax.types import Features, Images, Release

PLATFORMS = ("cpu", "cuda", "tpu")
VERSIONS = ("ani-jax", "jax", "jaxlib")
THREEFRY = 2
"""Words of a jax key, of which a client draws that does not say what it makes of given noise."""


def key_words(release: Release) -> int:
    """How many words of randomness the exported client takes."""
    return 0 if not release.stochastic else SECRET if release.given else THREEFRY


def feature_shape(release: Release, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the features of one image."""
    return jax.eval_shape(release, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), jax.random.key(0)).shape[1:]


def keyed(release: Release, x: Images, words: UInt32[Array, " k"]) -> Features:
    """What a client sends, its noise drawn from words rather than from a key of jax's: 64 bits could be searched.

    Args:
        release: the client.
        x: images.
        words: as many as :func:`key_words` says; where noise is memoised, the secret of the device.
    """
    if not release.stochastic:
        return release(x, jax.random.key(0))
    if release.given is None:
        return release(x, jax.random.wrap_key_data(words))
    shape = feature_shape(release, x.shape[1:])
    draw = normal if release.memoised else fresh
    unit = draw(words, x, math.prod(shape)).reshape(x.shape[0], *shape)
    return release.given(release.variables, x, unit)


def write(
    folder: Path,
    release: Release,
    predict: jax.tree_util.Partial,
    card: Card,
    *,
    onnx: bool = False,
    attacker: Any = None,
) -> Card:
    """Writes programs, weights and card.

    Args:
        folder: which is there, and empty but for what else the card shall hold the hashes of.
        release: the client.
        predict: the provider's network, a ``Partial`` of its variables, as :func:`ani_jax.defenses.base.freeze` gives it.
        card: what is known of them; hashes and versions are added.
        onnx: also write the client as an ONNX graph.
        attacker: a pytree whose ``at_once`` makes something of summarised features; None for none.

    Returns:
        The card as it was written.

    Raises:
        ValueError: one line: a package is missing, or the client cannot be an ONNX graph.
    """
    needed(f"output={folder}")
    from safetensors.numpy import save

    parties = {"client": release.variables, "server": predict.args[0]}
    parties |= {} if attacker is None else {"attacker": attacker}
    weights = {party: named(party, tree) for party, tree in parties.items()}
    (batch,) = export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, *card.image_shape), jnp.float32)
    z = jax.ShapeDtypeStruct((batch, *card.feature_shape), jnp.float32)
    words = jax.ShapeDtypeStruct((card.key_words,), jnp.uint32)
    programs: dict[str, tuple[str, Callable[..., Array], tuple[Any, ...]]] = {
        "client": (
            "client",
            lambda own, x, words: keyed(dataclasses.replace(release, variables=own), x, words),
            (x, words),
        ),
        "server": ("server", predict.func, (z,)),
        **(
            {} if attacker is None else {"attacker": ("attacker", lambda own, z: own.at_once(summarise(z[None])), (z,))}
        ),
        **{
            name: ("client", declared, (z, x) if name == "log_prob" else (x,))
            for name in DECLARED
            if (declared := getattr(release, name)) is not None
        },
    }
    for name, (party, function, specs) in programs.items():
        tree = jax.tree.structure(parties[party])

        def program(flat: Mapping[str, Array], *args: Array, tree=tree, party=party, function=function) -> Array:
            # Attackers differentiate by images; the weights' gradients would only cost them time.
            leaves = [jax.lax.stop_gradient(flat[name]) for name in weights[party]]
            return function(jax.tree.unflatten(tree, leaves), *args)

        like = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights[party].items()}
        with placeless():
            exported = export.export(jax.jit(program), platforms=PLATFORMS)(like, *specs)
            (folder / f"{name}.jax").write_bytes(exported.serialize(vjp_order=1))
    for party, flat in weights.items():
        arrays = {name: np.asarray(leaf) for name, leaf in flat.items()}
        (folder / WEIGHTS.format(party)).write_bytes(save(arrays))
    if onnx:
        card = dataclasses.replace(card, onnx=onnx_graph(folder, release, card))
    return seal(folder, card)


@contextlib.contextmanager
def placeless() -> Iterator[None]:
    """Leaves out of programs where they were written: files would hold this machine's paths, and no two be alike."""
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def named(party: str, tree: Any) -> dict[str, Array]:
    """The leaves of a tree by where they are in it: "client/params/first/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join((party, jax.tree_util.keystr(path, simple=True, separator="/"))): leaf for path, leaf in leaves}


def onnx_graph(folder: Path, release: Release, card: Card) -> str:
    """Writes the ONNX graph of a client, and returns what it takes beside images."""
    if release.stochastic and release.given is None:
        raise ValueError("onnx=True: this client draws its noise by itself and cannot be given any; export without it")
    if release.stochastic:
        function: Callable[..., Array] = lambda x, unit: release.given(release.variables, x, unit)  # type: ignore[misc] # noqa: E731
        shapes = {"images": card.image_shape, "unit": card.feature_shape}
    else:
        function, shapes = lambda x: release(x, jax.random.key(0)), {"images": card.image_shape}
    (folder / GRAPH).write_bytes(onnx_bytes(function, shapes))
    if not release.stochastic:
        return "images alone"
    whose = (
        "of every query"
        if not release.memoised
        else "that the loader computes of image and secret (modules/pseudorandom.py)"
    )
    return f"unit: standard normal noise, {('b', *card.feature_shape)}, {whose}".replace("'", "")


def seal(folder: Path, card: Card) -> Card:
    """Writes the card of all that is in the folder, and returns it."""
    files = sorted(path for path in folder.iterdir() if path.name != CARD)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    card = dataclasses.replace(card, hashes=hashes, made_with=versions)
    (folder / CARD).write_text(to_json(card))
    return card
