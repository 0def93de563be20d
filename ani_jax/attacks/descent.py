"""Finding the image behind a release by descent: the objective of METHODS 5.3, for many images at once.

    misfit(x_hat, z) + variation * TV(x_hat) + energy * mean((x_hat - start)^2)        one such sum an image, never an average

    deterministic client    misfit = mean(rate^2 * (release(x_hat) - z)^2)
    declared density        misfit = -1/(k d) * sum_k log p(z_k | x_hat),  log stddev included
    other noise             misfit = mean(rate^2 * (a - mean_k z_k) * (b - mean_k z_k)),  a and b two draws given x_hat

The last one's expectation is the squared distance between mean releases; a plain squared distance to one draw would
add the variance of the noise and pull x_hat towards images that get little of it. ``rate`` standardises each feature, so
that rescaling buys nothing.

He, Zhang & Lee's (2019) quadratic prior pulls towards black; [ours] it pulls towards where the descent started, which is the
mean image or a decoder's guess: a better idea of the image, from which fewer steps are needed.

What is unknown may be pixels or a code of them: see :class:`Canvas`. The loop runs on the host (see ``optimize/fit.py``).
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ani_jax.attacks.base import Asked, OnEvent
from ani_jax.attacks.query import Observed, flat
from ani_jax.losses.reconstruction import total_variation
from ani_jax.types import Features, Images, PRNGKey, Release

ROWS = 256
"""Unknowns that are moved by one dispatch."""
PEAK = 4.0
"""How many standard deviations the largest deviation of a feature may be: a feature that is seldom lit has a tiny
deviation, and standardised by it alone would drown all others where it is lit."""
DRAWS = 8
"""Draws of undeclared noise that a finished objective is averaged over."""


ADAM = optax.scale_by_adam(eps=1e-12)
"""Its floor lies far below any gradient of a mean over features."""


class Setting(NamedTuple):
    """How an image is sought: numbers, or one number an image; chosen on ``validation``.

    Attributes:
        rate: Adam's first step size, which falls to 0 by a cosine.
        variation: weight of the total variation.
        energy: weight of the canvas's own penalty: mean((x_hat - start)^2) for pixels.
    """

    rate: Any
    variation: Any = 0.0
    energy: Any = 0.0


@runtime_checkable
class Canvas(Protocol):
    """What the unknowns are; static and hashable."""

    def paint(self, variables: Any, unknown: Array) -> Images:
        """The images of unknowns (n, ...)."""
        ...

    def allowed(self, unknown: Array) -> Array:
        """The nearest unknowns that are possible."""
        ...

    def energy(self, unknown: Array, start: Array) -> Float[Array, " n"]:
        """What an unknown costs, given where it started."""
        ...


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The image itself, projected onto [0, 1] after every step.

    Attributes:
        bounded: whether it is projected.
    """

    bounded: bool = True

    def paint(self, variables: Any, unknown: Images) -> Images:
        """The image is the unknown."""
        del variables
        return unknown

    def allowed(self, unknown: Images) -> Images:
        """Clipped to [0, 1]."""
        return unknown.clip(0, 1) if self.bounded else unknown

    def energy(self, unknown: Images, start: Images) -> Float[Array, " n"]:
        """mean((x_hat - start)^2)."""
        return drift(unknown, start)


