"""Official layouts of face sets: utkface (names), fairface (csv), facescrub and orl_faces (folders of identities).

Readers take the folder or the zip archive as it was fetched. A picture that cannot be decoded, or whose name is not in the
official form, is left out and counted in the tally; labels out of range stop the preparation.
"""

import collections
import csv
import io
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ani_jax.data.entry import Entry, Recipe, numbers
from ani_jax.data.files import DataError, Examples, Picture, Tally, Watch, decode, digest, encode, pictures
from ani_jax.data.pictures import Spec, View

GENDERS = ("male", "female")
UTKFACE_RACES = ("white", "black", "asian", "indian", "other")
UTKFACE_AGES = 117
"""Ages in utkface's names are 0 to 116."""
FAIRFACE_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
FAIRFACE_RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")

_UTKFACE = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\.jpg(?:\.chip\.jpg)?", re.I)
_FACESCRUB = re.compile(r"(?:.*/)?(actor|actress)(?:s|es|_faces)?/(?:faces/)?([^/]+)/[^/]+$", re.I)
_ORL = re.compile(r"(?:.*/)?(s\d+)/\d+\.pgm$", re.I)


def utkface_labels(name: str) -> dict[str, int] | None:
    """Age, gender and race from ``age_gender_race_date.jpg[.chip.jpg]``; ``None`` for any other form.

    Example:
        >>> utkface_labels("61_1_3_20170109150557335.jpg.chip.jpg")
        {'age': 61, 'gender': 1, 'race': 3}
        >>> utkface_labels("61_1_20170109150557335.jpg.chip.jpg") is None
        True
    """
    found = _UTKFACE.fullmatch(name)
    if found is None:
        return None
    age, gender, race = map(int, found.groups())
    return {"age": age, "gender": gender, "race": race} if age < UTKFACE_AGES else None


def read_utkface(folder: pathlib.Path, tally: Tally, watch: Watch) -> dict[str, Examples]:
    """One split, "train", of all pictures whose name is well formed and that have no exact twin.

    Both copies of a twin go, since many carry conflicting labels. Twins are pictures of equal pixels, whatever their bytes.

    Args:
        folder: holds the JPEGs, at any depth, or the zip archive of them.
        tally: gets "malformed name", "undecodable" and "exact twin".
        watch: sees the pictures go by while they are compared.

    Returns:
        Examples with "image", "file", "age" in years, "gender" and "race".

    Raises:
        DataError: no picture in the official naming, or too many that cannot be decoded.
    """
    named = {}
    for picture in pictures(folder):
        labels = utkface_labels(pathlib.PurePosixPath(picture.name).name)
        if labels is None:
            tally.skip("malformed name", picture.name)
        else:
            named[picture] = labels
    digests = _digests(folder, named, tally, watch)
    times = collections.Counter(digests.values())
    for picture, key in digests.items():
        if times[key] > 1:
            tally.skip("exact twin", picture.name)
    return {"train": _written({picture: named[picture] for picture, key in digests.items() if times[key] == 1})}


def read_fairface(folder: pathlib.Path, tally: Tally, watch: Watch) -> dict[str, Examples]:
    """The splits "train" and "validation" that the two csv files list.

    Args:
        folder: holds ``fairface_label_train.csv``, ``fairface_label_val.csv`` and the pictures or their zip archive.
        tally: gets "undecodable" and "missing picture".
        watch: sees the pictures go by while they are checked.

    Returns:
        Examples with "image", "file", "age", "gender" and "race".

    Raises:
        DataError: a column or file is missing, a label is out of range, or too many pictures cannot be decoded.
    """
    # By folder and name, as the tables have them: the archive may have been unpacked at any depth.
    found = {"/".join(picture.name.split("/")[-2:]): picture for picture in pictures(folder)}
    classes = {"age": FAIRFACE_AGES, "gender": ("Male", "Female"), "race": FAIRFACE_RACES}
    splits = {}
    for split, short in (("train", "train"), ("validation", "val")):
        path = folder / f"fairface_label_{short}.csv"
        labelled = {}
        # Line 1 is the header.
        for number, row in enumerate(csv.DictReader(io.StringIO(path.read_text())), start=2):
            missing = {"file", *classes} - set(row)
            if missing:
                raise DataError(f"manual_dir={path}: no column {sorted(missing)[0]!r}; fetch the file again")
            for name, allowed in classes.items():
                if row[name] not in allowed:
                    raise DataError(
                        f"manual_dir={path}: {name} {row[name]!r} in line {number} is out of range; "
                        f"allowed: {', '.join(allowed)}"
                    )
            labels = {name: allowed.index(row[name]) for name, allowed in classes.items()}
            if row["file"] in found:
                labelled[found[row["file"]]] = labels
            else:
                tally.skip("missing picture", row["file"])
        splits[split] = _examples(folder, labelled, tally, watch)
    return splits


