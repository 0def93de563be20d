"""I(x; z + noise) from critics over several seeds, beside the same estimator's reading of data whose information is known.

None of these numbers is a certificate: a lower bound says what its critics found, never what is not there. The
self-test says how much critics of this kind find at these dimensions and numbers when it is there.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.attacks.base import Standardiser
from ani_jax.information.critics import Critics, Pairs, Reading, block_size, read_conditional, train_and_read
from ani_jax.information.networks import gaussian_log_density
from ani_jax.losses import information
from ani_jax.losses.checks import floating, require, require_batch
from ani_jax.records import InformationEstimate, SelfTest
from ani_jax.types import PRNGKey

Conditional = Callable[[Array, Array], Float[Array, "b c"]]
"""``(x (b, d_x), z (c, d_z)) -> log q(z_j | x_i)``, in the units of the given x and z."""
BELOW, ABOVE, AT_ZERO, CLUB = 0.25, 0.1, 0.05, 0.1
"""What a self-test may read below and above what it should, above 0 for independent samples (nats), and CLUB's share."""
TRUTHS = (0.0, 2.0)
"""Information of the Gaussians that an estimator is read on beside an estimate, nats."""
SATURATED = 0.5
"""Nats below the most that an estimator can read from which a value says only "at least"."""

_KINDS = {
    "mine": "Donsker-Varadhan lower bound, in expectation: its variance grows like exp(I)",
    "nwj": "lower bound; its variance grows like exp(I)",
    "infonce": "lower bound that cannot read above its cap, log {block} = {cap:.3f} nats, the log of the block it is read on",
    "smile": "clipped, so an estimate and not a bound: less variance for some bias",
    "club": "upper bound only if the conditional is exact, and loose: twice the truth and more for strong dependence",
}


def estimate_information(
    key: PRNGKey,
    train: tuple[Array, Array],
    selection: tuple[Array, Array],
    test: tuple[Array, Array],
    critics: Critics = Critics(),  # noqa: B008
    *,
    noise: float = 0.0,
    conditional: Conditional | None = None,
    self_test: Sequence[float] = TRUTHS,
) -> InformationEstimate:
    """Estimates I(x; z + noise) with critics that are trained, chosen and read on three sets of pairs (METHODS 6).

    x and z are standardised per element by ``train``; then N(0, noise^2) is added to z, anew at every step. Separate
    the three sets by scan or identity: a critic knows again what it was trained on.

    Args:
        key: of critics, batches and noise; the same key gives the same record.
        train: x (n, ...) and z (n, ...), flattened; n of 2 or more, as everywhere.
        selection: likewise; chooses each critic's step, the untrained critic included.
        test: likewise; what is reported.
        critics: the estimator and how its critics are trained.
        noise: in standard deviations of z's elements; a deterministic encoder of continuous x needs it above 0, or the
            truth is infinite.
        conditional: CLUB's q where it is known; nothing is trained or standardised then, and ``noise`` must be 0.
        self_test: information of the Gaussians to read beside it, nats; each costs as much as the estimate.

    Returns:
        The estimate; ``value`` is None with a ``reason`` where training or reading was not finite, ``caveats`` say what
        the estimator cannot.

    Raises:
        ValueError: an argument is outside its range, or the shapes do not fit.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (600, 1))
        >>> sets = [(one, one) for one in jnp.split(x, 3)]
        >>> critics = Critics("infonce", 1, 100, 16, learning_rate=1e-2)
        >>> found = estimate_information(jax.random.key(1), *sets, critics, noise=0.5, self_test=())
        >>> 0.4 < found.value < found.cap, round(found.log_n, 3)
        (True, 5.298)
    """
    sets: list[Pairs] = []
    for name, (x, z) in {"train": train, "selection": selection, "test": test}.items():
        x, z = floating(x), floating(z)
        require_batch(x, f"{name}.x", z, f"{name}.z")
        require(x.shape[0] >= 2, f"len({name}.x)", x.shape[0], "2 or more")
        require(x.size > 0 and z.size > 0, f"({name}.x.size, {name}.z.size)", (x.size, z.size), "above 0")
        sets.append(Pairs(x.reshape(x.shape[0], -1), z.reshape(z.shape[0], -1)))
        for values, first, what in zip(sets[-1], sets[0], ("x", "z"), strict=True):
            require(values.shape[1] == first.shape[1], f"{name}.{what}.shape[1]", values.shape[1], f"{first.shape[1]}")
    require(noise >= 0 and math.isfinite(noise), "noise", noise, "finite, 0 or more")
    _check_conditional(critics, conditional is not None and noise == 0, conditional is not None)
    # Self-tests draw from a key of their own: asking for more of them does not change the estimate.
    key, test_key = jax.random.split(key)
    keys = jax.random.split(key, critics.seeds)
    if conditional is None:
        sets = _standardised(sets)
        readings = _Readings.of([train_and_read(one, critics, *sets, noise=noise) for one in keys])
    else:
        readings = _Readings.of([read_conditional(one, conditional, sets[2]) for one in keys])
    examples = tuple(pairs.x.shape[0] for pairs in sets)
    dimensions = tuple(values.shape[1] for values in sets[0])
    return InformationEstimate(
        estimator=critics.estimator,
        noise=float(noise),
        examples=examples,
        dimensions=dimensions,
        log_n=math.log(examples[2]),
        cap=information.infonce_cap(block_size(examples[2])) if critics.estimator == "infonce" else None,
        caveats=_caveats(critics, readings, noise, examples[2]),
        self_tests=self_tests(
            test_key, critics, examples, dimensions, self_test, exact_conditional=conditional is not None
        ),
        **readings._asdict(),
    )


