"""Names of data sets and how to load them. A new data set is one loader elsewhere and one entry here."""

import dataclasses
from functools import partial
from typing import Protocol

from ani_jax.data import digits
from ani_jax.types import Data


class Loader(Protocol):
    """Makes a data set, split and ready to draw, from a seed and a picture size in pixels."""

    def __call__(self, *, seed: int, image_size: int) -> Data:
        """Loads the data; deterministic in its arguments."""
        ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a data set before anything is loaded.

    Attributes:
        name: what the user types.
        loader: makes it.
        primary: name of the task that the user wants solved.
        sensitive: names of the attributes that the task does not need.
        size: number of originals.
        licence: of the data, with its authors.
        description: one line.
        obtain: how to get it.
    """

    name: str
    loader: Loader
    primary: str
    sensitive: tuple[str, ...]
    size: int
    licence: str
    description: str
    obtain: str


_DIGITS = Entry(
    name="digits",
    loader=digits.load,
    primary="digit",
    sensitive=("ink", "paper"),
    size=1797,
    licence="CC BY 4.0 (Alpaydin and Kaynak 1998, UCI)",
    description="handwritten digits, ink and paper independent of them: full utility at chance leakage is attainable",
    obtain="ships inside scikit-learn",
)

ENTRIES: tuple[Entry, ...] = (
    _DIGITS,
    dataclasses.replace(
        _DIGITS,
        name="digits-correlated",
        loader=partial(digits.load, correlated=True),
        description="the same scans, ink agrees with the digit's parity in 80%: knowing the digit gives the ink at 40%",
    ),
)
"""Every data set that ``load`` knows, in the order in which it is listed."""


def names() -> tuple[str, ...]:
    """Names that ``load`` accepts.

    Example:
        >>> names()
        ('digits', 'digits-correlated')
    """
    return tuple(entry.name for entry in ENTRIES)


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> find("digits").size
        1797
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise ValueError(f"dataset: {name!r}; allowed: {', '.join(names())}")


def load(name: str, seed: int = 0, image_size: int = 32) -> Data:
    """Loads a data set by name.

    Args:
        name: one of ``names()``.
        seed: decides the splits and whatever is drawn; 0 or more.
        image_size: side of the pictures in pixels.

    Returns:
        The data, split by original.

    Raises:
        ValueError: for an unknown name, or an argument that the data set's loader refuses.

    Example:
        >>> load("digits-correlated", image_size=8).name
        'digits-correlated'
    """
    return find(name).loader(seed=seed, image_size=image_size)


def table() -> tuple[tuple[str, ...], ...]:
    """The catalogue as rows of text, the header first.

    Example:
        >>> [row[:3] for row in table()][:2]
        [('name', 'primary', 'sensitive'), ('digits', 'digit', 'ink, paper')]
    """
    header = ("name", "primary", "sensitive", "originals", "licence", "how to get it", "description")
    rows = (
        (e.name, e.primary, ", ".join(e.sensitive), f"{e.size:,}", e.licence, e.obtain, e.description) for e in ENTRIES
    )
    return (header, *rows)
