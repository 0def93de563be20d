"""Our own tfds builders: official files in a manual folder -> array_record files that any tfds reader opens, without TensorFlow.

tfds writes into a folder named ``incomplete...`` and renames it last, so a data set is either there whole or not at all.
"""

import contextlib
import dataclasses
import fcntl
import importlib.util
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from ani_jax.data import faces, official
from ani_jax.data.files import DataError, Tally, Watch, unwatched

FORMAT = "array_record"
"""The only tfds file format that is read without TensorFlow."""


class Reader(Protocol):
    """Reads official files: ``(folder, tally, watch) -> {split: examples}``."""

    def __call__(self, folder: pathlib.Path, tally: Tally, watch: Watch, /) -> dict[str, official.Examples]:
        """Checks the files at once and yields the examples lazily."""
        ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one data set is made from its official files.

    Attributes:
        name: of the prepared data set; that of the shipped tfds builder where there is one.
        version: likewise.
        features: makes the tfds features; called once TensorFlow's absence no longer matters.
        read: reads the official files.
        needs: files, any one of each tuple's patterns, that must be in the manual folder.
        obtain: where to get them.
        licence: whose, and what it allows.
    """

    name: str
    version: str
    features: Callable[[], Mapping[str, Any]]
    read: Reader
    needs: tuple[tuple[str, ...], ...]
    obtain: str
    licence: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set on disk.

    Attributes:
        folder: where it lies.
        sizes: split -> number of examples.
        skipped: reason -> number of files left out when it was prepared.
    """

    folder: pathlib.Path
    sizes: Mapping[str, int]
    skipped: Mapping[str, int]


def _grey(names: tuple[str, ...] | None = None) -> dict[str, Any]:
    label = tfds.features.ClassLabel(names=names) if names else tfds.features.ClassLabel(num_classes=10)
    return {"image": tfds.features.Image(shape=(28, 28, 1)), "label": label}


def _cifar(**classes: int) -> dict[str, Any]:
    labels = {name: tfds.features.ClassLabel(num_classes=count) for name, count in classes.items()}
    return {"id": tfds.features.Text(), "image": tfds.features.Image(shape=(32, 32, 3)), **labels}


def _face(channels: int = 3, **labels: Any) -> dict[str, Any]:
    named = {
        key: tfds.features.ClassLabel(names=value) if isinstance(value, tuple) else value
        for key, value in labels.items()
    }
    image = tfds.features.Image(shape=(None, None, channels))
    return {"image": image, "file": tfds.features.Text(), **named}


def _utkface() -> dict[str, Any]:
    return _face(age=tfds.features.Scalar(np.int32), gender=faces.GENDERS, race=faces.UTKFACE_RACES)


def _fairface() -> dict[str, Any]:
    return _face(age=faces.FAIRFACE_AGES, gender=faces.GENDERS, race=faces.FAIRFACE_RACES)


def _facescrub() -> dict[str, Any]:
    return _face(identity=tfds.features.Text(), gender=faces.GENDERS)


def _orl_faces() -> dict[str, Any]:
    return _face(channels=1, identity=tfds.features.Text())


_PICTURES = (tuple(f"*{ending}" for ending in (".zip", ".jpg", ".jpeg", ".png", ".pgm")),)


def _exact(name: str) -> tuple[tuple[str, ...], ...]:
    return tuple((file,) for file in official.SHA256[name])


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "mnist",
            "3.0.1",
            _grey,
            partial(official.read_idx, "mnist"),
            _exact("mnist"),
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "CC BY-SA 3.0 (LeCun and Cortes)",
        ),
        Recipe(
            "fashion_mnist",
            "3.0.1",
            _grey,
            partial(official.read_idx, "fashion_mnist"),
            _exact("fashion_mnist"),
            "https://github.com/zalandoresearch/fashion-mnist",
            "MIT (Zalando SE)",
        ),
        Recipe(
            "kmnist",
            "3.0.1",
            partial(_grey, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
            partial(official.read_idx, "kmnist"),
            _exact("kmnist"),
            "http://codh.rois.ac.jp/kmnist",
            "CC BY-SA 4.0 (CODH)",
        ),
        Recipe(
            "cifar10",
            "3.0.2",
            partial(_cifar, label=10),
            partial(official.read_cifar, "cifar10"),
            _exact("cifar10"),
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "none stated; for research (Krizhevsky)",
        ),
        Recipe(
            "cifar100",
            "3.0.2",
            partial(_cifar, label=100, coarse_label=20),
            partial(official.read_cifar, "cifar100"),
            _exact("cifar100"),
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "none stated; for research (Krizhevsky)",
        ),
        Recipe(
            "utkface",
            "1.0.0",
            _utkface,
            faces.read_utkface,
            _PICTURES,
            "https://susanqq.github.io/UTKFace",
            "research use only; the pictures belong to their owners (Zhang, Song and Qi)",
        ),
        Recipe(
            "fairface",
            "1.0.0",
            _fairface,
            faces.read_fairface,
            (("fairface_label_train.csv",), ("fairface_label_val.csv",), *_PICTURES),
            "https://github.com/joojs/fairface",
            "CC BY 4.0 (Karkkainen and Joo)",
        ),
        Recipe(
            "facescrub",
            "1.0.0",
            _facescrub,
            faces.read_facescrub,
            _PICTURES,
            "https://vintage.winklerbros.net/facescrub.html",
            "the list CC BY-NC-ND; the pictures belong to their owners (Ng and Winkler)",
        ),
        Recipe(
            "orl_faces",
            "1.0.0",
            _orl_faces,
            faces.read_orl_faces,
            _PICTURES,
            "https://cam-orl.co.uk/facedatabase.html",
            "free for research with credit (AT&T Laboratories Cambridge)",
        ),
    )
}
"""What is prepared without TensorFlow, by name."""