def self_tests(
    key: PRNGKey,
    critics: Critics,
    examples: Sequence[int],
    dimensions: Sequence[int],
    truths: Sequence[float] = TRUTHS,
    *,
    exact_conditional: bool = False,
) -> tuple[SelfTest, ...]:
    """:func:`gaussian_self_test` of each of ``truths``, with keys of their own."""
    return tuple(
        gaussian_self_test(one, truth, critics, examples, dimensions, exact_conditional=exact_conditional)
        for one, truth in zip(jax.random.split(key, len(truths)), truths, strict=True)
    )


def gaussian_self_test(
    key: PRNGKey,
    truth: float,
    critics: Critics,
    examples: Sequence[int],
    dimensions: Sequence[int],
    *,
    exact_conditional: bool = False,
) -> SelfTest:
    """Reads an estimator on Gaussians whose first min(d_x, d_z) elements are correlated pairwise, equally strongly.

    I = -d/2 log(1 - rho^2) nats. Every seed draws examples of its own. Information spread thinly over many elements is
    the hardest case: an estimator that fails here may still see a dependence that few elements carry.

    Args:
        key: of examples and critics.
        truth: I, nats, 0 or more.
        critics: as for :func:`estimate_information`.
        examples: pairs to train on, to choose by, to read on; 2 or more each.
        dimensions: (d_x, d_z).
        exact_conditional: CLUB with the exact q instead of a fitted one: its value is then the closed form
            d rho^2 / (1 - rho^2).

    Returns:
        A :class:`ani_jax.records.SelfTest`.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> test = gaussian_self_test(
        ...     jax.random.key(0), 2.0, Critics("club"), (2, 2, 2000), (20, 20), exact_conditional=True)
        >>> round(test.expected, 2), test.passed
        (4.43, True)
    """
    require(min(dimensions) >= 1, "dimensions", tuple(dimensions), "1 or more each")
    require(min(examples) >= 2, "examples", tuple(examples), "2 or more each")
    require(0 <= truth < math.inf, "truth", truth, "finite, 0 or more")
    _check_conditional(critics, exact_conditional, exact_conditional)
    d, d_z = min(dimensions), dimensions[1]
    # 1 - rho^2 is exp(-2 I / d); expm1 keeps the digits of a weak correlation.
    rho = math.sqrt(-math.expm1(-2 * truth / d))

    def exact(x: Array, z: Array) -> Array:
        mean = jnp.pad(rho * x[:, :d], ((0, 0), (0, d_z - d)))
        log_variance = jnp.where(jnp.arange(d_z) < d, -2 * truth / d, 0.0)
        return gaussian_log_density(mean, jnp.broadcast_to(log_variance[None], mean.shape), z)

    def read(key: PRNGKey) -> Reading:
        *data_keys, critic_key = jax.random.split(key, 4)
        draw = functools.partial(_gaussians, dimensions=tuple(dimensions), rho=rho)
        if exact_conditional:
            return read_conditional(critic_key, exact, draw(data_keys[2], examples[2]))
        return train_and_read(critic_key, critics, *map(draw, data_keys, examples))

    readings = _Readings.of([read(one) for one in jax.random.split(key, critics.seeds)])
    # CLUB with the exact q reads the sum of rho^2 / (1 - rho^2), which is exp(2 I / d) - 1, over d pairs.
    club = critics.estimator == "club"
    expected = d * math.expm1(2 * truth / d) if club else float(truth)
    below, above = BELOW, ABOVE if truth else AT_ZERO
    if club and truth:
        below = above = CLUB * expected
    value = readings.value
    passed = value is not None and expected - below <= value <= expected + above
    missed = value is not None and not passed
    note = f"reads {value:.2f} where {expected:.2f} is right at these dimensions and numbers" if missed else ""
    return SelfTest(
        truth=float(truth),
        expected=expected,
        value=value,
        stddev=readings.stddev,
        kept=readings.kept,
        last=readings.last,
        passed=passed,
        note=readings.reason or note,
    )


