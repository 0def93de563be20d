"""Views of what is sent: the same features told in several ways, so that what is quiet, skewed or out of place is heard too.

An attribute may sit in how features are scaled, in their ranks, in their order over positions or in how they agree with one
another; a learner that hears one telling only misses the others (METHODS 5.0 b). A view is fitted on ``auxiliary`` alone and is
a pytree callable ``z (n, ...) -> (n, d)``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ani_jax.attacks.base import Attack, Context, Fitted, Standardiser, in_chunks
from ani_jax.attacks.query import flat, predicted
from ani_jax.targets.base import Target
from ani_jax.types import Features, Logits

View = Callable[[Features], Float[Array, "n d"]]
SQUARE = 4
"""Side of the squares that contrasts are within."""
KNOTS, TAIL = 17, 3.2
"""Quantiles of each feature that ranks are read off, and the normal score of the outermost."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Standardised:
    """Every feature at mean 0 and deviation 1."""

    standardise: Standardiser

    @classmethod
    def of(cls, z: Features) -> "Standardised":
        """Statistics of (n, ...) features."""
        return cls(Standardiser.of(z))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        return flat(self.standardise(z))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ranked:
    """Every feature through its own empirical quantiles to a standard normal: heavy tails and rare spikes come to one scale.

        f(z) = -TAIL + step * sum_j clip((z - q_j) / (q_j+1 - q_j), 0, 1),   q_j the quantile at the normal's j-th score

    Quantiles lie at equal steps of the normal score, so that tails are as finely told as the middle. Equal quantiles are one
    jump, of which the value itself gets half: a feature that is mostly 0 is mostly one number.

    Attributes:
        knots: (q, d), quantiles of each feature, increasing.

    Example:
        >>> view = Ranked.of(jnp.array([[0.0], [1.0], [10.0], [1e6]]))
        >>> [round(float(value), 1) for value in view(jnp.array([[-1.0], [5.5], [1e9]]))[:, 0]]
        [-3.2, 0.0, 3.2]
    """

    knots: Float[Array, "q d"]

    @classmethod
    def of(cls, z: Features) -> "Ranked":
        """Quantiles of (n, ...) features."""
        share = np.asarray(jax.scipy.special.ndtr(jnp.linspace(-TAIL, TAIL, KNOTS)))
        share = (share - share[0]) / (share[-1] - share[0])
        return cls(jnp.asarray(np.quantile(np.asarray(flat(z)), share, axis=0), jnp.float32))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        z, step = flat(z), 2 * TAIL / (KNOTS - 1)
        total = jnp.full_like(z, -TAIL)
        for low, high in zip(self.knots[:-1], self.knots[1:]):
            width, above = (high - low)[None], z - low[None]
            ramp = jnp.clip(above / jnp.where(width > 0, width, 1), 0, 1)
            total += step * jnp.where(width > 0, ramp, (jnp.sign(above) + 1) / 2)
        return total


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decorrelated:
    """ZCA whitening: directions of little variance are as loud as those of much, and each feature stays near its place.

    Attributes:
        standardise: before it.
        half: (d, r), whose product with its own transpose is the inverse square root of the correlations.
    """

    standardise: Standardiser
    half: Float[Array, "d r"]

    @classmethod
    def of(cls, z: Features, ridge: float = 1e-10) -> "Decorrelated":
        """Correlations of (n, ...) features; ``ridge`` is the share of the mean variance below which nothing is raised.

        In double precision: what a client was trained to hide lies in directions of a ten-millionth of the variance.
        """
        standardise = Standardiser.of(z)
        own = np.asarray(flat(standardise(z)), np.float64)
        # A direction in which nothing varies is rounding; it is not raised to the size of a signal.
        values, vectors = principal(own, 1e-13)
        # Not of the squares, which would be as many numbers again.
        floor = ridge * np.vdot(own, own) / own.size
        return cls(standardise, jnp.asarray(vectors * (values + floor) ** -0.25, jnp.float32))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        seen = jnp.matmul(flat(self.standardise(z)), self.half, precision=jax.lax.Precision.HIGHEST)
        return jnp.matmul(seen, self.half.T, precision=jax.lax.Precision.HIGHEST)


def principal(own: Float[np.ndarray, "n d"], least: float) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "d r"]]:
    """Principal components of centred rows, the smallest first.

    Args:
        own: the rows.
        least: components of a smaller part of the largest variance are left out.

    Returns:
        Variances, and orthonormal directions.

    Example:
        >>> principal(np.array([[2.0, 0.0], [-2.0, 0.0]]), 1e-6)[0].tolist()
        [4.0]
    """
    # The smaller of the two products has the same eigenvalues: several statistics of many features outnumber the rows.
    wide = own.shape[1] > len(own)
    values, vectors = np.linalg.eigh((own @ own.T if wide else own.T @ own) / len(own))
    kept = values > least * max(values[-1], 1e-20)
    values, vectors = values[kept], vectors[:, kept]
    return values, own.T @ vectors / np.sqrt(len(own) * values) if wide else vectors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Contrast:
    """What is left of each square of a map without the square's mean: noise that neighbours share is gone, a stroke is not.

    [ours] Measured on a prototype of ``ani`` whose noise is shared by squares of 4, 16 and 32 pixels as well (seed 100, chance
    25%): ranks of pixels read 28.5% of inks, these 64.8% after half as many steps. Vectors are as they are.

    Attributes:
        standardise: behind it.
    """

    standardise: Standardiser

    @classmethod
    def of(cls, z: Features) -> "Contrast":
        """Statistics of (n, ...) features."""
        return cls(Standardiser.of(_levelled(z)))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        return flat(self.standardise(_levelled(z)))