def read_facescrub(folder: pathlib.Path, tally: Tally, watch: Watch) -> dict[str, Examples]:
    """One split, "train", of ``actors/faces/NAME/*`` and ``actresses/faces/NAME/*`` (or ``actor_faces/NAME/*``).

    Args:
        folder: holds the two folders of identities, or a zip archive of them.
        tally: gets "malformed name" (a picture elsewhere) and "undecodable".
        watch: sees the pictures go by while they are checked.

    Returns:
        Examples with "image", "file", "identity" (the name) and "gender".

    Raises:
        DataError: no picture in this layout, or too many that cannot be decoded.
    """

    def labels(name: str) -> dict[str, Any] | None:
        found = _FACESCRUB.fullmatch(name)
        if found is None or found[2].lower() == "images":
            return None
        return {"identity": found[2].replace("_", " "), "gender": int(found[1].lower() == "actress")}

    return _by_name(folder, tally, watch, labels)


def read_orl_faces(folder: pathlib.Path, tally: Tally, watch: Watch) -> dict[str, Examples]:
    """One split, "train", of ``s1/1.pgm`` to ``s40/10.pgm``.

    Args:
        folder: holds the folders of identities, or a zip archive of them.
        tally: gets "malformed name" and "undecodable".
        watch: sees the pictures go by while they are checked.

    Returns:
        Examples with "image" (PNG), "file" and "identity" ("s1" and so on).

    Raises:
        DataError: no picture in this layout, or too many that cannot be decoded.
    """

    def labels(name: str) -> dict[str, Any] | None:
        found = _ORL.fullmatch(name)
        return {"identity": found[1].lower()} if found else None

    return _by_name(folder, tally, watch, labels)


def _by_name(
    folder: pathlib.Path, tally: Tally, watch: Watch, labels: Callable[[str], dict[str, Any] | None]
) -> dict[str, Examples]:
    named = {}
    for picture in pictures(folder):
        known = labels(picture.name)
        if known is None:
            tally.skip("malformed name", picture.name)
        else:
            named[picture] = known
    return {"train": _examples(folder, named, tally, watch)}


def _digests(folder: pathlib.Path, found: Iterable[Picture], tally: Tally, watch: Watch) -> dict[Picture, bytes]:
    """The digest of the pixels of every picture that can be decoded; the others go to the tally."""
    found = list(found)
    if not found:
        raise DataError(f"manual_dir={folder}: no picture in the official naming in this folder or a zip archive in it")
    digests = {}
    for picture in watch(found, "checking pictures"):
        try:
            digests[picture] = digest(decode(picture.read()))
        except ValueError:
            tally.skip("undecodable", picture.name)
    tally.check(len(found), f"manual_dir={folder}")
    return digests


def _examples(folder: pathlib.Path, labelled: dict[Picture, dict[str, Any]], tally: Tally, watch: Watch) -> Examples:
    """The examples of the pictures that can be decoded; checked now, written when asked for."""
    return _written({picture: labelled[picture] for picture in _digests(folder, labelled, tally, watch)})


def _written(labelled: dict[Picture, dict[str, Any]]) -> Examples:
    for picture, labels in labelled.items():
        content = picture.read()
        # tfds knows how to read JPEG and PNG; anything else becomes PNG.
        if not content.startswith((b"\xff\xd8", b"\x89PNG")):
            content = encode(decode(content))
        yield picture.name, {"image": content, "file": picture.name, **labels}