class _Readings(NamedTuple):
    """Several critics' readings, by the names that the record gives them."""

    value: float | None
    stddev: float | None
    seeds: tuple[float | None, ...]
    kept: tuple[int, ...]
    last: float | None
    reason: str

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> "_Readings":
        """Means over seeds, or None and the reasons: leaving a failed seed out would flatter."""
        value, stddev = _mean([one.value for one in readings])
        reason = "; ".join(f"seed {index}: {one.reason}" for index, one in enumerate(readings) if one.reason)
        return cls(
            value,
            stddev,
            tuple(one.value for one in readings),
            tuple(one.kept for one in readings if one.kept is not None),
            _mean([one.last for one in readings])[0],
            reason,
        )


def _mean(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None, None
    mean = sum(numbers) / len(numbers)
    spread = sum((number - mean) ** 2 for number in numbers)
    return mean, math.sqrt(spread / (len(numbers) - 1)) if len(numbers) > 1 else None


def _caveats(critics: Critics, readings: _Readings, noise: float, count: int) -> tuple[str, ...]:
    block = block_size(count)
    caveats = [_KINDS[critics.estimator].format(block=block, cap=math.log(block))]
    if critics.estimator != "club":
        caveats.append(f"no distribution-free lower bound can say much more than log N = {math.log(count):.3f} nats")
    if readings.kept:
        caveats.append(
            "each critic is the best of its looks and its untrained start, which reads 0, on other pairs than these"
        )
        if critics.estimator == "club":
            caveats.append("the conditional was fitted, so an estimate and not a bound")
    most = math.log(block if critics.estimator == "infonce" else count)
    if critics.estimator != "club" and readings.value is not None and readings.value > most - SATURATED:
        caveats.append(
            f"saturated: within {SATURATED:g} nats of the {most:.3f} that it can show; the truth may lie far above"
        )
    if readings.value is not None and readings.value < 0:
        caveats.append(
            "reads below 0, which no information is: what was learnt of the training pairs misleads on these"
        )
    untrained = readings.kept.count(0)
    if untrained:
        last = "nothing finite" if readings.last is None else f"{readings.last:.3f}"
        caveats.append(
            f"{untrained} of {len(readings.kept)} critics were kept untrained, reading 0 by construction: no dependence was "
            f"found, which does not say that there is none; at the end of training the critics read {last} here"
        )
    if noise == 0:
        caveats.append("no noise was added: for a deterministic encoder of continuous x the truth is infinite")
    return tuple(caveats)


def _check_conditional(critics: Critics, allowed: bool, given: bool) -> None:
    require(
        not given or (critics.estimator == "club" and allowed), "conditional", "given", 'None but for "club", noise 0'
    )


@jax.jit
def _standardised(sets: list[Pairs]) -> list[Pairs]:
    """Per element, by the first set's statistics."""
    # The training pairs', so that neither choosing nor reading decides its own units.
    of_x, of_z = map(Standardiser.of, sets[0])
    return [Pairs(of_x(x), of_z(z)) for x, z in sets]


@functools.partial(jax.jit, static_argnames=("count", "dimensions"))
def _gaussians(key: PRNGKey, count: int, dimensions: tuple[int, ...], rho: float | Array) -> Pairs:
    x_key, z_key = jax.random.split(key)
    x, z = (jax.random.normal(one, (count, size)) for one, size in zip((x_key, z_key), dimensions, strict=True))
    d = min(dimensions)
    return Pairs(x, z.at[:, :d].set(rho * x[:, :d] + jnp.sqrt(1 - rho**2) * z[:, :d]))
