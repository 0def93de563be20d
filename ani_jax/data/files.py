"""Official files on disk: found, checked, and opened; every fault is one line that names the file and the way out."""

import dataclasses
import hashlib
import io
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp")
"""What the name of a picture file ends with, in lower case."""

Watch = Callable[[Iterable[Any], str], Iterable[Any]]
"""Passes the items of a long loop on, unchanged; the command hangs a progress bar on it."""


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

    def check(self, total: int, where: str) -> None:
        """Refuses a set of ``total`` files of which too many cannot be decoded.

        Args:
            total: number of files, good and bad.
            where: the flag that they were found by, with its value.

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
                f"{where}: {len(bad):,} of {total:,} pictures cannot be decoded (first: {bad[0]}); "
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
        found = dict(_archive(path)) | found
    return [Picture(name, read) for name, read in sorted(found.items())]


def _archive(path: pathlib.Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(f"manual_dir={path}: damaged archive ({error}); fetch the file again") from None
    for name in archive.namelist():
        # macOS puts a shadow of every file beside it.
        if name.lower().endswith(PICTURES) and "__MACOSX" not in name:
            yield name, lambda name=name: archive.read(name)


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
    return hashlib.blake2b(
        repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes(), digest_size=16
    ).digest()
