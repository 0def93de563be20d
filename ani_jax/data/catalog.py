"""Names of data sets and how to load them."""

import dataclasses
import os
from collections.abc import Sequence

from ani_jax.data import own, pictures, prepared
from ani_jax.data.augment import check as check_augmentations
from ani_jax.data.entry import Entry
from ani_jax.data.pictures import Spec
from ani_jax.data.render import Augmented, choose
from ani_jax.data.sets import ENTRIES
from ani_jax.types import Data, Source


def names() -> tuple[str, ...]:
    """Names in the catalogue.

    Example:
        >>> names()[:3]
        ('digits', 'digits-correlated', 'mnist')
    """
    return tuple(entry.name for entry in ENTRIES)


def find(name: str, primary: str | None = None, group: str | None = None) -> Entry:
    """The entry of that name, or one made up for a folder or a tfds data set that the catalogue does not know.

    Args:
        name: in the catalogue; "folder:PATH"; with ``primary``, any tfds name.
        primary: the feature to predict; needed for a name that is not in the catalogue, and where a folder's table has several.
        group: the column of a folder's table that says who is shown.

    Raises:
        ValueError: there is no such entry and no ``primary``, or a ``group`` for anything but a folder.
        DataError: the folder cannot be used.

    Example:
        >>> find("digits").size
        1797
        >>> find("svhn_cropped", primary="label").prepared
        'svhn_cropped'
    """
    if name.startswith(own.PREFIX):
        return own.entry(name, primary, group)
    if group is not None:
        raise ValueError(f"group_column={group}: belongs to a {own.PREFIX}PATH; other data sets know their identities")
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    if primary is None:
        raise ValueError(
            f"dataset={name}: must be one of {', '.join(names())}, {own.PREFIX}PATH, or any tfds name with --primary=FEATURE"
        )
    # Nobody has described it, so any of its features may be a task.
    return Entry(name, primary, (), 0, "see tfds", "not in the catalogue", "see tfds", Spec(name), others=None)


def load(
    name: str,
    seed: int = 0,
    image_size: int = 32,
    *,
    primary: str | None = None,
    sensitive: Sequence[str] | None = None,
    group: str | None = None,
    originals: int | None = None,
    augment: tuple[str, ...] = (),
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
) -> Data:
    """Loads a data set by name.

    Args:
        name: one of ``names()``, "folder:PATH", or any prepared tfds data set if ``primary`` is given.
        seed: decides the splits and whatever is drawn; 0 or more.
        image_size: side of the pictures in pixels.
        primary: name of the task; ``None`` is the entry's.
        sensitive: names of the attributes; ``None`` are the entry's.
        group: column of a folder's table that says who is shown.
        originals: use at most so many of a prepared data set; ``None`` is all that fit into memory.
        augment: of ``augment.AUGMENTATIONS``; applied to ``defend`` only; what attackers draw of
            ``auxiliary`` is changed as the entry says.
        data_dir: where prepared data lies; ``None`` is tfds's own default.
        manual_dir: official files, from which the data is prepared if it is not there yet.

    Returns:
        The data, split by original.

    Raises:
        DataError: the data cannot be had or used.
        ValueError: for an unknown name, or an argument that the data set's loader refuses.

    Example:
        >>> load("digits-correlated", image_size=8).name
        'digits-correlated'
    """
    # Before anything is read, which may take minutes.
    check_augmentations(augment)
    entry = find(name, primary, group)
    task, attributes = entry.tasks(primary, sensitive)
    if entry.embedded is not None:
        data = choose(entry.embedded(seed=seed, image_size=image_size), task, attributes)
    else:
        spec = entry.spec or Spec(name)
        if manual_dir is not None and entry.store is None:
            # tfds is heavy; only preparation needs it here.
            from ani_jax.data import builders

            builders.prepare(spec.name, manual_dir, data_dir)
        stored = entry.store or prepared.find(spec.name, data_dir)
        chosen = {"primary": task, "sensitive": attributes, "originals": originals}
        data = pictures.load(spec, stored, seed=seed, image_size=image_size, **chosen)
        # As the user calls it, and not as it is prepared: "emnist" lies under "emnist/balanced".
        data = dataclasses.replace(data, name=name)
    # What attackers draw must not hang on what the defender chose.
    drawn = {"defend": tuple(augment), "auxiliary": entry.alike}
    sources = {name: (getattr(data, name), names) for name, names in drawn.items() if names}
    changed = {name: Source(own.stored, Augmented(own.render, names)) for name, (own, names) in sources.items()}
    return dataclasses.replace(data, **changed)


def table() -> tuple[tuple[str, ...], ...]:
    """The catalogue as rows of text, the header first.

    Example:
        >>> [row[:3] for row in table()][:2]
        [('name', 'primary', 'sensitive'), ('digits', 'digit', 'ink, paper')]
    """
    header = ("name", "primary", "sensitive", "originals", "licence", "how to get it", "description")
    rows = (
        (e.name, e.primary, ", ".join(e.sensitive) or "-", f"{e.size:,}", e.licence, e.obtain, e.description)
        for e in ENTRIES
    )
    return (header, *rows)
