"""Pictures of your own: arrays, or a folder of files; they become data in the way that prepared pictures do.

data = from_arrays(images, label, sensitive={"ink": ink}, group=writer)
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ani_jax.data import pictures
from ani_jax.data.entry import Entry
from ani_jax.data.files import PICTURES, DataError, decode, digest
from ani_jax.data.pictures import Spec
from ani_jax.data.prepared import Column, Examples, column, shrunk
from ani_jax.types import Data

PREFIX = "folder:"
"""How the name of a data set begins that lies in a folder."""
TABLE, PATH = "labels.csv", "path"
"""A folder's table where it has one, and the column of it that names the pictures, relative to the folder."""
FOLDERS = "label"
"""What the task is called where a picture's folder is its class."""
OWNER = "group"
"""What the identity of :func:`from_arrays` is called."""


def from_arrays(
    images: Any,
    label: Any,
    sensitive: Mapping[str, Any] | None = None,
    group: Any = None,
    seed: int = 0,
    *,
    image_size: int | None = None,
    primary: str = "label",
    name: str = "arrays",
) -> Data:
    """Data for audits and defences from arrays in memory.

    Args:
        images: (n, height, width), or with 1 or 3 channels last; uint8, or floats in [0, 1]. Their central square is taken; grey
            ones get three equal channels.
        label: (n,) of the task: integers, truth values or texts, each value a class.
        sensitive: name -> the same of an attribute.
        group: (n,) who is shown, if several images show one: no identity is divided between splits. Exact twins never are.
        seed: decides the splits; 0 or more, from 100 on for tuning, which never sees the vault.
        image_size: side of the images in pixels; None keeps the shorter of theirs.
        primary: what the task is called.
        name: what the data is called.

    Returns:
        The data, split by original as :mod:`ani_jax.data.splits` says: 36% train the defence, attackers learn from 30%.

    Raises:
        DataError: shapes, kinds or lengths do not fit, images are not in [0, 1], a task has one class alone or a thousand, or
            there are too few images for the splits.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> scans = load_digits()
        >>> data = from_arrays(scans.images / 16, scans.target, sensitive={"odd": scans.target % 2})
        >>> data.test.image.shape[1:], data.primary.classes, [task.name for task in data.sensitive]
        ((8, 8, 3), 10, ['odd'])
    """
    if seed < 0:
        raise DataError(f"seed={seed}: must be 0 or more")
    if not isinstance(sensitive or {}, Mapping):
        raise DataError(
            f"sensitive: {type(sensitive).__name__}; allowed: a dict of name -> values, one for every image"
        )
    pixels = pixels_of(images)
    tasks = {primary: label, **(sensitive or {})}
    if primary in (sensitive or {}) or OWNER in tasks:
        raise DataError(f"sensitive: {primary!r} is the task and {OWNER!r} the identity; name attributes otherwise")
    given = {**tasks, **({} if group is None else {OWNER: group})}
    columns = {}
    for key, values in given.items():
        values = np.asarray(values)
        if values.shape != (len(pixels),):
            raise DataError(f"{key}: shape {values.shape}; allowed: ({len(pixels)},), a value for every image")
        columns[key] = column("from_arrays", key, values)
    spec = Spec(name, identity=None if group is None else OWNER)
    size = min(pixels.shape[1:3]) if image_size is None else image_size
    if size < 1:
        raise DataError(f"image_size={size}: must be 1 or more")
    store = Arrays(pixels, columns)
    return pictures.load(spec, store, seed=seed, image_size=size, primary=primary, sensitive=tuple(sensitive or {}))


