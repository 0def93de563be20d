"""Prepared tfds data as arrays in memory: small enough pictures, the asked features, and who is whose exact twin."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from ani_jax.data.files import DataError, Tally, decode, digest
from ani_jax.types import Task

CHUNK = 1024
"""Rows read at a time."""


class Column(NamedTuple):
    """One feature of n examples: class indices and what they mean.

    Attributes:
        values: int32 ``(n,)``.
        names: of the classes; for numbers and texts the sorted values that occur.
        numbered: whether the classes are the feature's own, 0, 1, ..., whatever they are called.
    """

    values: np.ndarray
    names: tuple[str, ...]
    numbered: bool = False

    def task(self, name: str) -> Task:
        """The column as a task of that name."""
        return Task(name, self.names)


class Examples(NamedTuple):
    """A prepared data set in memory, all its official splits together: ours are dealt anew.

    Attributes:
        image: uint8, or floats in [0, 1], ``(n, size, size, channels)``, one channel for grey pictures.
        columns: feature name -> column.
        content: ``(n,)`` digests of the pixels at full size, equal for exact twins.
        skipped: how many pictures could not be decoded.
    """

    image: np.ndarray
    columns: Mapping[str, Column]
    content: np.ndarray
    skipped: int


def find(name: str, data_dir: str | os.PathLike[str] | None) -> "Stored":
    """Prepared data, found by its files alone.

    Args:
        name: of the data set, with the config's where there are several ("emnist/balanced").
        data_dir: where prepared data lies; ``None`` is tfds's own default.

    Raises:
        DataError: it is not there, or not in the format that is read without TensorFlow.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    try:
        # By name alone tfds would load the builder's code, which knows its newest version only.
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        place = f"under {data_dir}" if data_dir else "in tfds's own folder"
        raise DataError(
            f"dataset={name}: not prepared {place}; run python -m experiments.prepare --dataset={name}"
            f"{f' --data_dir={data_dir}' if data_dir else ''}, with --manual_dir=FOLDER where that is read from files"
        ) from None
    found = getattr(builder.info.file_format, "value", "an old format")
    if found != "array_record":
        raise DataError(
            f"dataset={name}: prepared as {found} in {builder.data_path}, which needs "
            "TensorFlow to read; prepare it again as array_record in another --data_dir"
        )
    return Stored(name, builder)


class Store(Protocol):
    """Pictures somewhere, with columns that tasks are made of."""

    def read(self, features: Sequence[str], image_size: int, limit: int | None = None) -> Examples:
        """See :meth:`Stored.read`."""
        ...

    def columns(self, features: Sequence[str]) -> dict[str, Column]:
        """The named features of every picture."""
        ...


