"""Official files on disk: found, checked, and opened; every fault is one line that names the file and the way out."""

import dataclasses
import functools
import hashlib
import io
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp")
"""What the name of a picture file ends with, in lower case."""

Watch = Callable[[Iterable[Any], str], Iterable[Any]]
"""Passes the items of a long loop on, unchanged; the command hangs a progress bar on it."""

Examples = Iterator[tuple[Any, dict[str, Any]]]
"""What one official split is made of: ``(key, {feature: value})``; images are encoded bytes."""


class DataError(ValueError):
    """Data cannot be had or used; the message is one line that begins with the flag that it is about."""


def unwatched(items: Iterable[Any], title: str) -> Iterable[Any]:
    """The ``Watch`` that watches nothing."""
    del title
    return items


class Picture(NamedTuple):
    """A picture file: its path below the folder or inside the archive, and how to read its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclasses.dataclass
class Tally:
    """What a preparation leaves out, by reason; the only mutable thing in it.

    Attributes:
        share: part of the files that may be undecodable before the whole set is refused; never fewer than 10 files.
        skipped: reason -> names of the files.
    """

    share: float = 0.01
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def skip(self, reason: str, name: str) -> None:
        """Notes that a file is left out."""
        self.skipped.setdefault(reason, []).append(name)

    def counts(self) -> dict[str, int]:
        """Reason -> number of files."""
        return {reason: len(names) for reason, names in self.skipped.items()}

    def check(self, total: int, found_by: str) -> None:
        """Refuses a set of ``total`` files of which too many cannot be decoded.

        Args:
            total: number of files, good and bad.
            found_by: the flag that names them, with its value.

        Raises:
            DataError: it names the first file.

        Example:
            >>> tally = Tally()
            >>> for number in range(11): tally.skip("undecodable", f"{number}.jpg")
            >>> tally.check(1000, "manual_dir=faces")
            Traceback (most recent call last):
            ...
            ani_jax.data.files.DataError: manual_dir=faces: 11 of 1,000 pictures cannot be decoded (first: 0.jpg); at most 10...
        """
        bad, allowed = self.skipped.get("undecodable", []), max(10, int(self.share * total))
        if len(bad) > allowed:
            raise DataError(
                f"{found_by}: {len(bad):,} of {total:,} pictures cannot be decoded (first: {bad[0]}); "
                f"at most {allowed:,} are skipped, so fetch the files again"
            )


def verified(path: pathlib.Path, sha256: str) -> bytes:
    """The bytes of a file whose SHA-256 is known.

    Raises:
        DataError: they are other bytes.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"manual_dir={path}: SHA-256 is {found[:12]}..., not {sha256[:12]}...; fetch the file again")
    return content


def pictures(folder: pathlib.Path) -> list[Picture]:
    """Every picture below a folder and inside the zip archives in it, sorted by name.

    A name that occurs twice (an archive beside its unpacked files) counts once.

    Args:
        folder: where the user put the files.

    Raises:
        DataError: an archive is damaged.
    """
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and path.is_file()
    }
    for path in sorted(folder.glob("*.zip")):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"manual_dir={path}: damaged archive ({error}); fetch the file again") from None
        for name in archive.namelist():
            # macOS puts a shadow of every file beside it.
            if name.lower().endswith(PICTURES) and "__MACOSX" not in name:
                # Not opened twice: what was unpacked beside its archive is read from there.
                found.setdefault(name, functools.partial(archive.read, name))
    return [Picture(name, read) for name, read in sorted(found.items())]


def decode(content: bytes, mode: str | None = None) -> np.ndarray:
    """The pixels of an encoded picture.

    Args:
        content: a file's bytes, in any format that Pillow reads.
        mode: "L" for one channel, "RGB" for three; ``None`` keeps one for grey pictures and makes three of the others.

    Returns:
        uint8 ``(height, width, 1 or 3)``.

    Raises:
        ValueError: truncated, damaged, or not a picture.

    Example:
        >>> decode(encode(np.zeros((2, 3, 1), np.uint8))).shape
        (2, 3, 1)
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            # Pillow would cut 16 bits to 8 without a word.
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}; only 8 bits a channel are read")
            target = mode or ("L" if image.mode in ("L", "1") else "RGB")
            pixels = np.asarray(image if image.mode == target else image.convert(target))
    # Pillow's plugins raise SyntaxError and struct.error's parents on damaged files, besides OSError.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded: {error}") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def encode(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 pixels ``(height, width, 1 or 3)``; lossless, so ``decode`` gives the same pixels back."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def digest(pixels: np.ndarray) -> bytes:
    """16 bytes that are equal for exact twins: same shape, same pixels."""
    # The shape too: a row and a column of the same pixels have the same bytes.
    return hashlib.blake2b(
        repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes(), digest_size=16
    ).digest()


def check_range(values: np.ndarray, classes: int, path: pathlib.Path) -> None:
    """Refuses labels outside 0 to ``classes - 1``.

    Raises:
        DataError: it names the file, the first such row and its value.
    """
    outside = np.flatnonzero((values < 0) | (values >= classes))
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"manual_dir={path}: label {values[row]} in row {row:,} is out of range; allowed: 0 to {classes - 1}"
        )


def encoded(
    pixels: np.ndarray, values: Mapping[str, np.ndarray], further: Callable[[int], dict[str, Any]] = lambda row: {}
) -> Examples:
    """The examples of one official split of arrays, encoded as they are asked for.

    Args:
        pixels: uint8 ``(n, height, width, 1 or 3)``.
        values: feature -> ``(n,)`` integers.
        further: more features of a row, by its number.
    """
    for row, image in enumerate(pixels):
        integers = {feature: int(column[row]) for feature, column in values.items()}
        yield row, {"image": encode(image), **integers, **further(row)}
