"""Grey pictures that are painted in the inks and on the papers of the embedded digits: those digits, and the mnist family.

The official idx files of mnist, fashion_mnist and kmnist are read without TensorFlow: checked, then yielded in the features of
the tfds builder of the same name, so that data prepared by either reads the same.
"""

import dataclasses
import functools
import gzip
import math
import pathlib
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ani_jax.data import digits
from ani_jax.data.entry import Entry, Recipe, classes
from ani_jax.data.files import DataError, Examples, Tally, Watch, check_range, encoded, verified
from ani_jax.data.pictures import Spec, View

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
    }
)
"""Data set -> official file -> its SHA-256 (the values that tfds ships)."""


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
        images, labels = (folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        pixels, values = (parse_idx(path, verified(path, SHA256[name][path.name])) for path in (images, labels))
        if pixels.ndim != 3 or values.shape != pixels.shape[:1]:
            raise DataError(f"manual_dir={labels}: {values.shape} labels for {pixels.shape} pictures; fetch both again")
        check_range(values, 10, labels)
        splits[split] = encoded(pixels[..., None], {"label": values})
    return splits


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
    # A header that is cut short is filled up with sizes that no file has, so that it is found truncated below.
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start].ljust(start - 4, b"\xff"), ">u4").tolist())
    if len(raw) - start != math.prod(shape):
        raise DataError(f"manual_dir={path}: truncated, {len(raw) - start:,} values where its header says {shape}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _recipe(name: str, origin: str, names: tuple[str, ...] | None = None) -> Recipe:
    def features() -> dict[str, Any]:
        import tensorflow_datasets as tfds

        label = tfds.features.ClassLabel(names=names) if names else tfds.features.ClassLabel(num_classes=10)
        return {"image": tfds.features.Image(shape=(28, 28, 1)), "label": label}

    files = tuple((file,) for file in SHA256[name])
    return Recipe("3.0.1", features, functools.partial(read_idx, name), files, origin)


CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

DIGITS = Entry(
    name="digits",
    primary="digit",
    sensitive=("ink", "paper"),
    size=1797,
    licence="CC BY 4.0 (Alpaydin and Kaynak 1998, UCI)",
    description="handwritten digits, ink and paper independent of them: full utility at chance leakage is attainable",
    obtain="ships inside scikit-learn",
    embedded=functools.partial(digits.load, correlated=False),
    # --defense=none --width=4 --steps=800 --learning_rate=0.005, edge and cloud together: 97.8% on validation, seed 0.
    classifier_macs=222_464,
)

ENTRIES = (
    DIGITS,
    dataclasses.replace(
        DIGITS,
        name="digits-correlated",
        embedded=functools.partial(digits.load, correlated=True),
        description="the same scans, ink agrees with the digit's parity in 80%: knowing the digit gives the ink at 40%",
    ),
    Entry(
        name="mnist",
        primary="label",
        sensitive=("ink", "paper"),
        size=70_000,
        licence="CC BY-SA 3.0 (LeCun and Cortes)",
        description="handwritten digits, painted as the embedded ones are",
        obtain="four official idx files, --manual_dir",
        spec=Spec("mnist", painted=True),
        recipe=_recipe("mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    ),
    Entry(
        name="fashion_mnist",
        primary="class",
        sensitive=("group", "ink"),
        others=("paper",),
        size=70_000,
        licence="MIT (Zalando SE)",
        description="clothes in drawn inks on drawn papers; the class determines the group and not the ink",
        obtain="four official idx files, --manual_dir",
        spec=Spec(
            "fashion_mnist",
            views=(
                View("class", "label", classes(*CLOTHES)),
                View(
                    "group",
                    "label",
                    (
                        ("tops", ("0", "2", "4", "6")),
                        ("trousers and dresses", ("1", "3")),
                        ("footwear", ("5", "7", "9")),
                        ("bags", ("8",)),
                    ),
                ),
            ),
            painted=True,
        ),
        recipe=_recipe("fashion_mnist", "https://github.com/zalandoresearch/fashion-mnist"),
    ),
    Entry(
        name="kmnist",
        primary="label",
        sensitive=("ink", "paper"),
        size=70_000,
        licence="CC BY-SA 4.0 (CODH)",
        description="cursive Japanese characters, painted as the digits are",
        obtain="four official idx files, --manual_dir",
        spec=Spec("kmnist", painted=True),
        recipe=_recipe(
            "kmnist", "http://codh.rois.ac.jp/kmnist", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
        ),
    ),
    Entry(
        name="emnist",
        primary="label",
        sensitive=("ink", "paper"),
        size=131_600,
        licence="public domain (NIST)",
        description="handwritten letters and digits in 47 balanced classes, painted as the digits are",
        obtain="tfds downloads it, needs the tf extra",
        spec=Spec("emnist/balanced", painted=True),
    ),
)
