"""What the catalogue knows of a data set before anything is loaded; every data set is a file in ``data/sets``."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ani_jax.data.files import Examples, Tally, Watch
from ani_jax.data.pictures import Spec
from ani_jax.data.prepared import Store
from ani_jax.types import Data


@runtime_checkable
class Reader(Protocol):
    """Reads official files: ``(folder, tally, watch) -> {split: examples}``."""

    def __call__(self, folder: pathlib.Path, tally: Tally, watch: Watch, /) -> dict[str, Examples]:
        """Checks the files at once and yields the examples lazily."""
        ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a data set is made without TensorFlow: from its official files, or on the spot.

    Attributes:
        version: of the prepared data set; that of the shipped tfds builder where there is one.
        features: makes the tfds features; called where something is prepared, because tfds is heavy.
        read: reads the official files.
        needs: files, any one of each tuple's patterns, that must be in the manual folder.
        origin: address where to get them.
        made_by: says what makes a set that is not read from files, with versions, or raises where that is missing; ``None``
            for files.
    """

    version: str
    features: Callable[[], Mapping[str, Any]]
    read: Reader
    needs: tuple[tuple[str, ...], ...]
    origin: str
    made_by: Callable[[], str] | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        name: what the user types.
        primary: name of the task that is solved unless the user names another.
        sensitive: names of the attributes that are attacked unless the user names others.
        others: names that both may be chosen from besides these; ``None`` allows any feature of the prepared data.
        size: number of originals.
        licence: of the data, with its authors.
        description: one line.
        obtain: how to get it.
        spec: how prepared pictures are read; ``None`` where nothing is prepared.
        recipe: how they are prepared; ``None`` leaves that to tfds's own builder.
        embedded: what loads a set that is not prepared, ``(seed=, image_size=) -> Data``.
        store: where pictures are read from that are neither; ``None`` for those that are.
        alike: augmentations under which a picture stays one of its kind: an attacker's own are drawn so, whatever trains.
        usual: settings that suit it better than the general defaults, by the name of their flag; under the name of a defence
            those of that one alone.
        classifier_macs: MACs of the smallest whole classifier known to come within a point of the undefended split at 32x32; a
            client that costs more could as well send only its answer. ``None`` where nobody looked.
    """

    name: str
    primary: str
    sensitive: tuple[str, ...]
    size: int
    licence: str
    description: str
    obtain: str
    spec: Spec | None = None
    recipe: Recipe | None = None
    embedded: Callable[..., Data] | None = None
    store: Store | None = None
    others: tuple[str, ...] | None = ()
    alike: tuple[str, ...] = ()
    usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifier_macs: int | None = None

    @property
    def prepared(self) -> str | None:
        """The name under which it is prepared; ``None`` where nothing need be."""
        return None if self.spec is None or self.store is not None else self.spec.name

    def tasks(self, primary: str | None, sensitive: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
        """The task and the attributes that are meant: the given ones, or else its own.

        Attributes that are not given leave out the task.

        Raises:
            ValueError: for a name that the data set does not have, or one named twice.

        Example:
            >>> Entry("x", "digit", ("ink", "paper"), 0, "", "", "").tasks("ink", None)
            ('ink', ('paper',))
        """
        chosen = self.primary if primary is None else primary
        if sensitive is None:
            sensitive = tuple(name for name in self.sensitive if name != chosen)
        allowed = None if self.others is None else (self.primary, *self.sensitive, *self.others)
        for flag, name in (("primary", chosen), *(("sensitive", name) for name in sensitive)):
            if allowed is not None and name not in allowed:
                raise ValueError(f"{flag}={name}: must be one of {', '.join(allowed)} for {self.name}")
        twice = [name for number, name in enumerate(sensitive) if name == chosen or name in sensitive[:number]]
        if twice:
            raise ValueError(
                f"sensitive={twice[0]}: is the primary task or named twice; every task needs a name of its own"
            )
        return chosen, tuple(sensitive)


def classes(*names: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """A view's classes: names for the classes 0, 1, ... of a feature that tfds only numbers.

    Example:
        >>> classes("cat", "dog")
        (('cat', ('0',)), ('dog', ('1',)))
    """
    return tuple((name, (str(number),)) for number, name in enumerate(names))


def numbers(first: int, last: int) -> tuple[str, ...]:
    """A feature's classes from one number to another, both included.

    Example:
        >>> numbers(8, 10)
        ('8', '9', '10')
    """
    return tuple(str(number) for number in range(first, last + 1))