def prepare(
    name: str,
    manual_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
) -> Prepared:
    """Prepares a data set, unless it is there: by our recipe, or by the tfds builder of that name.

    Args:
        name: of a recipe, or of any tfds data set ("emnist/balanced"); most shipped builders need TensorFlow to prepare.
        manual_dir: holds the official files, itself or in a folder named like the data set.
        data_dir: where prepared data lies; ``None`` is tfds's own default.
        watch: sees long loops go by, and tfds shows bars of its own; ``None`` is silence.

    Returns:
        What is on disk.

    Raises:
        DataError: files are missing, damaged or out of range, or the builder fails; nothing half-made stays.
    """
    (tfds.disable_progress_bar if watch is None else tfds.enable_progress_bar)()
    recipe = RECIPES.get(name)
    # tfds announces on standard output what it is about to do.
    with contextlib.redirect_stdout(io.StringIO()):
        if recipe is None:
            return _shipped(name, manual_dir, data_dir)
        return _own(recipe, manual_dir, data_dir, watch or unwatched)


def _own(
    recipe: Recipe, manual_dir: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None, watch: Watch
) -> Prepared:
    tally = Tally()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = recipe.name
        VERSION = tfds.core.Version(recipe.version)
        pkg_dir_path = None

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{recipe.name}, prepared from its official files by ani_jax.",
                features=tfds.features.FeaturesDict(recipe.features()),
                homepage=recipe.obtain,
                license=recipe.licence,
                metadata=tfds.core.MetadataDict(skipped={}),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            splits = recipe.read(_folder(recipe, manual_dir), tally, watch)
            self.info.metadata["skipped"] = tally.counts()  # type: ignore[index]
            return splits

        def _generate_examples(self) -> None:
            raise NotImplementedError("the splits are made in _split_generators")

    builder = Builder(data_dir=data_dir, file_format=FORMAT)
    if not pathlib.Path(builder.data_path).exists():
        with _alone(pathlib.Path(builder.data_path)), tempfile.TemporaryDirectory() as unused:
            builder.download_and_prepare(file_format=FORMAT, download_dir=unused)
    # Read back: another process may have been first.
    return _summary(Builder(data_dir=data_dir, file_format=FORMAT))


def _shipped(name: str, manual_dir: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None) -> Prepared:
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format=FORMAT)
    except tfds.core.DatasetNotFoundError:
        raise DataError(f"dataset={name}: tfds knows no data set of this name") from None
    # Asked first: without it a builder fails only after it has downloaded everything.
    if importlib.util.find_spec("tensorflow") is None and not pathlib.Path(builder.data_path).exists():
        raise DataError(
            f"dataset={name}: its tfds builder needs TensorFlow to prepare (not to read); "
            'pip install "ani-jax[tf]", or point --data_dir at data that was prepared as array_record'
        )
    try:
        config = tfds.download.DownloadConfig(manual_dir=manual_dir)
        builder.download_and_prepare(file_format=FORMAT, download_config=config)
    # A builder may fail in any way: no network, a checksum, a missing manual folder.
    except Exception as error:
        raise DataError(f"dataset={name}: tfds cannot prepare it ({type(error).__name__}: {error})") from None
    return _summary(builder)


def _summary(builder: Any) -> Prepared:
    skipped = (builder.info.metadata or {}).get("skipped", {})
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    return Prepared(pathlib.Path(builder.data_path), sizes, dict(skipped))


def _folder(recipe: Recipe, manual_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """The folder that holds what the recipe needs.

    Raises:
        DataError: it says which file is missing, where it was sought, where to get it, and whose licence it is under.
    """
    terms = f"get it from {recipe.obtain} (licence: {recipe.licence})"
    files = ", ".join(" or ".join(patterns) for patterns in recipe.needs)
    if manual_dir is None:
        raise DataError(f"manual_dir=: {recipe.name} is made from {files}; name the folder that holds them; {terms}")
    top = pathlib.Path(manual_dir).expanduser()
    if not top.is_dir():
        raise DataError(f"manual_dir={top}: no such folder; it should hold {files}; {terms}")
    for folder in (top / recipe.name, top):
        missing = [patterns for patterns in recipe.needs if not any(_holds(folder, pattern) for pattern in patterns)]
        if not missing:
            return folder
    raise DataError(f"manual_dir={top}: {' or '.join(missing[0])} is missing; {terms}")


def _holds(folder: pathlib.Path, pattern: str) -> bool:
    return any(True for _ in (folder.rglob(pattern) if "*" in pattern else folder.glob(pattern)))


@contextlib.contextmanager
def _alone(target: pathlib.Path) -> Iterator[None]:
    """Holds the right to make ``target``, and sweeps away what a killed preparation left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent.parent / f".{target.parent.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in target.parent.glob(f"incomplete.*_{target.name}"):
            shutil.rmtree(leftover)
        yield
