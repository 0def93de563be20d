"""Augmentation of training pictures: pure functions of a key, one key an example, inside the step."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.types import Images, PRNGKey

Picture = Float[Array, "h w c"]

MAX_CROP = 1 / 8
"""Largest shift of a crop in either direction, as a share of the picture's side."""
MAX_BRIGHTNESS, MAX_CONTRAST, MAX_SATURATION = 0.2, 0.2, 0.2
"""Largest change of colour jitter: added to pixels; as a factor 1 +- it of the distance to the mean; and to grey."""


def flip(key: PRNGKey, image: Picture) -> Picture:
    """Mirrors left and right with probability one half."""
    import dm_pix

    return jnp.asarray(dm_pix.random_flip_left_right(key, image))


def crop(key: PRNGKey, image: Picture) -> Picture:
    """Shifts by up to ``MAX_CROP`` of the side in both directions; the border repeats the edge."""
    import dm_pix

    height, width, _ = image.shape
    borders = [(max(1, round(MAX_CROP * side)),) * 2 for side in (height, width)]
    return jnp.asarray(dm_pix.random_crop(key, jnp.pad(image, (*borders, (0, 0)), mode="edge"), image.shape))


def jitter(key: PRNGKey, image: Picture) -> Picture:
    """Changes brightness, contrast and saturation, each by a uniform amount, and clips to [0, 1]."""
    import dm_pix

    bright, contrast, saturate = jax.random.split(key, 3)
    changed = dm_pix.random_brightness(bright, image, MAX_BRIGHTNESS)
    changed = dm_pix.random_contrast(contrast, changed, 1 - MAX_CONTRAST, 1 + MAX_CONTRAST)
    changed = dm_pix.random_saturation(saturate, changed, 1 - MAX_SATURATION, 1 + MAX_SATURATION)
    return jnp.clip(jnp.asarray(changed), 0, 1)


AUGMENTATIONS: Mapping[str, Callable[[PRNGKey, Picture], Picture]] = MappingProxyType(
    {"flip": flip, "crop": crop, "jitter": jitter}
)
"""Name -> function of a key and one picture, in the order in which they apply."""


def augment(key: PRNGKey, images: Images, names: tuple[str, ...]) -> Images:
    """Applies the named augmentations to each picture independently.

    Example ``i`` depends on ``fold_in(key, i)`` and its own pixels only, never on the batch around it.

    Args:
        key: decides everything.
        images: in [0, 1].
        names: of ``AUGMENTATIONS``; applied in that table's order, whatever theirs.

    Returns:
        Images of the same shape, in [0, 1].

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> images = jnp.linspace(0, 1, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
        >>> augment(jax.random.key(0), images, ("jitter", "flip")).shape
        (2, 8, 8, 3)
        >>> bool((augment(jax.random.key(0), images, ()) == images).all())
        True
    """
    check(names)
    chosen = [function for name, function in AUGMENTATIONS.items() if name in names]

    def one(key: PRNGKey, image: Picture) -> Picture:
        for number, function in enumerate(chosen):
            image = function(jax.random.fold_in(key, number), image)
        return image

    # Folded in rather than split: a picture's key then depends on its place and not on how many stand beside it.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    return jax.vmap(one)(keys, images)


def check(names: tuple[str, ...]) -> None:
    """Refuses unknown names.

    Raises:
        ValueError: it names the first one and what is allowed.

    Example:
        >>> check(("flip", "spin"))
        Traceback (most recent call last):
        ...
        ValueError: augment=spin: must be one of flip, crop, jitter
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augment={name}: must be one of {', '.join(AUGMENTATIONS)}")
