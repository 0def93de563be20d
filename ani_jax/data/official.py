"""Official files of mnist, fashion_mnist, kmnist (idx) and cifar10, cifar100 (binary), read without TensorFlow.

Each reader checks the SHA-256 of what it reads, then yields examples split by split in the features of the tfds builder of
the same name, so that data prepared by either reads the same.
"""

import gzip
import io
import math
import pathlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ani_jax.data.files import DataError, Tally, Watch, encode, verified

Examples = Iterator[tuple[Any, dict[str, Any]]]
"""What one split is made of: ``(key, {feature: value})``; images are encoded bytes."""

IDX_FILES = MappingProxyType({"train": "train", "test": "t10k"})
"""Split -> how its files begin."""

SHA256: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "mnist": {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        "fashion_mnist": {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        "kmnist": {
            "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
        "cifar10": {
            "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        },
        "cifar100": {
            "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        },
    }
)
"""Data set -> official file -> its SHA-256 (the values that tfds ships)."""

CIFAR_SIDE = 32


def read_idx(name: str, folder: pathlib.Path, tally: Tally, watch: Watch) -> dict[str, Examples]:
    """The splits of mnist, fashion_mnist or kmnist from their four gzip files.

    Args:
        name: key of ``SHA256``.
        folder: holds the files.
        tally: unused; nothing in these files is skipped.
        watch: unused; the builder shows its own progress.

    Returns:
        "train" and "test": examples with "image" (PNG of 28x28x1) and "label" 0 to 9.

    Raises:
        DataError: a wrong checksum, a damaged file, or a label out of range.
    """
    del tally, watch
    splits = {}
    for split, prefix in IDX_FILES.items():
        images, labels = (folder / f"{prefix}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
        pixels, classes = (parse_idx(path, verified(path, SHA256[name][path.name])) for path in (images, labels))
        if pixels.ndim != 3 or classes.shape != pixels.shape[:1]:
            raise DataError(
                f"manual_dir={labels}: {classes.shape} labels for {pixels.shape} pictures; fetch both again"
            )
        check_range(classes, 10, labels)
        splits[split] = _encoded(pixels[..., None], {"label": classes}, split)
    return splits


def read_cifar(name: str, folder: pathlib.Path, tally: Tally, watch: Watch) -> dict[str, Examples]:
    """The splits of cifar10 or cifar100 from the archive of the binary version.

    A record is one label byte (cifar100: coarse, then fine), then 32 x 32 red bytes, green bytes and blue bytes.

    Args:
        name: "cifar10" or "cifar100".
        folder: holds the archive.
        tally: unused; nothing in this file is skipped.
        watch: unused; the builder shows its own progress.

    Returns:
        "train" and "test": examples with "id", "image" (PNG of 32x32x3), "label" and, for cifar100, "coarse_label".

    Raises:
        DataError: a wrong checksum, a damaged file, or a label out of range.
    """
    del tally, watch
    ((file, sha256),) = SHA256[name].items()
    features = {"cifar10": {"label": 10}, "cifar100": {"coarse_label": 20, "label": 100}}[name]
    content = verified(folder / file, sha256)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = {
                pathlib.PurePosixPath(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isfile() and member.name.endswith(".bin")
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"manual_dir={folder / file}: damaged archive ({error}); fetch the file again") from None
    splits = {}
    for split in ("train", "test"):
        own = [bytes_ for member, bytes_ in sorted(members.items()) if member.startswith(_CIFAR_MEMBERS[split])]
        raw = np.frombuffer(b"".join(own), np.uint8)
        width = len(features) + 3 * CIFAR_SIDE**2
        if not raw.size or raw.size % width:
            raise DataError(f"manual_dir={folder / file}: {split} holds {raw.size} bytes, not a multiple of {width}")
        rows = raw.reshape(-1, width)
        values = {feature: rows[:, position] for position, feature in enumerate(features)}
        for feature, classes in features.items():
            check_range(values[feature], classes, folder / file)
        pixels = rows[:, len(features) :].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
        splits[split] = _encoded(pixels, values, split, identified=True)
    return splits


_CIFAR_MEMBERS = {"train": ("data_batch", "train"), "test": ("test",)}


def parse_idx(path: pathlib.Path, content: bytes) -> np.ndarray:
    """The array in a gzipped idx file: two zero bytes, a type byte, the rank, big-endian sizes, then the values.

    Args:
        path: named in errors.
        content: the file's bytes.

    Returns:
        uint8 of the shape that the header gives.

    Raises:
        DataError: not gzip, not idx of unsigned bytes, or truncated.

    Example:
        >>> header = bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3])
        >>> parse_idx(pathlib.Path("x.gz"), gzip.compress(header + bytes([7, 8, 9]))).tolist()
        [[7, 8, 9]]
    """
    try:
        raw = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"manual_dir={path}: damaged gzip file ({error}); fetch the file again") from None
    if len(raw) < 4 or raw[:3] != bytes([0, 0, 8]):
        raise DataError(f"manual_dir={path}: not an idx file of unsigned bytes; fetch the file again")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start].ljust(start - 4, b"\xff"), ">u4").tolist())
    if len(raw) - start != math.prod(shape):
        raise DataError(f"manual_dir={path}: truncated, {len(raw) - start:,} values where its header says {shape}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


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


def _encoded(pixels: np.ndarray, values: Mapping[str, np.ndarray], split: str, identified: bool = False) -> Examples:
    for row, image in enumerate(pixels):
        example = {"image": encode(image), **{feature: int(column[row]) for feature, column in values.items()}}
        # tfds keeps cifar's row number as a feature.
        yield row, example | ({"id": f"{split}_{row:05d}"} if identified else {})
