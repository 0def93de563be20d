"""cifar10 and cifar100, from the archives of their binary version, read without TensorFlow."""

import functools
import io
import pathlib
import tarfile
import zlib
from typing import Any

import numpy as np

from ani_jax.data.entry import Entry, Recipe, classes, numbers
from ani_jax.data.files import DataError, Examples, Tally, Watch, check_range, encoded, verified
from ani_jax.data.pictures import Spec, View

SHA256 = {
    "cifar10": {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    "cifar100": {"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
}
"""Data set -> official file -> its SHA-256 (the values that tfds ships)."""
LABELS = {"cifar10": {"label": 10}, "cifar100": {"coarse_label": 20, "label": 100}}
"""Data set -> the label bytes of a record, in order -> their number of classes."""
BEGINNINGS = {"train": ("data_batch", "train"), "test": ("test",)}
"""Split -> how its files in the archive begin."""
SIDE = 32


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
    features = LABELS[name]
    content = verified(folder / file, sha256)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {
                pathlib.PurePosixPath(info.name).name: archive.extractfile(info).read()  # type: ignore[union-attr]
                for info in archive
                if info.isfile() and info.name.endswith(".bin")
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"manual_dir={folder / file}: damaged archive ({error}); fetch the file again") from None
    splits = {}
    for split in ("train", "test"):
        own = [records for path, records in sorted(files.items()) if path.startswith(BEGINNINGS[split])]
        raw = np.frombuffer(b"".join(own), np.uint8)
        width = len(features) + 3 * SIDE**2
        if not raw.size or raw.size % width:
            raise DataError(f"manual_dir={folder / file}: {split} holds {raw.size} bytes, not a multiple of {width}")
        rows = raw.reshape(-1, width)
        values = {feature: rows[:, position] for position, feature in enumerate(features)}
        for feature, count in features.items():
            check_range(values[feature], count, folder / file)
        pixels = rows[:, len(features) :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        # tfds keeps cifar's row number as a feature.
        splits[split] = encoded(pixels, values, lambda row, split=split: {"id": f"{split}_{row:05d}"})
    return splits


def _recipe(name: str) -> Recipe:
    def features() -> dict[str, Any]:
        import tensorflow_datasets as tfds

        # cifar100's features are stored in another order than its label bytes.
        counts = sorted(LABELS[name].items(), reverse=True)
        labels = {feature: tfds.features.ClassLabel(num_classes=count) for feature, count in counts}
        return {"id": tfds.features.Text(), "image": tfds.features.Image(shape=(SIDE, SIDE, 3)), **labels}

    files = tuple((file,) for file in SHA256[name])
    return Recipe(
        "3.0.2", features, functools.partial(read_cifar, name), files, "https://www.cs.toronto.edu/~kriz/cifar.html"
    )


THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Coarse classes of cifar100: mammals, fish, insects, reptiles, people and so on.
ANIMATE = tuple(str(number) for number in (0, 1, 7, 8, 11, 12, 13, 14, 15, 16))

ENTRIES = (
    Entry(
        name="cifar10",
        primary="class",
        sensitive=("animate",),
        size=60_000,
        licence="none stated; for research (Krizhevsky)",
        description="small photographs; the class determines whether it is an animal",
        obtain="cifar-10-binary.tar.gz, --manual_dir",
        spec=Spec(
            "cifar10",
            views=(
                View("class", "label", classes(*THINGS)),
                View("animate", "label", (("thing", ("0", "1", "8", "9")), ("animal", numbers(2, 7)))),
            ),
        ),
        alike=("flip",),
        recipe=_recipe("cifar10"),
    ),
    Entry(
        name="cifar100",
        primary="coarse_label",
        sensitive=("label",),
        others=("animate",),
        size=60_000,
        licence="none stated; for research (Krizhevsky)",
        description="small photographs: 20 coarse classes are the task, the 100 fine ones inside them are sensitive",
        obtain="cifar-100-binary.tar.gz, --manual_dir",
        spec=Spec(
            "cifar100",
            views=(
                View(
                    "animate",
                    "coarse_label",
                    (
                        ("thing or place", tuple(one for one in numbers(0, 19) if one not in ANIMATE)),
                        ("animal or person", ANIMATE),
                    ),
                ),
            ),
        ),
        alike=("flip",),
        recipe=_recipe("cifar100"),
    ),
)