@dataclasses.dataclass(frozen=True)
class Stored:
    """A prepared data set on disk.

    Attributes:
        name: that it was asked for by; errors begin with it.
        builder: the tfds builder, made from the files alone.
    """

    name: str
    builder: Any

    def read(self, features: Sequence[str], image_size: int, limit: int | None = None) -> Examples:
        """Reads pictures, cropped to their central square and scaled, and the named features.

        Args:
            features: which to read; nested ones as "attributes/Smiling", or by their last name where that is unique.
            image_size: side of the pictures in pixels.
            limit: read at most so many examples, evenly from all official splits; tfds shuffles when it prepares, so these are
                a sample.

        Returns:
            The examples, split by split in the order in which they are stored.

        Raises:
            DataError: no such feature, a label out of range, or too many pictures that cannot be decoded.
        """
        known, image = self._features()
        if image is None:
            raise DataError(f"dataset={self.name}: has no picture among its features {', '.join(known)}")
        paths = {feature: self._path(feature, known) for feature in features}
        total = sum(split.num_examples for split in self.builder.info.splits.values())
        share = 1.0 if limit is None else min(1.0, limit / max(total, 1))
        tally, pixels, digests = Tally(), [], []
        raw: dict[str, list[Any]] = {feature: [] for feature in features}
        # Pillow decodes outside Python's lock, so threads are enough.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for place, rows in self._chunks(image, share):
                found = pool.map(_small, [_at(row, image) for row in rows], [image_size] * len(rows))
                for number, (row, one) in enumerate(zip(rows, found)):
                    if one is None:
                        tally.skip("undecodable", f"{place} + {number}")
                        continue
                    pixels.append(one[0])
                    digests.append(one[1].hex().encode())
                    for feature, path in paths.items():
                        raw[feature].append(_at(row, path))
        skipped = tally.counts().get("undecodable", 0)
        tally.check(len(pixels) + skipped, f"dataset={self.name}")
        if not pixels:
            raise DataError(f"dataset={self.name}: holds no pictures in {self.builder.data_path}")
        columns = {feature: self._column(feature, raw[feature], known[path]) for feature, path in paths.items()}
        # Grey pictures among coloured ones get their channels here; a set that is grey throughout keeps its one.
        channels = max(image.shape[-1] for image in pixels)
        images = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in pixels])
        return Examples(images, columns, np.array(digests), skipped)

    def columns(self, features: Sequence[str]) -> dict[str, Column]:
        """The named features of every example, without looking at the pictures.

        Args:
            features: as in :meth:`read`.

        Raises:
            DataError: no such feature, or a label out of range.
        """
        known, image = self._features()
        paths = {feature: self._path(feature, known) for feature in features}
        rows = [row for _, chunk in self._chunks(image, 1.0) for row in chunk] if image else []
        return {
            feature: self._column(feature, [_at(row, path) for row in rows], known[path])
            for feature, path in paths.items()
        }

    def _features(self) -> tuple[dict[str, Any], str | None]:
        """Every feature by its full path, and the path of the first picture among them."""
        import tensorflow_datasets as tfds

        known = dict(_flat(self.builder.info.features))
        images = [path for path, feature in known.items() if isinstance(feature, tfds.features.Image)]
        return known, images[0] if images else None

    def _path(self, feature: str, known: Mapping[str, Any]) -> str:
        """The full path of a feature that may be given by its last name."""
        if feature in known:
            return feature
        found = [path for path in known if path.rsplit("/", 1)[-1] == feature]
        if len(found) != 1:
            raise DataError(f"dataset={self.name}: has no feature {feature!r}; it has {', '.join(known)}")
        return found[0]

    def _chunks(self, image: str, share: float) -> Iterator[tuple[str, list[Any]]]:
        """Rows of every official split, a chunk at a time, pictures still encoded."""
        import tensorflow_datasets as tfds

        # Left encoded, because a damaged picture should cost itself and not the whole chunk.
        decoders: Any = tfds.decode.SkipDecoding()
        for name in reversed(image.split("/")):
            decoders = {name: decoders}
        for split in self.builder.info.splits:
            source = self.builder.as_data_source(split=split, decoders=decoders)
            count = round(share * len(source))
            for start in range(0, count, CHUNK):
                yield f"{split} row {start}", source.__getitems__(range(start, min(start + CHUNK, count)))

    def _column(self, feature: str, values: list[Any], kind: Any) -> Column:
        import tensorflow_datasets as tfds

        array = np.asarray(values)
        if isinstance(kind, tfds.features.ClassLabel):
            classes = len(kind.names)
            outside = np.flatnonzero((array < 0) | (array >= classes))
            if len(outside):
                row = int(outside[0])
                raise DataError(
                    f"dataset={self.name}: {feature} {array[row]} in row {row:,} is out of range; allowed: 0 to {classes - 1}"
                )
            return Column(array.astype(np.int32), tuple(kind.names), numbered=True)
        return column(f"dataset={self.name}", feature, array)


def column(place: str, feature: str, values: np.ndarray) -> Column:
    """A column of what its values are, each a class.

    Args:
        place: what errors begin with.
        feature: its name.
        values: (n,) integers, truth values, or texts, which may be bytes.

    Raises:
        DataError: values of another kind.

    Example:
        >>> column("x", "size", np.array([7, 5, 7])).names
        ('5', '7')
    """
    if values.ndim != 1 or values.dtype.kind not in "biuSUO":
        raise DataError(f"{place}: feature {feature!r} is no class (shape {values.shape[1:]}, {values.dtype})")
    if values.dtype == bool:
        return Column(values.astype(np.int32), ("no", "yes"))
    try:
        found, index = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise DataError(f"{place}: feature {feature!r} mixes kinds of values ({error})") from None
    # Texts come back from tfds as bytes.
    names = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in found.tolist())
    return Column(index.astype(np.int32), names)


def _flat(features: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested features as ("above/name", feature)."""
    for name, feature in features.items():
        if hasattr(feature, "items"):
            yield from _flat(feature, f"{above}{name}/")
        else:
            yield above + name, feature


def _at(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for name in path.split("/"):
        value = value[name]
    return value


def _small(content: bytes, size: int) -> tuple[np.ndarray, bytes] | None:
    """The picture's central square at the asked size, and the digest of its full pixels; ``None`` for a damaged one."""
    try:
        pixels = decode(content)
    except ValueError:
        return None
    # Of all pixels: pictures that differ may become equal when they shrink.
    return shrunk(pixels, size), digest(pixels)


def shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """A picture's central square at the asked size.

    Args:
        pixels: (height, width, channels), uint8 or float32.
        size: its side.

    Returns:
        (size, size, channels) of the same kind.

    Example:
        >>> shrunk(np.array([[[0.0], [1.0], [1.0], [0.0]]] * 2, np.float32), 1).tolist()
        [[[1.0]]]
    """
    from PIL import Image

    height, width, channels = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    # Pillow widens the filter when it shrinks, so nothing aliases; of floats it knows single channels.
    planes = [square] if square.dtype == np.uint8 and channels > 1 else np.moveaxis(square, -1, 0)
    small = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in small], -1).reshape(size, size, channels)