def drift(unknown: Array, start: Array) -> Float[Array, " n"]:
    """How far each unknown is from where it started: the mean square over its elements."""
    return jnp.square(flat(unknown - start)).mean(1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Goal:
    """The client whose features are to be met.

    Attributes:
        release: the client, or what stands for it.
        rate: 1 / scale of each feature.
        likelihood: whether its declared density is the objective (static).
    """

    release: Release
    rate: Features
    likelihood: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def noisy(self) -> bool:
        """Whether one evaluation of the misfit is a random number."""
        return self.release.stochastic and not self.likelihood and self.release.mean is None

    def misfit(self, images: Images, z: Observed, key: PRNGKey) -> Float[Array, " n"]:
        """How badly each image explains the k releases ``z``; the equations are the module's."""
        if self.likelihood:

            def each(one: Features) -> Float[Array, " n"]:
                return self.release.log_prob(self.release.variables, one, images)  # type: ignore[misc]

            try:
                told = jax.vmap(each)(z)
            except NotImplementedError:
                # An exported program cannot be mapped; one release after the other it can be asked.
                told = jax.lax.map(each, z)
            # By release and by feature, as the squared distance is: one grid of priors' weights serves both.
            return -told.mean(0) / max(1, flat(z[0]).shape[1])
        first, second = self.expected(images, key)
        goal = z.mean(0)
        # Two draws, not the square of one, which adds the noise's variance and prefers images that get little of it.
        return flat((first - goal) * (second - goal) * jnp.square(self.rate)[None]).mean(1)

    def expected(self, images: Images, key: PRNGKey) -> tuple[Features, Features]:
        """Two independent unbiased values of the mean release, which are one where nothing is random."""
        if self.release.stochastic and self.release.mean is not None:
            known = self.release.mean(self.release.variables, images)
            return known, known
        keys = jax.random.split(key)
        first = self.release(images, keys[0])
        return first, self.release(images, keys[1]) if self.release.stochastic else first


class Found(NamedTuple):
    """What a descent found.

    Attributes:
        unknown: (n, ...), the best of the restarts.
        objective: (n,), its objective.
        finite: (n,), whether any restart ended with a finite objective and gradient.
    """

    unknown: Array
    objective: Float[Array, " n"]
    finite: Bool[Array, " n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    """What stays the same throughout one descent; every start of every image is a row.

    Attributes:
        goal: what is to be met.
        variables: of the canvas.
        start: where each row began.
        z: k releases of each row's image.
        setting: one number a row.
        key: of undeclared noise.
        canvas: what is unknown (static).
    """

    goal: Goal
    variables: Any
    start: Array
    z: Observed
    setting: Setting
    key: PRNGKey
    canvas: Canvas = dataclasses.field(metadata={"static": True})

    def objective(self, unknown: Array, key: PRNGKey) -> Float[Array, " n"]:
        """The module's objective of every row."""
        images = self.canvas.paint(self.variables, unknown)
        priors = self.setting.variation * total_variation(images)
        priors = priors + self.setting.energy * self.canvas.energy(unknown, self.start)
        return self.goal.misfit(images, self.z, key) + priors


class _State(NamedTuple):
    unknown: Array
    last: Array
    adam: Any
    good: Bool[Array, " n"]


def descend(
    goal: Goal,
    canvas: Canvas,
    variables: Any,
    starts: Float[Array, "r n ..."],
    z: Observed,
    setting: Setting,
    steps: int,
    key: PRNGKey,
    on_event: OnEvent | None = None,
) -> Found:
    """Minimises the objective of every image from every start; the lowest objective wins.

    An image's result does not depend on the images beside it. An objective or gradient that is not finite ends that
    row's descent at its last finite state. No row ends with a higher objective than it started with.

    Args:
        goal: what is to be met.
        canvas: what is unknown (static).
        variables: of the canvas, traced.
        starts: r starts of each of n unknowns.
        z: k releases of each.
        setting: numbers, or (n,) arrays.
        steps: of Adam.
        key: of undeclared noise.
        on_event: called with "step" and "loss" ten times at most.

    Example:
        >>> from ani_jax.attacks.query import as_release
        >>> goal = Goal(as_release(lambda x: 2 * x), jnp.ones((1, 1, 1)))
        >>> z, start = jnp.full((1, 1, 1, 1, 1), 1.5), jnp.zeros((1, 1, 1, 1, 1))
        >>> found = descend(goal, Pixels(), None, start, z, Setting(0.1), 100, jax.random.key(0))
        >>> found.unknown.round(2).item(), found.finite.item()
        (0.75, True)
    """
    search, state = begin(goal, canvas, variables, starts, z, setting, key)
    every = max(1, steps // 10)
    # On the host: a convolution in a compiled loop loses its threads on the CPU, see optimize/fit.py.
    for index in range(steps):
        state, objective = advance(search, state, index, steps)
        if on_event is not None and (index + 1) % every == 0:
            # A number makes the host wait for the device, hence ten times at most.
            on_event({"step": index + 1, "loss": float(objective.mean())})
    return _end(starts.shape[0], search, state)


def begin(
    goal: Goal,
    canvas: Canvas,
    variables: Any,
    starts: Float[Array, "r n ..."],
    z: Observed,
    setting: Setting,
    key: PRNGKey,
) -> tuple[_Search, _State]:
    """A descent before its first step; arguments as of :func:`descend`."""
    state, z, setting = _as_rows(starts, z, setting)
    return _Search(goal, variables, state.unknown, z, setting, key, canvas), state


# Without the client, so that descents of equal shapes on whatever client share it.
@jax.jit
def _as_rows(starts: Float[Array, "r n ..."], z: Observed, setting: Setting) -> tuple[_State, Observed, Setting]:
    r, n = starts.shape[:2]
    setting = Setting(*(jnp.tile(jnp.broadcast_to(jnp.asarray(part, jnp.float32), (n,)), r) for part in setting))
    start = starts.reshape(r * n, *starts.shape[2:])
    state = _State(start, start, ADAM.init(start), jnp.ones(r * n, bool))
    return state, jnp.tile(z, (1, r, *(1,) * (z.ndim - 2))), setting


# Number and count of steps are traced: one program for all steps of all descents of a shape.
@jax.jit
def advance(search: _Search, state: _State, index: int, steps: int) -> tuple[_State, Float[Array, " n"]]:
    """One step of every row that is still finite."""
    step_key = jax.random.fold_in(search.key, index)

    def total(unknown: Array) -> tuple[Array, Array]:
        each = search.objective(unknown, step_key)
        # A sum, never the mean: an image's gradient must not depend on how many are beside it.
        return each.sum(), each

    (_, each), gradient = jax.value_and_grad(total, has_aux=True)(state.unknown)
    good = state.good & jnp.isfinite(each) & jnp.isfinite(flat(gradient)).all(1)
    keep = functools.partial(_where, good)
    updates, adam = ADAM.update(jax.tree.map(jnp.nan_to_num, gradient), state.adam)
    rate = search.setting.rate * 0.5 * (1 + jnp.cos(jnp.pi * index / steps))
    moved = search.canvas.allowed(state.unknown - _rows(rate, state.unknown) * updates)  # type: ignore[operator]
    # A row that is no longer finite goes back to where it was last seen finite, and stays there.
    return _State(keep(moved, state.last), keep(state.unknown, state.last), adam, good), each


@functools.partial(jax.jit, static_argnums=0)
def _end(restarts: int, search: _Search, state: _State) -> Found:
    """The finite state with the lowest objective among ends and starts of all restarts."""
    # The same draws for whatever is compared below: none may win by its luck with the noise.
    start, keys = search.start, jax.random.split(search.key, DRAWS if search.goal.noisy else 1)

    def objective(unknown: Array) -> Array:
        return jnp.stack([search.objective(unknown, key) for key in keys]).mean(0)

    # A last step onto something not finite is taken back.
    ended = _where(jnp.isfinite(objective(state.unknown)), state.unknown, state.last)
    # Starts compete, so that no descent gives back worse than it was given.
    candidates = jnp.stack([ended, start]).reshape(2 * restarts, -1, *start.shape[1:])
    values = jnp.stack([objective(ended), objective(start)]).reshape(2 * restarts, -1)
    # argmin takes a NaN for the least of all.
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = values.argmin(0)
    finite = state.good.reshape(restarts, -1).any(0) & jnp.isfinite(values.min(0))
    columns = jnp.arange(best.shape[0])
    return Found(candidates[best, columns], values[best, columns], finite)


def _where(condition: Bool[Array, " n"], new: Array, old: Array) -> Array:
    return jnp.where(_rows(condition, new), new, old)


def _rows(values: Array, like: Array) -> Array:
    """One value a row, shaped to broadcast over ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def feature_rates(z: Float[Array, "n ..."]) -> Features:
    """1 / scale of each feature of a sample: its standard deviation, or its peak deviation over ``PEAK`` if larger.

    0 for a feature that never changes, see ``Standardiser``.

    Example:
        >>> feature_rates(jnp.array([[0.0, 5.0], [2.0, 5.0]])).tolist()
        [1.0, 0.0]
    """
    mean = z.mean(0)
    scale = jnp.maximum(z.std(0), jnp.abs(z - mean[None]).max(0) / PEAK)
    alive = scale > 1e-6 * jnp.abs(mean)
    return jnp.where(alive, 1 / jnp.where(alive, scale, 1), 0)


def sample_means(asked: Asked) -> Features:
    """The mean of k releases of each sample image, without the deviations that stand beside it for k > 1."""
    return asked.sample_z[..., : asked.held.shape[-1]]


def goal_of(asked: Asked, release: Release, images: Images) -> Goal:
    """How to meet what a client sends: by its density where that is declared and finite at ``images``, else by its mean.

    Args:
        asked: of the client.
        release: the client, or what stands for it.
        images: where the descent for the first validation images begins.
    """
    rate = feature_rates(sample_means(asked))
    if release.stochastic and release.log_prob is not None:
        goal = Goal(release, rate, likelihood=True)
        # No key is drawn from where a density is declared.
        misfit = jax.jit(Goal.misfit)(goal, images, asked.held[:, : len(images)], jax.random.key(0))
        # A density that is not finite where the descent begins would end it there.
        if bool(jnp.isfinite(misfit).all()):
            return goal
    return Goal(release, rate)


def report(on_event: OnEvent | None, **event: Any) -> None:
    """Calls ``on_event`` where there is one."""
    if on_event is not None:
        on_event({name: float(value) if isinstance(value, Array) else value for name, value in event.items()})