def entry(name: str, primary: str | None = None, group: str | None = None) -> Entry:
    """What the catalogue says of a folder.

    Args:
        name: "folder:PATH".
        primary: name of the task; None is "label", or the only column there is.
        group: name of the column that says who is shown; None where nothing does.

    Raises:
        DataError: the folder cannot be used, has no such column, or no ``primary`` was given where it has several.
    """
    store = Folder(pathlib.Path(name.removeprefix(PREFIX)).expanduser(), group)
    tasks = tuple(task for task in store.tasks if task != group)
    if group is not None and group not in store.tasks:
        raise DataError(f"group_column={group}: must be one of {', '.join(store.tasks)}")
    chosen = primary or (FOLDERS if FOLDERS in tasks or not tasks else tasks[0])
    if primary is None and chosen != FOLDERS and len(tasks) > 1:
        raise DataError(f"primary=: {name} has the columns {', '.join(tasks)}; name the one to predict")
    if chosen not in tasks:
        raise DataError(f"primary={chosen}: must be one of {', '.join(tasks)}")
    size = len(store.table[PATH])
    others = tuple(task for task in tasks if task != chosen)
    return Entry(
        name=name,
        primary=chosen,
        sensitive=(),
        others=others,
        size=size,
        licence="yours",
        description="pictures in a folder",
        obtain="it is there",
        spec=Spec(name, identity=group),
        store=store,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Pictures in memory, to be read like prepared ones.

    Attributes:
        pixels: (n, height, width, 1 or 3), uint8 or floats in [0, 1].
        given: column by name.
    """

    pixels: np.ndarray
    given: Mapping[str, Column]

    def read(self, features: Sequence[str], image_size: int, limit: int | None = None) -> Examples:
        """See :meth:`ani_jax.data.prepared.Stored.read`."""
        rows = _some(len(self.pixels), limit)
        image = np.stack([shrunk(self.pixels[row], image_size) for row in rows])
        content = np.array([digest(self.pixels[row]).hex().encode() for row in rows])
        return Examples(image, _columns(self.given, features, rows), content, 0)

    def columns(self, features: Sequence[str]) -> dict[str, Column]:
        """The named features of every picture."""
        return {feature: self.given[feature] for feature in features}


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures in files: in a folder a class, or listed in ``labels.csv``.

    Attributes:
        path: the folder.
        group: column that says who is shown; None where nothing does.
    """

    path: pathlib.Path
    group: str | None = None

    # Read once for whoever holds this folder: every row is looked up in it.
    @functools.cached_property
    def table(self) -> dict[str, np.ndarray]:
        """Columns of text, that of the pictures' paths among them.

        Raises:
            DataError: no such folder, no picture, no column of paths, an empty cell, or a file that is not there.
        """
        flag = f"dataset={PREFIX}{self.path}"
        if not self.path.is_dir():
            raise DataError(f"{flag}: no such folder")
        if (self.path / TABLE).exists():
            found = listed(self.path / TABLE)
        else:
            files = [file for file in sorted(self.path.glob("*/**/*")) if file.suffix.lower() in PICTURES]
            inner = [file.relative_to(self.path) for file in files]
            found = {
                PATH: np.array([file.as_posix() for file in inner], str),
                FOLDERS: np.array([file.parts[0] for file in inner], str),
            }
        if not len(found[PATH]):
            raise DataError(f"{flag}: holds neither a {TABLE} with rows nor folders of {', '.join(PICTURES)}")
        missing = set(found[PATH].tolist()) - {path for path in found[PATH].tolist() if (self.path / path).is_file()}
        top = self.path.resolve()
        outside = {path for path in found[PATH].tolist() if not (top / path).resolve().is_relative_to(top)}
        for what, paths in (("is outside the folder", outside), ("is not there", missing)):
            if paths:
                raise DataError(f"{flag}: {min(paths)} {what}; {TABLE} lists files below its own folder")
        return found

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the columns that may be a task."""
        return tuple(name for name in self.table if name != PATH)

    @property
    def contents(self) -> str:
        """Sixteen hexadecimal digits of everything in it: names, labels, pictures."""
        table, found = self.table, hashlib.sha256()
        for name, values in sorted(table.items()):
            found.update("\0".join((name, *values.tolist())).encode())
        for path in sorted(set(table[PATH].tolist())):
            found.update(hashlib.sha256((self.path / path).read_bytes()).digest())
        return found.hexdigest()[:16]

    def read(self, features: Sequence[str], image_size: int, limit: int | None = None) -> Examples:
        """See :meth:`ani_jax.data.prepared.Stored.read`; here a picture that cannot be decoded is named, not skipped."""
        table = self.table
        rows, columns = _some(len(table[PATH]), limit), self.columns(features)

        def one(row: int) -> tuple[np.ndarray, bytes]:
            try:
                pixels = decode((self.path / table[PATH][row]).read_bytes())
            except ValueError as error:
                raise DataError(f"dataset={PREFIX}{self.path}: {table[PATH][row]} {error}") from None
            # Of all pixels: pictures that differ may become equal when they shrink.
            return shrunk(pixels, image_size), digest(pixels).hex().encode()

        # Pillow decodes outside Python's lock, so threads are enough.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(one, rows.tolist()))
        # Grey pictures among coloured ones get their channels here.
        channels = max(image.shape[-1] for image, _ in found)
        image = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image, _ in found])
        return Examples(image, _columns(columns, features, rows), np.array([key for _, key in found]), 0)

    def columns(self, features: Sequence[str]) -> dict[str, Column]:
        """The named features of every picture."""
        table, place = self.table, f"dataset={PREFIX}{self.path}"
        return {feature: column(place, feature, table[feature]) for feature in features}


def listed(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A table's columns as text.

    Args:
        path: of a ``labels.csv``; errors name the folder that it lies in.

    Raises:
        DataError: it cannot be read, has no column of paths or nothing beside it, or an empty cell.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    # pandas raises many kinds on what is not a table, an empty file and wrong bytes among them.
    except (ValueError, OSError) as error:
        raise DataError(
            f"dataset={PREFIX}{path.parent}: {TABLE} cannot be read ({' '.join(str(error).split())})"
        ) from None
    if PATH not in frame or frame.shape[1] < 2:
        raise DataError(
            f"dataset={PREFIX}{path.parent}: {TABLE} has the columns {', '.join(map(str, frame.columns))}; "
            f"it needs {PATH!r} and at least one to predict"
        )
    for name in frame:
        if (empty := np.flatnonzero((frame[name].isna() | (frame[name] == "")).to_numpy())).size:
            raise DataError(f"dataset={PREFIX}{path.parent}: {TABLE} has no {name} in line {empty[0] + 2}")
    return {str(name): frame[name].to_numpy(str) for name in frame}


def pixels_of(images: Any) -> np.ndarray:
    """Images as (n, height, width, 1 or 3), uint8 or float32 in [0, 1].

    Raises:
        DataError: they cannot be seen so.

    Example:
        >>> pixels_of(np.zeros((5, 4, 3))).shape
        (5, 4, 3, 1)
    """
    try:
        pixels = np.asarray(images)
    except ValueError:
        # Numpy's own words would not say which argument.
        raise DataError("images: of different shapes; allowed: one array, so bring all to one size") from None
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not pixels.size:
        shape = np.shape(images)
        raise DataError(f"images: shape {shape}; allowed: (n, height, width), or with 1 or 3 channels last, none empty")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise DataError(f"images: {pixels.dtype}; allowed: uint8, or floats in [0, 1]")
    if not np.isfinite(pixels).all():
        raise DataError("images: not every number is finite; allowed: uint8, or floats in [0, 1]")
    if (low := float(pixels.min())) < 0 or (high := float(pixels.max())) > 1:
        found = f"{low:g}" if low < 0 else f"{high:g}"
        raise DataError(f"images: floats of {found}; allowed: [0, 1], so divide by the largest there can be")
    return pixels.astype(np.float32)


def _some(count: int, limit: int | None) -> np.ndarray:
    """All rows, or as many as are allowed: a sample, the same whoever asks."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))


def _columns(columns: Mapping[str, Column], features: Sequence[str], rows: np.ndarray) -> dict[str, Column]:
    return {feature: columns[feature]._replace(values=columns[feature].values[rows]) for feature in features}
