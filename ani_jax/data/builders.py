"""Our own tfds builders: official files, or programs, -> array_record files that any tfds reader opens, without TensorFlow.

tfds writes into a folder named ``incomplete...`` and renames it last, so a data set is either there whole or not at all.
"""

import contextlib
import dataclasses
import importlib.util
import io
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import filelock
import tensorflow_datasets as tfds

from ani_jax.data.entry import Entry
from ani_jax.data.files import DataError, Tally, Watch, unwatched
from ani_jax.data.sets import ENTRIES

FORMAT = "array_record"
"""The only tfds file format that is read without TensorFlow."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set on disk.

    Attributes:
        folder: where it lies.
        sizes: official split -> number of examples.
        skipped: reason -> number of files left out when it was prepared.
        made_by: what made it, where it was not read from files.
    """

    folder: pathlib.Path
    sizes: Mapping[str, int]
    skipped: Mapping[str, int]
    made_by: str = ""


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
        watch: sees long loops go by, and on a terminal tfds shows bars of its own; ``None`` is silence.

    Returns:
        What is on disk.

    Raises:
        DataError: files are missing, damaged or out of range, or the builder fails; nothing half-made stays.
    """
    shown = watch is not None and sys.stderr.isatty()
    (tfds.enable_progress_bar if shown else tfds.disable_progress_bar)()
    entry = next((entry for entry in ENTRIES if entry.recipe is not None and entry.prepared == name), None)
    # tfds announces on standard output what it is about to do.
    with contextlib.redirect_stdout(io.StringIO()):
        if entry is not None:
            Official(entry, manual_dir, data_dir, watch or unwatched).make()
            # Read back: another process may have been first.
            builder: Any = Official(entry, manual_dir, data_dir, watch or unwatched)
        else:
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
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    told = builder.info.metadata or {}
    return Prepared(pathlib.Path(builder.data_path), sizes, dict(told.get("skipped", {})), told.get("made_by", ""))


class Official(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Makes one data set by its recipe.

    Args:
        entry: of the data set; has a recipe.
        manual_dir: holds the official files, itself or in a folder named like the data set; asked for only where they are read.
        data_dir: where prepared data lies; ``None`` is tfds's own default.
        watch: sees long loops go by.
    """

    # Abstract in tfds, and never called where _split_generators has made the splits.
    _generate_examples: Any = None

    def __init__(
        self,
        entry: Entry,
        manual_dir: str | os.PathLike[str] | None,
        data_dir: str | os.PathLike[str] | None,
        watch: Watch,
    ):
        assert entry.recipe is not None
        assert entry.prepared is not None
        # tfds has a class for every data set and reads both of it; set before it makes the rest.
        self.name = entry.prepared  # pyright: ignore[reportAttributeAccessIssue]
        self.VERSION = tfds.core.Version(entry.recipe.version)
        self.entry, self.recipe, self.manual_dir, self.watch = entry, entry.recipe, manual_dir, watch
        super().__init__(data_dir=data_dir, file_format=FORMAT)

    def make(self) -> None:
        """Prepares the data unless it is there; one process at a time, and whoever comes second finds it done.

        Raises:
            DataError: files are missing, damaged or out of range; nothing half-made stays.
        """
        target = pathlib.Path(self.data_path)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)

        def sweep() -> None:
            for leftover in target.parent.glob(f"incomplete.*_{target.name}"):
                shutil.rmtree(leftover)

        with filelock.FileLock(target.parent.parent / f".{target.parent.name}.lock"):
            # Nobody else is at work now, so what is incomplete was left by a process that was killed.
            sweep()
            try:
                # Nothing is downloaded, but tfds makes a folder for it, by default beside the data.
                with tempfile.TemporaryDirectory() as unused:
                    self.download_and_prepare(file_format=FORMAT, download_dir=unused)
            finally:
                # An interrupt may come behind tfds's making of its folder and before it watches over it.
                sweep()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.name}, {'made' if self.recipe.made_by else 'prepared from its official files'} by ani_jax.",
            features=tfds.features.FeaturesDict(self.recipe.features()),
            homepage=self.recipe.origin,
            license=self.entry.licence,
            metadata=tfds.core.MetadataDict(skipped={}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        tally, made_by = Tally(), self.recipe.made_by
        told = {} if made_by is None else {"made_by": made_by()}
        examples = self.recipe.read(pathlib.Path() if made_by else self.files(), tally, self.watch)
        self.info.metadata.update(told, skipped=tally.counts())  # type: ignore[union-attr]
        return examples

    def files(self) -> pathlib.Path:
        """The folder of the official files: the manual one, or one in it that is named like the data set.

        Raises:
            DataError: something is missing there.
        """
        terms = f"get it from {self.recipe.origin} (licence: {self.entry.licence})"
        files = ", ".join(" or ".join(patterns) for patterns in self.recipe.needs)
        if self.manual_dir is None:
            raise DataError(f"manual_dir=: {self.name} is made from {files}; name the folder that holds them; {terms}")
        top = pathlib.Path(self.manual_dir).expanduser()
        if not top.is_dir():
            raise DataError(f"manual_dir={top}: no such folder; it should hold {files}; {terms}")
        for folder in (top / self.name, top):
            missing = [
                patterns
                for patterns in self.recipe.needs
                # Pictures may lie at any depth; a file with a name of its own lies at the top.
                if not any(any(folder.rglob(name) if "*" in name else folder.glob(name)) for name in patterns)
            ]
            if not missing:
                return folder
        raise DataError(f"manual_dir={top}: {' or '.join(missing[0])} is missing; {terms}")