@jax.jit
def _levelled(z: Features) -> Features:
    if z.ndim != 4:
        return z
    # Of a map whose sides they do not divide, the map's own mean.
    height, width = (SQUARE if side % SQUARE == 0 else side for side in z.shape[1:3])
    squares = z.reshape(len(z), z.shape[1] // height, height, z.shape[2] // width, width, z.shape[3])
    return (squares - squares.mean((2, 4), keepdims=True)).reshape(z.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sorted:
    """Each channel's values in order of size over its positions: what is somewhere, wherever it is.

    Vectors are one channel.

    Example:
        >>> Sorted.of(jnp.ones((1, 2, 2, 1)))(jnp.array([3.0, 1.0, 2.0, 4.0]).reshape(1, 2, 2, 1)).tolist()
        [[1.0, 2.0, 3.0, 4.0]]
    """

    @classmethod
    def of(cls, z: Features) -> "Sorted":
        """Learns nothing."""
        del z
        return cls()

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        # As integers in the order of the floats, which XLA sorts in a third of the time (128 x 1024, jax 0.10.2, CPU).
        bits = jax.lax.bitcast_convert_type(positions(z).astype(jnp.float32), jnp.int32).swapaxes(1, 2)
        order = _turned(jax.lax.sort(_turned(bits), dimension=2, is_stable=False)).swapaxes(1, 2)
        return flat(jax.lax.bitcast_convert_type(order, jnp.float32))


def _turned(bits: Int[Array, "..."]) -> Int[Array, "..."]:
    """Bits of floats to integers in the same order, and back: negative ones lie the other way round."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pooled:
    """Each channel's mean, deviation, least and largest value over its positions; vectors are one channel."""

    @classmethod
    def of(cls, z: Features) -> "Pooled":
        """Learns nothing."""
        del z
        return cls()

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        cells = positions(z)
        return jnp.concatenate([cells.mean(1), cells.std(1), cells.min(1), cells.max(1)], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RanksOf:
    """The ranks of another view: of sorted values, each place in the order through its own quantiles.

    Attributes:
        view: that view.
        ranked: of what it gives.
    """

    view: View
    ranked: Ranked

    @classmethod
    def of(cls, kind: type, z: Features) -> "RanksOf":
        """Quantiles of the view of (n, ...) features."""
        view = kind.of(z)
        return cls(view, Ranked.of(view(z)))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        return self.ranked(self.view(z))


VIEWS: Mapping[str, Callable[[Features], View]] = MappingProxyType(
    {
        "standardised": Standardised.of,
        "ranked": Ranked.of,
        "decorrelated": Decorrelated.of,
        "contrast": Contrast.of,
        "sorted": functools.partial(RanksOf.of, Sorted),
        "pooled": functools.partial(RanksOf.of, Pooled),
    }
)
"""Name -> what makes it from (n, ...) features."""
FITTED, CORRELATED = 4096, 16_384
"""Rows that a view is learnt on at most, and one of correlations: of few, its quiet directions are those of these rows alone."""

LEARNT: dict[str, Callable[[Context], View]] = {}
"""Name -> what makes a view that builds on an attack; the attack's file adds it."""
FEATURES = Target("features")
"""What a view is asked of."""


@dataclasses.dataclass(frozen=True)
class Sight(Attack):
    """Learns a view, once for all that see by it.

    Attributes:
        seen: its name in ``VIEWS``.
    """

    target: Target = FEATURES
    seen: str = "standardised"

    family = "view"

    @property
    def name(self) -> str:
        """That of the view."""
        return self.seen

    def fit(self, context: Context) -> Fitted:
        """Gives the view."""
        rows = CORRELATED if self.seen == "decorrelated" else FITTED
        return Fitted(VIEWS[self.seen](context.asked.sample_z[:rows]))


def view_of(context: Context, name: str) -> View:
    """The view of that name on what a client sends.

    Raises:
        ValueError: it cannot be learnt from that.
    """
    return LEARNT[name](context) if name in LEARNT else context.needed(Sight(seen=name))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answered:
    """What the provider's own network makes of z: its standardised logits.

    Attributes:
        predict: the provider's network, a pytree callable.
        standardise: of its logits.
    """

    predict: Callable[[Features], Logits]
    standardise: Standardiser

    @classmethod
    def of(cls, predict: Callable[[Features], Logits], z: Features) -> "Answered":
        """Statistics of the logits of (n, ...) features."""
        return cls(predict, Standardiser.of(jnp.asarray(predicted(predict, z))))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        return flat(self.standardise(self.predict(z)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joined:
    """Several views beside each other."""

    parts: tuple[View, ...]

    @classmethod
    def of(cls, z: Features, names: tuple[str, ...], predict: Callable[[Features], Logits] | None = None) -> "Joined":
        """The views of those names, fitted on (n, ...) features, and what the provider's network makes of them, where granted."""
        told = () if predict is None else (Answered.of(predict, z),)
        return cls((*(VIEWS[name](z) for name in names), *told))

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The flat view."""
        return jnp.concatenate([part(z) for part in self.parts], axis=1)

    on = __call__

    def rows(self, z: Features) -> np.ndarray:
        """The view of many rows, on the host."""
        return np.asarray(in_chunks(self, z[None]))


def positions(z: Features) -> Float[Array, "n p c"]:
    """Channels at every position of a map; a vector's numbers are as many positions of one channel."""
    return z.reshape(z.shape[0], -1, z.shape[-1] if z.ndim > 2 else 1)
