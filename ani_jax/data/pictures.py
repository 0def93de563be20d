"""Prepared pictures -> Data: tasks made from features, splits by identity and twin, the rendering of every split."""

import dataclasses
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.data import digits, prepared, splits
from ani_jax.data.files import DataError
from ani_jax.data.prepared import Column, Examples
from ani_jax.data.render import Painted, Pictures, Plain
from ani_jax.types import Batch, Data, Source, Task

PIXELS = 2**27
"""How many pixels are read at most: 131,072 pictures of 32x32, 0.4 GB of bytes and, for the held-out floats, 0.5 GB."""

DRAWN = {task.name: task for task in (digits.INK, digits.PAPER)}
"""The attributes that painting draws."""


@dataclasses.dataclass(frozen=True)
class View:
    """A task made from a feature: which of the feature's classes make up each of the task's.

    Attributes:
        name: of the task.
        feature: that it is made from.
        classes: ``(class name, the feature's classes)`` in order; these are written as numbers from "0", whatever the
            feature calls them, and for numbers and texts as their values.
    """

    name: str
    feature: str
    classes: tuple[tuple[str, tuple[str, ...]], ...]

    def apply(self, dataset: str, column: Column) -> Column:
        """The task's column.

        Raises:
            DataError: the feature has a class that belongs to none of the task's.

        Example:
            >>> view = View("footwear", "label", (("no", ("0", "1")), ("yes", ("2",))))
            >>> view.apply("x", Column(np.array([2, 0, 1], np.int32), ("0", "1", "2"))).values.tolist()
            [1, 0, 0]
        """
        target = {source: number for number, (_, sources) in enumerate(self.classes) for source in sources}
        keys = [str(number) for number in range(len(column.names))] if column.numbered else column.names
        table = np.array([target.get(key, -1) for key in keys], np.int32)
        values = table[column.values]
        outside = np.flatnonzero(values < 0)
        if len(outside):
            row = int(outside[0])
            raise DataError(
                f"dataset={dataset}: {self.feature} {column.names[column.values[row]]!r} in row {row:,} is out of range "
                f"for {self.name}"
            )
        return Column(values, tuple(name for name, _ in self.classes))


@dataclasses.dataclass(frozen=True)
class Spec:
    """What must be known of prepared pictures besides their tfds name.

    Attributes:
        name: of the prepared data, with the config's where there are several.
        views: tasks made from features; any other name of a task is a feature's.
        identity: feature that says who is shown; splits never divide one, unless it is itself a task.
        least: an identity that is a task needs at least so many pictures.
        painted: grey pictures are painted in drawn inks on drawn papers, which become attributes.
    """

    name: str
    views: tuple[View, ...] = ()
    identity: str | None = None
    least: int = 1
    painted: bool = False