def _recipe(read: Any, origin: str, tables: tuple[str, ...] = (), channels: int = 3, **labels: Any) -> Recipe:
    """What every set of faces is prepared into: the picture, its file's name, and labels as named classes, text or numbers."""

    def features() -> dict[str, Any]:
        import tensorflow_datasets as tfds

        made: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, channels)),
            "file": tfds.features.Text(),
        }
        for name, kind in labels.items():
            if isinstance(kind, tuple):
                made[name] = tfds.features.ClassLabel(names=kind)
            else:
                made[name] = tfds.features.Text() if kind is str else tfds.features.Scalar(kind)
        return made

    some_picture = tuple(f"*{ending}" for ending in (".zip", ".jpg", ".jpeg", ".png", ".pgm"))
    return Recipe("1.0.0", features, read, (*((table,) for table in tables), some_picture), origin)


AGES = (
    ("0-12", numbers(0, 12)),
    ("13-19", numbers(13, 19)),
    ("20-29", numbers(20, 29)),
    ("30-39", numbers(30, 39)),
    ("40-59", numbers(40, 59)),
    ("60 and more", numbers(60, 116)),
)

ENTRIES = (
    Entry(
        name="utkface",
        primary="gender",
        sensitive=("race", "age"),
        size=23_708,
        licence="research use only; the pictures belong to their owners (Zhang, Song and Qi)",
        description="faces by age, gender and race, as annotated by a network and checked by people; no identities",
        obtain="JPEGs or their zip archive, whole or a part of it, --manual_dir",
        spec=Spec("utkface", views=(View("age", "age", AGES),)),
        alike=("flip",),
        # Gender 81%, race 61% balanced after 7 minutes of a core (practice seed 100); HOG and a linear SVM have 75 and 57%.
        usual={
            "image_size": 64,
            "augment": ("flip", "crop"),
            "reference_width": 32,
            "reference_steps": 1500,
            "none": {"width": 32, "steps": 1500},
        },
        recipe=_recipe(
            read_utkface, "https://susanqq.github.io/UTKFace", age=np.int32, gender=GENDERS, race=UTKFACE_RACES
        ),
    ),
    Entry(
        name="fairface",
        primary="gender",
        sensitive=("race", "age"),
        size=97_698,
        licence="CC BY 4.0 (Karkkainen and Joo)",
        description="faces balanced over seven races, by age, gender and race",
        obtain="two csv files and the pictures or their zip archive, --manual_dir",
        spec=Spec("fairface"),
        alike=("flip",),
        recipe=_recipe(
            read_fairface,
            "https://github.com/joojs/fairface",
            tables=("fairface_label_train.csv", "fairface_label_val.csv"),
            age=FAIRFACE_AGES,
            gender=GENDERS,
            race=FAIRFACE_RACES,
        ),
    ),
    Entry(
        name="facescrub",
        primary="gender",
        sensitive=("identity",),
        size=106_863,
        licence="the list CC BY-NC-ND; the pictures belong to their owners (Ng and Winkler)",
        description="faces of 530 actors; the identity, of those with 20 pictures or more, determines the gender",
        obtain="folders actors/ and actresses/ or their zip archive, --manual_dir",
        spec=Spec("facescrub", identity="identity", least=20),
        alike=("flip",),
        recipe=_recipe(read_facescrub, "https://vintage.winklerbros.net/facescrub.html", identity=str, gender=GENDERS),
    ),
    Entry(
        name="orl_faces",
        primary="identity",
        sensitive=(),
        size=400,
        licence="free for research with credit (AT&T Laboratories Cambridge)",
        description="40 people, 10 grey pictures each; the task is the identity, so splits are by picture",
        obtain="folders s1 to s40 or att_faces.zip, --manual_dir",
        spec=Spec("orl_faces", identity="identity"),
        alike=("flip",),
        recipe=_recipe(read_orl_faces, "https://cam-orl.co.uk/facedatabase.html", channels=1, identity=str),
    ),
)
