"""Recipes of what is prepared without TensorFlow: features, official files, where they come from and under which licence."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from ani_jax.data import faces, official
from ani_jax.data.files import Tally, Watch


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
