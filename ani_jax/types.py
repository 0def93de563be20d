"""The vocabulary that every floor shares: batches, splits, releases and what an attacker is granted.

Images are NHWC floats in [0, 1], labels are integers counted from 0, and ``z`` (the *features*, called "smashed data" in
the split-learning literature) is whatever leaves the device. Everything here is plain data or a pytree of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Images = Float[Array, "b h w c"]
"""Images in [0, 1]: batch, height, width, channels."""
Inputs = Float[Array, "b ..."]
"""What a client is given: images, or vectors (b, d) of any scale."""
Labels = Int[Array, " b"]
"""Class indices counted from 0."""
Logits = Float[Array, "b k"]
"""Unnormalised log-probabilities over k classes."""
Features = Float[Array, "b ..."]
"""What leaves the device, usually written z."""
PRNGKey = Key[Array, ""]
"""One typed key, as made by ``jax.random.key``."""


class Batch(NamedTuple):
    """Examples with the answer that the task needs and the attributes that it does not.

    Attributes:
        image: what a client is given: pixels in [0, 1], or vectors; of no numbers (b, 0) where it was not recorded.
        label: the primary task's class of each image.
        sensitive: attribute name -> class of each image.
        group: which original (a scan, an identity) each image shows; intervals are clustered by it. ``None`` means that
            every image is its own original.
        z: what was sent of each, where that is recorded because there is no client to ask.
        answer: the class that the provider answered to it, likewise.
    """

    image: Inputs
    label: Labels
    sensitive: Mapping[str, Labels]
    group: Labels | None = None
    z: Features | None = None
    answer: Labels | None = None


class Sent(NamedTuple):
    """What a client module returns: the features, and quantities that only the training losses may see.

    Attributes:
        z: the features that leave the device.
        aux: named arrays for the losses (a noise scale, say); never sent.
    """

    z: Features
    aux: Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task: its name and the names of its classes, in order.

    Example:
        >>> Task("ink", ("red", "green")).classes
        2
    """

    name: str
    class_names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes K; chance is 1/K."""
        return len(self.class_names)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Source:
    """A split that is drawn anew at every use: stored originals and the pure function that renders them.

    A pytree (``render`` is static), so it passes through ``jit`` and jitted code compiles once for every split of equal shape.

    Attributes:
        stored: a pytree of arrays with one leading axis of originals.
        render: ``(key, rows) -> Batch``, where ``rows`` is ``stored`` gathered at some index. Hashable, deterministic in the key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> images = Batch(jnp.zeros((6, 2, 2, 1)), jnp.arange(6), {})
        >>> source = Source(images, fixed)
        >>> source.draw(jax.random.key(0), 4).label.shape
        (4,)
    """

    stored: Any
    render: Callable[[PRNGKey, Any], Batch] = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """How many originals the split holds."""
        return jax.tree.leaves(self.stored)[0].shape[0]

    def batch(self, key: PRNGKey, index: Int[Array | np.ndarray, " b"]) -> Batch:
        """Renders the originals at ``index`` with fresh randomness from ``key``."""
        return self.render(key, jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self.stored))

    def draw(self, key: PRNGKey, count: int) -> Batch:
        """Renders ``count`` originals chosen uniformly with replacement; both choices come from ``key``."""
        # Two keys: with one, which original is drawn would be tied to how it is rendered.
        index_key, render_key = jax.random.split(key)
        return self.batch(render_key, jax.random.randint(index_key, (count,), 0, self.size))


def fixed(key: PRNGKey, rows: Batch) -> Batch:
    """The ``render`` of a split whose images are what they are: returns ``rows`` and ignores the key."""
    del key
    return rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Data:
    """One data set, split by original: who may see what (see ``data/splits.py`` for the fractions).

    Attributes:
        defend: trains client, server and co-trained adversaries.
        holdout: the tenth of ``defend`` on which a ceiling is watched; nothing is trained on it.
        auxiliary: what an attacker owns.
        validation: selects attackers and checkpoints.
        test: reports, touched once.
        name: catalogue name (static).
        primary: the task that the user wants solved (static).
        sensitive: the attributes in ``Batch.sensitive`` (static).
    """

    defend: Source
    holdout: Batch
    auxiliary: Source
    validation: Batch
    test: Batch
    name: str = dataclasses.field(metadata={"static": True})
    primary: Task = dataclasses.field(metadata={"static": True})
    sensitive: tuple[Task, ...] = dataclasses.field(metadata={"static": True})

    @property
    def granted(self) -> "Data":
        """The same where attackers own what trains the defence, too, and draw it as they draw their own: a stress."""
        stored = jax.tree.map(lambda *parts: jnp.concatenate(parts), self.auxiliary.stored, self.defend.stored)
        return dataclasses.replace(self, auxiliary=dataclasses.replace(self.auxiliary, stored=stored))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Release:
    """What leaves the device, as a pure function: ``release(x, key) -> z``.

    A pytree whose only leaves are ``variables``: attacks compiled for one release serve every other release of the same
    architecture. The callables are static, so they must be hashable and equal for equal architectures.

    Attributes:
        variables: weights and statistics, traced.
        apply: ``(variables, x, key) -> z``.
        stochastic: whether two calls with different keys may differ.
        mean: ``(variables, x) -> z``, the expectation over the noise, where the release declares it.
        log_prob: ``(variables, z, x) -> (b,)``, log density of z given x in nats, where the release declares it.
        stddev: ``(variables, x) -> stddev`` of each element of z, where its noise is Gaussian and independent.
        memoised: whether its noise is a function of the image and of the device, which ``key`` then is: asked again, a device
            says the same again (see :mod:`ani_jax.modules.pseudorandom`).
        given: ``(variables, x, unit) -> z``, what is sent with standard normal ``unit`` of z's shape in place of noise of the
            client's own, where the release can say: then a device may draw that as it pleases.
        capacity: ``(variables, elements) -> nats``, more than which no query of so many elements can say of any image, where
            noise of a declared size stands beside features of a declared range, or a grid has so many values.
    """

    variables: Any
    apply: Callable[..., Features] = dataclasses.field(metadata={"static": True})
    stochastic: bool = dataclasses.field(default=False, metadata={"static": True})
    mean: Callable[..., Features] | None = dataclasses.field(default=None, metadata={"static": True})
    log_prob: Callable[..., Array] | None = dataclasses.field(default=None, metadata={"static": True})
    stddev: Callable[..., Features] | None = dataclasses.field(default=None, metadata={"static": True})
    memoised: bool = dataclasses.field(default=False, metadata={"static": True})
    given: Callable[..., Features] | None = dataclasses.field(default=None, metadata={"static": True})
    capacity: Callable[..., float] | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def varies(self) -> bool:
        """Whether a device that is asked about the same image again may say something else."""
        return self.stochastic and not self.memoised

    def __call__(self, x: Inputs, key: PRNGKey) -> Features:
        """Sends a batch of images through the client; one key, per-example noise."""
        return self.apply(self.variables, x, key)


class Knowledge(NamedTuple):
    """What the threat model grants an attacker (METHODS 5); ``None`` is not granted.

    Attributes:
        release: the client, to query and, where it is a JAX function, to differentiate; without it, attackers have rows of
            what it sent.
        predict: the provider's own network, ``predict(z) -> logits``; a pytree callable.
    """

    release: Release | None = None
    predict: Callable[[Features], Logits] | None = None
