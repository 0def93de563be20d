"""Prepared pictures -> Data: tasks made from features, splits by identity and twin, the rendering of every split."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.data import digits, splits
from ani_jax.data.files import DataError
from ani_jax.data.prepared import Column, Examples, Store
from ani_jax.data.render import Painted, Pictures, Plain
from ani_jax.types import Data, Source

PIXELS = 2**27
"""How many pixels are read at most: 131,072 pictures of 32x32, 0.4 GB of bytes and, for the held-out floats, 0.5 GB."""

MANY = 1000
"""What has more values than this is a measurement or a name, not a class."""

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

    def sources(self, tasks: Sequence[str]) -> dict[str, str]:
        """Task -> the feature that it is made from, for all tasks but those that painting draws.

        Example:
            >>> Spec("x", (View("old", "age", ()),), painted=True).sources(("old", "gender", "ink"))
            {'old': 'age', 'gender': 'gender'}
        """
        viewed = {view.name: view.feature for view in self.views}
        return {task: viewed.get(task, task) for task in tasks if not (self.painted and task in DRAWN)}

    def column(self, task: str, columns: Mapping[str, Column]) -> Column:
        """A task's column, made from its feature's.

        Raises:
            DataError: the feature has a class that belongs to none of the task's.
        """
        for view in self.views:
            if view.name == task:
                return view.apply(self.name, columns[view.feature])
        return columns[task]


def load(
    spec: Spec,
    stored: Store,
    *,
    seed: int,
    image_size: int,
    primary: str,
    sensitive: Sequence[str],
    originals: int | None = None,
) -> Data:
    """Loads prepared pictures, split and ready to draw; a pure function of its arguments and the files.

    All official splits are pooled and dealt anew (METHODS 1), never dividing an identity or exact twins; what is in the vault
    depends on the identity's name or the picture's pixels alone. ``Batch.group`` is the identity where the data has one and it
    is no task, otherwise the picture.

    Args:
        spec: what to load.
        stored: where it lies.
        seed: decides splits and drawn colours; 0 or more.
        image_size: side of the pictures in pixels.
        primary: name of the task.
        sensitive: names of the attributes.
        originals: use at most so many pictures, a random sample; never more than ``PIXELS`` allow.

    Returns:
        Data named as in tfds.

    Raises:
        DataError: no such feature, a constant task, or too few pictures for the splits.
    """
    sources = spec.sources((primary, *sensitive))
    features: set[str] = {*sources.values(), *([spec.identity] if spec.identity else [])}
    limit = min(originals or PIXELS, PIXELS // image_size**2)
    examples = stored.read(sorted(features), image_size, limit)
    columns = {name: spec.column(name, examples.columns) for name in sources}
    owner = None
    if spec.identity in sources.values():
        # Whoever is to be recognised must be in every split, so then it is pictures that are dealt.
        columns, examples = _frequent(spec, columns, examples, sources)
    elif spec.identity:
        owner = examples.columns[spec.identity].values
    for name, column in columns.items():
        found, flag = np.unique(column.values), "primary" if name == primary else "sensitive"
        if len(found) > MANY:
            raise DataError(f"{flag}={name}: has {len(found):,} values; a task has at most {MANY:,}, so group them")
        if len(found) < 2:
            raise DataError(
                f"{flag}={name}: constant, all {len(column.values):,} pictures are "
                f"{column.names[found[0]]!r}; name another"
            )
    group = _groups(examples.content, owner)
    # Whoever is dealt: pictures by their pixels, identities by their names.
    known = examples.content
    if owner is not None:
        known = np.char.encode(examples.columns[spec.identity].names)[owner]  # type: ignore[index]
    # A drawn task is independent of the pictures: there is nothing to stratify by.
    stratum = columns[primary].values if primary in columns else np.zeros(len(group), np.int32)
    try:
        index = splits.split(seed, stratum, group, splits.locked(known.tolist()))
    except ValueError as error:
        raise DataError(f"dataset={spec.name}: {error}") from None
    render = (Painted if spec.painted else Plain)(primary, tuple(sensitive))
    everything = Pictures(examples.image, {name: column.values for name, column in columns.items()}, group)  # type: ignore[arg-type]
    own = {
        name: jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), everything) for name, rows in index.items()
    }
    drawn = {}
    for number, name in enumerate(("holdout", "validation", "test")):
        batch = jax.jit(render)(jax.random.fold_in(jax.random.key(seed), number), own[name])
        # jit sorts the names.
        drawn[name] = batch._replace(sensitive={attribute: batch.sensitive[attribute] for attribute in sensitive})
    tasks = {**{name: column.task(name) for name, column in columns.items()}, **(DRAWN if spec.painted else {})}
    return Data(
        defend=Source(own["defend"], render),
        auxiliary=Source(own["auxiliary"], render),
        **drawn,
        name=spec.name,
        primary=tasks[primary],
        sensitive=tuple(tasks[attribute] for attribute in sensitive),
    )


def balance(spec: Spec, stored: Store, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """How the classes of each task are distributed over all pictures, whoever is too rare for a task included.

    Args:
        spec: what to look at.
        stored: where it lies.
        tasks: names of tasks; the ones that painting draws are left out.

    Returns:
        Task -> class -> share; the largest share is what always naming the commonest class would score.

    Raises:
        DataError: no such feature, or a label out of range.
    """
    sources = spec.sources(tasks)
    columns = stored.columns(sorted(set(sources.values())))
    found = {}
    for name in sources:
        column = spec.column(name, columns)
        shares = np.bincount(column.values, minlength=len(column.names)) / len(column.values)
        found[name] = dict(zip(column.names, shares.tolist()))
    return found


def _groups(content: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    """Numbers that are equal for pictures of one identity and for exact twins, and whatever these connect."""
    from scipy import sparse
    from scipy.sparse import csgraph

    twins = np.unique(content, return_inverse=True)[1]
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
    # Whoever stays is counted anew: a class without pictures would make chance look lower than it is.
    number = np.cumsum(enough) - 1
    names = tuple(one for one, stays in zip(column.names, enough) if stays)
    columns[name] = Column(number[columns[name].values].astype(np.int32), names)
    return columns, examples._replace(image=examples.image[kept], content=examples.content[kept])