def load(
    spec: Spec,
    *,
    seed: int,
    image_size: int,
    primary: str,
    sensitive: Sequence[str],
    originals: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Data:
    """Loads prepared pictures, split and ready to draw; a pure function of its arguments and the files.

    All official splits are pooled and dealt anew (METHODS 1): stratified by the primary class, never dividing an identity
    or exact twins. ``Batch.group`` is the identity where the data has one and it is no task, otherwise the picture.

    Args:
        spec: what to load.
        seed: decides splits and drawn colours; 0 or more.
        image_size: side of the pictures in pixels.
        primary: name of the task.
        sensitive: names of the attributes.
        originals: use at most so many pictures, a random sample; never more than ``PIXELS`` allow.
        data_dir: where prepared data lies; ``None`` is tfds's own default.

    Returns:
        Data named as in tfds.

    Raises:
        DataError: not prepared, no such feature, a constant task, or too few pictures for the splits.
    """
    drawn = DRAWN if spec.painted else {}
    views = {view.name: view for view in spec.views}
    names = [name for name in (primary, *sensitive) if name not in drawn]
    sources = {name: views[name].feature if name in views else name for name in names}
    features: set[str] = {*sources.values(), *([spec.identity] if spec.identity else [])}
    limit = min(originals or PIXELS, PIXELS // image_size**2)
    examples = prepared.read(spec.name, sorted(features), image_size, data_dir, limit)
    columns = {
        name: views[name].apply(spec.name, examples.columns[feature]) if name in views else examples.columns[feature]
        for name, feature in sources.items()
    }
    owner = examples.columns[spec.identity] if spec.identity else None
    if spec.identity in sources.values():
        columns, examples = _frequent(spec, columns, examples, sources)
        owner = None
    for name, column in columns.items():
        _check_varied(name, "primary" if name == primary else "sensitive", column)
    group = _groups(examples.twins, None if owner is None else owner.values)
    stratum = columns[primary].values if primary in columns else np.zeros(len(group), np.int32)
    try:
        index = splits.split(seed, stratum, group)
    except ValueError as error:
        raise DataError(f"dataset={spec.name}: {error}") from None
    render = (Painted if spec.painted else Plain)(primary, tuple(sensitive))
    classes = {name: column.values for name, column in columns.items()}
    stored = Pictures(examples.image, classes, group)  # type: ignore[arg-type]
    tasks = {**{name: column.task(name) for name, column in columns.items()}, **drawn}
    return _data(spec.name, seed, stored, index, render, tasks)


def balance(
    spec: Spec, tasks: Sequence[str], data_dir: str | os.PathLike[str] | None = None
) -> dict[str, dict[str, float]]:
    """How the classes of each task are distributed over all pictures, whoever is too rare for a task included.

    Args:
        spec: what to look at.
        tasks: names of tasks; the ones that painting draws are left out.
        data_dir: where prepared data lies; ``None`` is tfds's own default.

    Returns:
        Task -> class -> share; the largest share is what always naming the commonest class would score.

    Raises:
        DataError: not prepared, no such feature, or a label out of range.
    """
    views = {view.name: view for view in spec.views}
    names = [name for name in tasks if not (spec.painted and name in DRAWN)]
    sources = {name: views[name].feature if name in views else name for name in names}
    columns = prepared.columns(spec.name, sorted(set(sources.values())), data_dir)
    found = {}
    for name, feature in sources.items():
        column = views[name].apply(spec.name, columns[feature]) if name in views else columns[feature]
        shares = np.bincount(column.values, minlength=len(column.names)) / len(column.values)
        found[name] = dict(zip(column.names, shares.tolist()))
    return found


def _data(
    name: str,
    seed: int,
    stored: Pictures,
    index: dict[str, np.ndarray],
    render: Painted | Plain,
    tasks: dict[str, Task],
) -> Data:
    key = jax.random.key(seed)

    def part(split: str) -> Pictures:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[index[split]]), stored)

    def once(number: int, split: str) -> Batch:
        batch = jax.jit(render)(jax.random.fold_in(key, number), part(split))
        # jit sorts the names.
        return batch._replace(sensitive={attribute: batch.sensitive[attribute] for attribute in render.sensitive})

    return Data(
        defend=Source(part("defend"), render),
        budget=once(0, "budget"),
        auxiliary=Source(part("auxiliary"), render),
        validation=once(1, "validation"),
        test=once(2, "test"),
        name=name,
        primary=tasks[render.primary],
        sensitive=tuple(tasks[attribute] for attribute in render.sensitive),
    )


def _groups(twins: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    """Numbers that are equal for pictures of one identity and for exact twins, and whatever these connect."""
    from scipy import sparse
    from scipy.sparse import csgraph

    if owner is None:
        return twins.astype(np.int32)
    # Identities and pixels are the two sides of a graph whose edges are the pictures.
    people = int(owner.max()) + 1
    size = people + int(twins.max()) + 1
    graph = sparse.coo_array((np.ones(len(twins), np.int8), (owner, people + twins)), shape=(size, size))
    return csgraph.connected_components(graph, directed=False)[1][owner].astype(np.int32)


def _frequent(
    spec: Spec, columns: dict[str, Column], examples: Examples, sources: dict[str, str]
) -> tuple[dict[str, Column], Examples]:
    """Only the pictures of identities that have enough of them, for an identity that is a task."""
    (name,) = (name for name, feature in sources.items() if feature == spec.identity)
    column = columns[name]
    enough = np.bincount(column.values, minlength=len(column.names)) >= spec.least
    kept = np.flatnonzero(enough[column.values])
    if not len(kept):
        raise DataError(f"dataset={spec.name}: no {name} has {spec.least} pictures or more")
    columns = {key: value._replace(values=value.values[kept]) for key, value in columns.items()}
    number = np.cumsum(enough) - 1
    names = tuple(one for one, stays in zip(column.names, enough) if stays)
    columns[name] = Column(number[columns[name].values].astype(np.int32), names)
    twins = np.unique(examples.twins[kept], return_inverse=True)[1]
    return columns, examples._replace(image=examples.image[kept], twins=twins)


def _check_varied(name: str, flag: str, column: Column) -> None:
    found = np.unique(column.values)
    if len(found) < 2:
        raise DataError(
            f"{flag}={name}: constant, all {len(column.values):,} pictures are {column.names[found[0]]!r}; name another"
        )
