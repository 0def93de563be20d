"""Recorded pairs: rows of what was sent with what they should not tell, in place of a client that could be asked.

    pairs = Pairs.read("pairs.npz")         or .parquet, or Pairs.of({"z": z, "s_city": city})
    evidence = ani_jax.audit(pairs)

Names: ``z`` (n, ...), ``s_NAME`` for every attribute, and where they are known ``split`` (0 auxiliary, 1 validation, 2 test),
``x``, ``label``, ``answer`` and ``group``.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ani_jax.data.columns import read
from ani_jax.data.files import DataError
from ani_jax.types import Batch, Data, Source, Task, fixed

SPLITS = ("auxiliary", "validation", "test")
"""What the numbers 0, 1 and 2 of ``split`` mean."""
SHARES = (0.7, 0.1, 0.2)
"""Their shares of the rows where a file does not say."""
FEWEST = 20
"""Rows of a split of which a score can say anything."""
MOST = 4096
"""Classes at most: text of which every row has its own is no attribute."""
PIECE = 2**22
"""Numbers that are looked at at once: all of them may be more than there is memory."""
NAMES = ("z", "z_dtype", "z_bits", "split", "x", "label", "answer", "group")
"""What is read beside ``s_NAME``; other columns are nobody's business here."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Rows that were recorded, checked and not yet loaded: arrays may still lie in their file.

    Attributes:
        z: (n, ...) as it is stored.
        sensitive: attribute -> class of each row.
        tasks: the attributes.
        primary: the task that was wanted; of one class where no ``label`` was recorded.
        split: (n,), None where it is to be dealt.
        x: (n, h, w, c) images as floats in [0, 1] or as bytes, or (n, d) vectors; None where it was not recorded.
        label: (n,) class of the task.
        answer: (n,) class that the provider answered, None where it was not recorded.
        group: (n,) which original each row shows, None where each is its own.
        name: of the data in a report.
        bfloat16: whether z holds the bits of such numbers.
        bits: numbers of a row that z holds as packed bits, the most significant first; 0 where it holds numbers.
    """

    z: np.ndarray
    sensitive: Mapping[str, np.ndarray]
    tasks: tuple[Task, ...]
    primary: Task
    split: np.ndarray | None = None
    x: np.ndarray | None = None
    label: np.ndarray | None = None
    answer: np.ndarray | None = None
    group: np.ndarray | None = None
    name: str = "pairs"
    bfloat16: bool = False
    bits: int = 0

    @classmethod
    def of(cls, columns: Mapping[str, Any], name: str = "pairs") -> Self:
        """Pairs from arrays by name.

        Args:
            columns: ``z`` (n, ...) of floats, integers or bits, and ``s_NAME`` (n,) for each attribute, integers from 0 or text;
                optionally ``split``, ``x``, ``label``, ``answer`` and ``group``. ``z_dtype`` is "bfloat16" where z is the bits of
                such numbers as uint16; ``z_bits`` says how many bits a row has where z is packed (``np.packbits``).
            name: of the data.

        Raises:
            DataError: one line that names the column.

        Example:
            >>> z = np.random.default_rng(0).normal(size=(200, 3))
            >>> pairs = Pairs.of({"z": z, "s_sign": z[:, 0] > 0})
            >>> pairs.tasks, len(pairs.z)
            ((Task(name='sign', class_names=('False', 'True')),), 200)
        """
        known = {key: np.asanyarray(columns[key]) for key in columns if key in NAMES or key.startswith("s_")}
        if "z" not in known:
            raise DataError(f"z: is missing among {', '.join(sorted(columns)) or 'no columns'}; it holds what was sent")
        for key, values in known.items():
            if values.dtype.kind not in "biufUS":
                raise DataError(f"{key}: holds {values.dtype.name}; must be numbers, or text for classes and groups")
        for key in ("z", "x"):
            if key in known and (known[key].dtype.kind in "US" or not known[key].ndim or not known[key].size):
                told = f"shape {known[key].shape} of {known[key].dtype.name}"
                raise DataError(f"{key}: {told}; must be (rows, ...) of numbers, at least one a row")
        z = known["z"] if known["z"].ndim > 1 else known["z"][:, None]
        for key, values in known.items():
            if key not in ("z", "x", "z_dtype", "z_bits") and values.shape != (len(z),):
                raise DataError(f"{key}: shape {values.shape}; must be ({len(z)},), one a row of z")
        bfloat16, bits = packing(z, known.get("z_dtype"), known.get("z_bits"))
        if bfloat16 or z.dtype.kind == "f":
            _require("z", z, lambda part: np.isfinite(numbers(part, bfloat16)), "finite in single precision")
        x = known.get("x")
        if x is not None:
            x = x if x.ndim > 1 else x[:, None]
            if x.ndim not in (2, 4) or len(x) != len(z):
                allowed = f"vectors ({len(z)}, numbers) or images ({len(z)}, height, width, channels)"
                raise DataError(f"x: shape {x.shape}; must be {allowed}")
            if x.ndim == 2:
                _require("x", x, lambda part: np.isfinite(numbers(part)), "finite in single precision")
            elif x.dtype != np.uint8:
                # Nor is what is not a number.
                _require("x", x, lambda part: (part >= 0) & (part <= 1), "in [0, 1], or the image uint8")
        named = {key.removeprefix("s_"): _classes(key, values) for key, values in known.items() if key[:2] == "s_"}
        if not named and x is None:
            raise DataError("s_NAME: no attribute, and no x; must say what z should not tell")
        if "answer" in known and "label" not in known:
            raise DataError("answer: stands without label; label must say which answers are right")
        split, label, answer, primary = known.get("split"), None, None, Task("label", ("not recorded",))
        if split is not None and (split.dtype.kind not in "iu" or not 0 <= split.min() <= split.max() < len(SPLITS)):
            told = f"{split.min()} to {split.max()}" if split.dtype.kind in "iuf" else split.dtype.name
            raise DataError(f"split: {told}; must be integers, 0 (auxiliary), 1 (validation) or 2 (test)")
        if "label" in known:
            # Of one vocabulary, so that a class that is never answered has its place.
            told = [known[key] for key in ("label", "answer") if key in known]
            if len({values.dtype.kind in "US" for values in told}) > 1:
                raise DataError(
                    f"answer: holds {told[1].dtype.name}; must be of the kind of label, {told[0].dtype.name}"
                )
            names, codes = _classes("label", np.concatenate(told))
            primary, label = Task("label", names), codes[: len(z)]
            answer = codes[len(z) :] if "answer" in known else None
        return cls(
            z,
            {name: codes for name, (_, codes) in named.items()},
            tuple(Task(name, names) for name, (names, _) in named.items()),
            primary,
            None if split is None else split.astype(np.int8),
            x,
            label,
            answer,
            np.unique(known["group"], return_inverse=True)[1] if "group" in known else None,
            name,
            bfloat16,
            bits,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Pairs from a file: arrays by name of an ``.npz``, columns of a ``.parquet``.

        Of a parquet file ``z`` and ``x`` are columns of lists, nested as deep as they have axes; ``z_dtype`` and ``z_bits`` are
        metadata of its schema. What an ``.npz`` stores uncompressed stays in the file, and of it only the rows that an audit
        learns from or scores are loaded.

        Raises:
            DataError: one line that begins with ``pairs=`` and the path.
        """
        try:
            columns = read(path, lambda name: name in NAMES or name.startswith("s_"))
            return cls.of(columns, pathlib.Path(path).stem)
        except DataError as error:
            raise DataError(f"pairs={path}: {error}") from None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of an audit must know of the rows."""
        found = []
        if self.x is None:
            found.append("x was not recorded: nothing was reconstructed, and there is no control that sends all of it")
        if self.split is not None and self.group is not None:
            learnt, test = (np.unique(self.group[rows]) for rows in (self.split < 2, self.split == 2))
            if both := len(np.intersect1d(learnt, test)):
                found.append(f"{both:,} groups have rows in test and among those that attackers learn from")
        return tuple(found)

    def data(self, auxiliary: int, validation: int, test: int, seed: int = 0) -> tuple[Data, int]:
        """The splits, loaded, and how many originals the whole of ``auxiliary`` shows.

        Args:
            auxiliary: rows of it at most; of more a sample.
            validation: likewise.
            test: likewise.
            seed: of the samples, and of the splits where none were recorded: groups are dealt, 70% of the rows auxiliary, 10%
                validation.

        Raises:
            DataError: a split of too few rows, or an attribute of one class in it.

        Example:
            >>> data, originals = Pairs.of({"z": np.arange(1000), "s_odd": np.arange(1000) % 2}).data(500, 500, 500)
            >>> [len(part.label) for part in (data.auxiliary.stored, data.validation, data.test)], originals
            ([500, 100, 200], 700)
        """
        group = np.arange(len(self.z)) if self.group is None else self.group
        split = dealt(group, seed) if self.split is None else self.split
        batches, originals = [], len(np.unique(group[split == 0]))
        for number, most in enumerate((auxiliary, validation, test)):
            rows = np.flatnonzero(split == number)
            if len(rows) < FEWEST:
                raise DataError(
                    f"pairs={self.name}: split: {len(rows)} rows of {number} ({SPLITS[number]}); must be {FEWEST} or more"
                )
            for name, codes in self.sensitive.items():
                if np.ptp(codes[rows]) == 0:
                    raise DataError(f"pairs={self.name}: s_{name}: one class in all {SPLITS[number]} rows; must be two")
            if len(rows) > most:
                rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
            x = np.zeros((len(rows), 0)) if self.x is None else np.asarray(self.x[rows])
            found: dict[str, Any] = {
                "image": numbers(x) / np.float32(255 if x.ndim == 4 and x.dtype == np.uint8 else 1),
                "label": np.zeros(len(rows), np.int32) if self.label is None else self.label[rows],
                "sensitive": {name: codes[rows] for name, codes in self.sensitive.items()},
                "group": None if self.group is None else self.group[rows].astype(np.int32),
                "z": numbers(self.z[rows], self.bfloat16, self.bits),
                "answer": None if self.answer is None else self.answer[rows],
            }
            batches.append(Batch(**jax.tree.map(jnp.asarray, found)))
        if self.x is not None and self.x.ndim == 2:
            # One number for all, so that what is learnt of vectors does not hang on their unit.
            rate = np.float32(1 / max(float(batches[0].image.std(0).mean()), 1e-20))
            batches = [batch._replace(image=batch.image * rate) for batch in batches]
        own, held, scored = batches
        source = Source(own, fixed)
        return Data(source, held, source, held, scored, self.name, self.primary, self.tasks), originals


def packing(z: np.ndarray, dtype: np.ndarray | None, bits: np.ndarray | None) -> tuple[bool, int]:
    """Whether z holds the bits of bfloat16 numbers, and how many packed bits each row has, 0 where it holds numbers.

    Args:
        z: (n, ...) as it is stored.
        dtype: what ``z_dtype`` says: "bfloat16", or the name of z's own; needed for uint16, which might be either.
        bits: what ``z_bits`` says, a number or its digits.

    Raises:
        DataError: they do not fit z.

    Example:
        >>> packing(np.zeros((5, 2), np.uint8), None, np.array(12))
        (False, 12)
    """
    named = "" if dtype is None else str(dtype.astype(np.str_).reshape(-1)[0]) if dtype.size == 1 else "several"
    if named not in ("", "bfloat16", z.dtype.name):
        raise DataError(f"z_dtype: {named}; must be bfloat16, or what z is, {z.dtype.name}")
    if (named == "bfloat16") != (z.dtype == np.uint16) and named != "uint16":
        raise DataError(
            f"z: is {z.dtype.name}, z_dtype {named or 'missing'}; bits of bfloat16 must be uint16 and say so"
        )
    if bits is None:
        return named == "bfloat16", 0
    held, told = 8 * math.prod(z.shape[1:]), str(bits.astype(np.str_).reshape(-1)[0]) if bits.size == 1 else "several"
    if z.dtype != np.uint8 or not told.isdecimal() or not held - 8 < int(told) <= held:
        raise DataError(f"z_bits: {told} in {held} bits of {z.dtype.name}; must be {held - 7} to {held}, of uint8")
    return False, int(told)


def numbers(z: np.ndarray, bfloat16: bool = False, bits: int = 0) -> np.ndarray:
    """Rows as single-precision numbers.

    Args:
        z: as they are stored.
        bfloat16: whether they are the bits of such numbers.
        bits: of a row, where they are packed.

    Example:
        >>> numbers(np.array([[0xA0]], np.uint8), bits=3).tolist(), numbers(np.array([[0x3F80]], np.uint16), True).tolist()
        ([[1.0, 0.0, 1.0]], [[1.0]])
    """
    z = np.asarray(z)
    if bits:
        z = np.unpackbits(z.reshape(len(z), -1), axis=1, count=bits)
    elif bfloat16:
        # They are the upper half of a float32.
        z = (z.astype(np.uint32) << 16).view(np.float32)
    # What is too large becomes infinite, which whoever looks for it says.
    with np.errstate(over="ignore"):
        return z.astype(np.float32)


def dealt(group: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """The split of every row, whole groups at a time, as near to ``SHARES`` of the rows as they can be divided.

    Args:
        group: from 0 on.
        seed: of the order in which they are dealt.

    Example:
        >>> np.bincount(dealt(np.arange(1000) // 2, 0)).tolist()
        [700, 100, 200]
    """
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    # A group goes where its middle lies on the line of all rows.
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    number = np.empty(len(sizes), np.int8)
    number[order] = np.searchsorted(np.cumsum(SHARES)[:-1] * len(group), middles)
    return number[group]


def _require(key: str, values: np.ndarray, fine: Callable[[np.ndarray], np.ndarray], allowed: str) -> None:
    """Refuses the first row of which not all numbers are fine."""
    step = max(1, PIECE // math.prod(values.shape[1:]))
    for start in range(0, len(values), step):
        part = np.asarray(values[start : start + step])
        able = fine(part).reshape(len(part), -1).all(1)
        if not able.all():
            raise DataError(f"{key}: row {start + int(able.argmin()):,} is not; all must be {allowed}")


def _classes(key: str, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes that occur, in order, and the place of each row's among them."""
    if values.dtype.kind == "f" or (values.dtype.kind == "i" and values.min() < 0):
        told = values.dtype.name if values.dtype.kind == "f" else f"a class {values.min()}"
        raise DataError(f"{key}: has {told}; must be integers from 0, or text")
    names, codes = np.unique(values, return_inverse=True)
    if not 2 <= len(names) <= MOST:
        told = f"one class, {names[0]}" if len(names) == 1 else f"{len(names):,} classes"
        raise DataError(f"{key}: has {told}; must be 2 to {MOST:,}")
    return tuple(map(str, names.astype(np.str_))), codes.astype(np.int32)
