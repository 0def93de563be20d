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
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from ani_jax.data.files import DataError, Tally, Watch, unwatched
from ani_jax.data.recipes import RECIPES, Recipe

FORMAT = "array_record"
"""The only tfds file format that is read without TensorFlow."""


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
