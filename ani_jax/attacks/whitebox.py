"""White-box inversion: regularised maximum likelihood for every image by itself (He, Zhang & Lee 2019; METHODS 5.3).

The objective and its descent are ``attacks/descent.py``'s. [ours] One of the starts is what the best decoder guesses,
in closed form or trained: on the undefended split of digits 300 steps from there find what thousands from the mean image do not.
The gradients of a surrogate compete with the client's own, which may lie (``attacks/masking.py``).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ani_jax.attacks import masking
from ani_jax.attacks.base import ATTACKS, Asked, Attack, Context, Fitted, Level, OnEvent, register
from ani_jax.attacks.descent import ROWS, Goal, Pixels, Setting, descend, goal_of, report
from ani_jax.attacks.query import Observed
from ani_jax.targets.base import Target
from ani_jax.targets.image import Image
from ani_jax.types import Images, Knowledge, PRNGKey, Release

SCATTER = 0.1
"""Standard deviation of what is added to the mean image for the third start and those after it."""
TOGETHER = 32
"""Images that descend together at most."""
SHORTER, FEWER = 4, 6
"""What part of its steps a setting is tried for at first, and what part of the settings then goes all the way."""


@dataclasses.dataclass(frozen=True)
class Starting(Attack):
    """An attack one of whose starts is what the best of a level's decoders guesses.

    Attributes:
        starters: the decoders that it is chosen from; none for none.
    """

    starters: tuple[Attack, ...] = ()

    @classmethod
    def able(cls, knowledge: Knowledge) -> bool:
        """Where there is a client to differentiate."""
        return knowledge.release is not None

    @classmethod
    def at(cls, target: Target, level: Level) -> tuple[Self, ...]:
        """The attack with all decoders of the level."""
        kinds = (kind for kind in ATTACKS[type(target)] if kind.family == "decoder")
        starters = tuple(one for kind in kinds for one in kind.at(target, level))
        return tuple(dataclasses.replace(one, starters=starters) for one in super().at(target, level))

    def repeated(self) -> Self:
        """The same with those that attack several releases, too."""
        kept = tuple(one for starter in self.starters if (one := starter.repeated()) is not None)
        return dataclasses.replace(self, starters=kept)


@register(Image)
@dataclasses.dataclass(frozen=True)
class WhiteBox(Starting):
    """Seeks the image whose release is the one observed; knows the client's weights.

    Asks once for all images, so it attacks repeated releases too.

    Attributes:
        steps: of Adam, from every start.
        restarts: starts: a decoder's guess, the mean image, then the mean image with noise.
        rates: grid of step sizes.
        variations: grid of weights of the total variation.
        energies: grid of weights of the squared distance to the start.
        tuned_on: validation images that the grid is tried on.
        bounded: whether images are kept in [0, 1].
        surrogate_steps: of the network whose gradients compete with the client's own.
    """

    steps: int = 1000
    restarts: int = 2
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    variations: tuple[float, ...] = (0.0, 1e-3, 1e-1)
    energies: tuple[float, ...] = (0.0, 3.0)
    tuned_on: int = 16
    bounded: bool = True
    surrogate_steps: int = 400

    family = "whitebox"
    levels = MappingProxyType(
        {
            "standard": {"steps": 300, "images": 32, "tuned_on": 8},
            "thorough": {"steps": 2000, "restarts": 4, "images": 256, "surrogate_steps": 2000},
        }
    )

    def fit(self, context: Context) -> Fitted:
        """Chooses start, whose gradients are followed, and setting on ``validation``."""
        asked = context.asked
        start_key, tune_key = jax.random.split(context.key)
        guess = context.best(self.starters)
        forms = context.fitted(masking.Forms(self.target, steps=self.surrogate_steps))
        inverters = [self.inverter(start_key, asked, release, guess) for release in forms.attacker or (asked.release,)]
        fitted = tune(tune_key, asked, inverters, self.grid, self.tuned_on, context.emit)
        return fitted._replace(failed=forms.failed or fitted.failed, note=forms.note)

    @property
    def grid(self) -> tuple[Setting, ...]:
        """All settings that are tried."""
        return settings(self.rates, self.variations, self.energies)

    def inverter(self, key: PRNGKey, asked: Asked, release: Release, guess: Any = None) -> "Inverter":
        """The attack on one release before its setting is chosen."""
        begin = asked.sample.image.mean(0)
        count = min(self.tuned_on, asked.held.shape[1])
        return Inverter(
            goal=goal_of(asked, release, jnp.broadcast_to(begin[None], (count, *begin.shape))),
            guess=guess,
            starts=scattered(key, begin, self.restarts - (guess is not None)),
            setting=Setting(self.rates[0]),
            steps=self.steps,
            canvas=Pixels(self.bounded),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inverter:
    """A white-box attacker.

    Attributes:
        goal: the client, or what stands for it.
        guess: a fitted decoder whose guess is the first start, None for none.
        starts: (r, h, w, c), the other starts, the same for every image.
        setting: of the descent; numbers, or one number an image.
        steps: of Adam (static).
        canvas: whether images are bounded (static).
    """

    goal: Goal
    guess: Any
    starts: Float[Array, "r h w c"]
    setting: Setting
    steps: int = dataclasses.field(metadata={"static": True})
    canvas: Pixels = dataclasses.field(default=Pixels(), metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Images:
        """Reconstructions (n, h, w, c)."""
        return self.solve(key, z)[0]

    def solve(self, key: PRNGKey, z: Observed) -> tuple[Images, Bool[Array, " n"]]:
        """Reconstructions, and for which of them the objective stayed finite."""
        starts = shared(self.starts, z.shape[1], None if self.guess is None else self.guess(key, z))

        def one(starts: Array, z: Observed, setting: Setting) -> tuple[Images, Bool[Array, " n"]]:
            found = descend(self.goal, self.canvas, None, starts, z, setting, self.steps, key)
            return found.unknown, found.finite

        return by_parts(one, starts, z, self.setting)


def shared(starts: Array, count: int, first: Array | None) -> np.ndarray:
    """The same starts for ``count`` images, after the first start of each, where it has one of its own."""
    whole = np.broadcast_to(np.asarray(starts)[:, None], (len(starts), count, *starts.shape[1:]))
    return whole if first is None else np.concatenate([np.asarray(first)[None], whole])


def by_parts(one: Any, starts: ArrayLike, z: ArrayLike, setting: Setting) -> tuple[Images, Bool[Array, " n"]]:
    """Calls ``one(starts, z, setting)`` on as many images at a time as fit ``ROWS``, always the same number."""
    # Cut by numpy: every eager slice of a new shape would be compiled.
    rows, observed = np.asarray(starts), np.asarray(z)
    k, n = observed.shape[:2]
    # Every start of an image is a row and holds its k releases: many of either leave room for fewer images.
    # A power of two and no more than ``TOGETHER``, so that the rounds of a tuning and what is scored share their program.
    size = max(1, min(1 << (n - 1).bit_length(), TOGETHER, ROWS // max(len(rows), k // 4)))
    columns = Setting(*(np.broadcast_to(np.asarray(part, np.float32), (n,)) for part in setting))
    parts = []
    for begin in range(0, n, size):
        # The last image fills up the last part: one compiled shape.
        index = np.minimum(begin + np.arange(size), n - 1)
        part = one(rows[:, index], observed[:, index], Setting(*(column[index] for column in columns)))
        parts.append([np.asarray(leaf)[: n - begin] for leaf in part])
    images, finite = (jnp.asarray(np.concatenate(leaves)) for leaves in zip(*parts, strict=True))
    return images, finite


@runtime_checkable
class Tunable(Protocol):
    """An attacker with a setting: a dataclass."""

    setting: Setting
    steps: int

    def solve(self, key: PRNGKey, z: Observed) -> tuple[Images, Bool[Array, " n"]]:
        """Reconstructions, and for which of them the objective stayed finite."""
        ...


def settings(*grids: Sequence[float]) -> tuple[Setting, ...]:
    """All combinations.

    Example:
        >>> len(settings((0.1, 0.3), (0.0, 1.0)))
        4
    """
    return tuple(Setting(*values) for values in itertools.product(*grids))


def tune(
    key: PRNGKey,
    asked: Asked,
    attackers: Sequence[Any],
    grid: Sequence[Setting],
    count: int,
    on_event: OnEvent | None,
) -> Fitted:
    """The attacker and setting with the lowest MSE on the first validation images.

    Every attacker with every setting descends a part of the way on half of the images; the best of these pairs, a sixth as
    many as there are settings, go all the way on all images. Pairs that stayed finite are preferred; where none did, the fit has
    failed.

    Args:
        key: of the descents.
        asked: of the client.
        attackers: see :class:`Tunable`; the first of equals is chosen.
        grid: the settings.
        count: validation images.
        on_event: receives every setting with its MSE as "loss".
    """
    z, images = np.asarray(asked.held)[:, :count], np.asarray(asked.validation.image)[:count]

    def tried(attacker: Any, some: Sequence[Setting], size: int) -> list[tuple[bool, float]]:
        columns = Setting(*(np.repeat(np.array(column, np.float32), size) for column in zip(*some, strict=True)))
        guess, finite = dataclasses.replace(attacker, setting=columns).solve(
            key, np.concatenate([z[:, :size]] * len(some), 1)
        )
        differences = np.asarray(guess).reshape(len(some), -1) - images[:size].reshape(1, -1)
        # By the truth, which attackers know of their own images: objectives under different priors are no common measure.
        errors = np.nan_to_num(np.square(differences).mean(1), nan=np.inf)
        broken = np.logical_not(finite).reshape(len(some), size).any(1)
        # False sorts before True: any setting that stayed finite beats all that did not.
        found = list(zip(broken.tolist(), errors.tolist(), strict=True))
        for setting, (bad, error) in zip(some, found, strict=True):
            report(on_event, step=attacker.steps, loss=error, finite=not bad, **setting._asdict())
        return found

    half, starts = -(-len(images) // 2), []
    for place, attacker in enumerate(attackers):
        brief = dataclasses.replace(attacker, steps=-(-attacker.steps // SHORTER))
        starts += [(value, place, setting) for value, setting in zip(tried(brief, grid, half), grid, strict=True)]
    better, best, least = sorted(starts)[: -(-len(grid) // FEWER)], None, (True, np.inf)
    for place, attacker in enumerate(attackers):
        some = [setting for _, where, setting in better if where == place]
        for value, setting in zip(tried(attacker, some, len(images)) if some else (), some, strict=True):
            if best is None or value < least:
                best, least = dataclasses.replace(attacker, setting=setting), value
    return Fitted(best, "the objective or its gradient is not finite" if least[0] else None)


def scattered(key: PRNGKey, begin: Array, count: int) -> Float[Array, "r ..."]:
    """The beginning itself, then copies with noise."""
    noise = SCATTER * jax.random.normal(key, (max(1, count), *begin.shape)).at[0].set(0)
    return begin[None] + noise
