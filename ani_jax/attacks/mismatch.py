"""Auxiliary images from another distribution (METHODS 5.7): how much does it matter that an attacker owns the right ones?"""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from ani_jax.attacks.base import register
from ani_jax.attacks.decoder import Kernel, Ridge
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Images, PRNGKey, Source

Shift = Callable[[PRNGKey, Images], Images]
"""``(key, images) -> images``; hashable, pure."""


def repaint(key: PRNGKey, images: Images) -> Images:
    """Another palette: red, green and blue change places in a circle; images of another number of channels are inverted.

    Example:
        >>> import jax
        >>> repaint(jax.random.key(0), jnp.array([0.1, 0.2, 0.3]).reshape(1, 1, 1, 3)).round(1).tolist()
        [[[[0.3..., 0.1..., 0.2...]]]]
    """
    del key
    return jnp.roll(images, 1, axis=-1) if images.shape[-1] == 3 else 1 - images


# A class and no closure: equal shifts of one source are equal, so that what draws from them compiles once.
@dataclasses.dataclass(frozen=True)
class Shifted:
    """The ``render`` of a source whose images are shifted after they are drawn; labels stay what they are.

    Attributes:
        render: of the source.
        shift: see :data:`Shift`.
    """

    render: Callable[[PRNGKey, Any], Batch]
    shift: Shift

    def __call__(self, key: PRNGKey, rows: Any) -> Batch:
        """Draws and shifts."""
        batch = self.render(key, rows)
        return batch._replace(image=self.shift(key, batch.image))


def mismatched(source: Source, shift: Shift = repaint) -> Source:
    """The same originals under a shifted distribution, for one attacker's ``auxiliary``.

    ``validation`` and ``test`` must stay as they are: the attacker is mistaken about the world, not scored in another one.

    Args:
        source: the auxiliary split.
        shift: what is different.

    Example:
        >>> from ani_jax.types import fixed
        >>> import jax
        >>> source = Source(Batch(jnp.zeros((2, 1, 1, 1)), jnp.arange(2), {}), fixed)
        >>> mismatched(source).draw(jax.random.key(0), 2).image.ravel().tolist()
        [1.0, 1.0]
    """
    return Source(source.stored, Shifted(source.render, shift))


SETTINGS = MappingProxyType({"standard": {}, "thorough": {}})


@register(Image)
@dataclasses.dataclass(frozen=True)
class MismatchedRidge(Ridge):
    """The linear decoder of an attacker who owns images of another palette; asked once an image."""

    family = "mismatched"
    levels = SETTINGS
    # A plain function would be bound to the attack and get it as its source.
    owns = staticmethod(mismatched)

    def repeated(self) -> None:
        """Sits out: what is shown is a gap beside an attacker who asks once."""

    @property
    def name(self) -> str:
        """As in the family that owns the right images."""
        return "ridge"


@register(Image)
@dataclasses.dataclass(frozen=True)
class MismatchedKernel(Kernel):
    """The kernel decoder of the same attacker."""

    family = "mismatched"
    levels = SETTINGS
    owns = staticmethod(mismatched)

    def repeated(self) -> None:
        """Sits out: what is shown is a gap beside an attacker who asks once."""

    @property
    def name(self) -> str:
        """As in the family that owns the right images."""
        return "kernel"
