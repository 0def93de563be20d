"""How stored pictures become batches: pure functions of a key and the rows, hashable, so that they run inside the step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ani_jax.data import digits
from ani_jax.data.augment import augment
from ani_jax.types import Batch, Data, Labels, PRNGKey, Source, Task


class Pictures(NamedTuple):
    """Stored originals.

    Attributes:
        image: grey or colour: bytes, a quarter of the memory of floats, or floats in [0, 1].
        classes: task name -> class of each picture.
        group: identity, or the picture's own number; exact twins share one.
    """

    image: UInt8[Array, "n size size c"] | Float[Array, "n size size c"]
    classes: Mapping[str, Labels]
    group: Labels


@dataclasses.dataclass(frozen=True)
class Plain:
    """Shows pictures as they are; grey ones get three equal channels.

    Attributes:
        primary: which of the classes is the task.
        sensitive: which are the attributes.

    Example:
        >>> rows = Pictures(jnp.full((2, 4, 4, 1), 255, jnp.uint8), {"a": jnp.array([0, 1])}, jnp.arange(2))
        >>> batch = Plain("a", ())(jax.random.key(0), rows)
        >>> batch.image.shape, float(batch.image.max())
        ((2, 4, 4, 3), 1.0)
    """

    primary: str
    sensitive: tuple[str, ...]

    def __call__(self, key: PRNGKey, rows: Pictures) -> Batch:
        """Ignores the key."""
        del key
        image = jnp.broadcast_to(rows.image, (*rows.image.shape[:3], 3)).astype(jnp.float32)
        image = image / 255 if rows.image.dtype == jnp.uint8 else image
        return _batch(self, image, rows.classes, rows.group)


@dataclasses.dataclass(frozen=True)
class Painted:
    """Paints grey pictures in the inks and on the papers of ``digits``, drawn anew and independent of everything.

    Example ``i`` of a batch depends on ``fold_in(key, i)`` and its row only.

    Attributes:
        primary: the task: one of the classes, "ink" or "paper".
        sensitive: the attributes, likewise.

    Example:
        >>> rows = Pictures(jnp.zeros((2, 4, 4, 1), jnp.uint8), {"a": jnp.array([0, 1])}, jnp.arange(2))
        >>> batch = Painted("a", ("ink",))(jax.random.key(0), rows)
        >>> batch.image.shape, sorted(batch.sensitive)
        ((2, 4, 4, 3), ['ink'])
    """

    primary: str
    sensitive: tuple[str, ...]

    def __call__(self, key: PRNGKey, rows: Pictures) -> Batch:
        """Draws ink and paper of every row."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows.image.shape[0]))
        # Drawn here and not stored, so that every use of a picture shows it in other colours.
        counts = jnp.array([digits.INK.classes, digits.PAPER.classes])
        ink, paper = jax.vmap(lambda one: jax.random.randint(one, (2,), 0, counts))(keys).T
        # What is written is bright in these sets, as ink is 1 in a mask.
        stroke = rows.image[..., 0].astype(jnp.float32) / 255
        classes = {**rows.classes, digits.INK.name: ink, digits.PAPER.name: paper}
        return _batch(self, digits.tint(stroke, ink, paper), classes, rows.group)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Calls another of a rendering's attributes the task.

    Attributes:
        render: draws the batch.
        former: what its label is called.
        primary: the task: the former one or one of its attributes.
        sensitive: the attributes, likewise.
    """

    render: Callable[[PRNGKey, Any], Batch]
    former: str
    primary: str
    sensitive: tuple[str, ...]

    def __call__(self, key: PRNGKey, rows: Any) -> Batch:
        """Renders, then renames."""
        return self.rename(self.render(key, rows))

    def rename(self, batch: Batch) -> Batch:
        """The same examples with the chosen label and attributes."""
        return _batch(self, batch.image, {**batch.sensitive, self.former: batch.label}, batch.group)


@dataclasses.dataclass(frozen=True)
class Augmented:
    """Augments what another rendering draws.

    Attributes:
        render: draws the batch.
        names: see :func:`ani_jax.data.augment.augment`.
    """

    render: Callable[[PRNGKey, Any], Batch]
    names: tuple[str, ...]

    def __call__(self, key: PRNGKey, rows: Any) -> Batch:
        """Renders and augments with keys of their own."""
        render_key, augment_key = jax.random.split(key)
        batch = self.render(render_key, rows)
        return batch._replace(image=augment(augment_key, batch.image, self.names))


def choose(data: Data, primary: str, sensitive: tuple[str, ...]) -> Data:
    """The same data with another task and other attributes, out of those that it has.

    Splits stay those of the former task.

    Args:
        data: what to choose from.
        primary: name of the task.
        sensitive: names of the attributes, in this order.

    Returns:
        ``data`` itself where nothing changes.

    Raises:
        KeyError: for a name that the data does not have.

    Example:
        >>> chosen = choose(digits.load(image_size=8), "ink", ("digit",))
        >>> chosen.primary.name, sorted(chosen.test.sensitive), int(chosen.test.label.max())
        ('ink', ['digit'], 3)
    """
    tasks: dict[str, Task] = {task.name: task for task in (data.primary, *data.sensitive)}
    if primary == data.primary.name and sensitive == tuple(task.name for task in data.sensitive):
        return data

    def source(split: Source) -> Source:
        return Source(split.stored, Chosen(split.render, data.primary.name, primary, sensitive))

    rename = Chosen(data.defend.render, data.primary.name, primary, sensitive).rename
    return dataclasses.replace(
        data,
        defend=source(data.defend),
        holdout=rename(data.holdout),
        auxiliary=source(data.auxiliary),
        validation=rename(data.validation),
        test=rename(data.test),
        primary=tasks[primary],
        sensitive=tuple(tasks[name] for name in sensitive),
    )


def _batch(names: Any, image: Any, classes: Mapping[str, Labels], group: Labels | None) -> Batch:
    return Batch(image, classes[names.primary], {name: classes[name] for name in names.sensitive}, group)
