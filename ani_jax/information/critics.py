"""One critic: trained on pairs (x, z), chosen on others, read on others again.

Selection is what keeps a critic that learns its examples by heart from reading far below 0. It also means that where no
step helps, the untrained critic is kept, which reads 0; so a :class:`Reading` says which step was kept, and what the
critic at the end of training reads on the same test pairs.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ani_jax.information.networks import Critic, GaussianConditional
from ani_jax.losses import information
from ani_jax.losses.checks import require
from ani_jax.optimize.fit import adam, fit
from ani_jax.types import PRNGKey

Estimator = Literal["mine", "nwj", "infonce", "smile", "club"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
BLOCK = 1024
"""Pairs that are scored against each other on held-out data, at most: InfoNCE's cap is the log of the block."""
LOOK = 50
"""Steps between two looks at the selection pairs."""


@dataclasses.dataclass(frozen=True)
class Critics:
    """How critics are trained; static.

    Args:
        estimator: "mine", "nwj", "infonce", "smile" (trained with the Jensen-Shannon bound, as its authors do) or "club".
        seeds: how many critics, each with noise of its own.
        steps: of each (Adam, warm-up and cosine decay, gradients clipped to norm 1).
        width: of a critic's layers.
        batch: pairs a step; every other pairing of them counts as independent.
        learning_rate: peak.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> Critics("mine", seeds=0)
        Traceback (most recent call last):
        ValueError: seeds=0: must be 1 or more
    """

    estimator: Estimator = "nwj"
    seeds: int = 3
    steps: int = 1500
    width: int = 128
    batch: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(self.estimator in ESTIMATORS, "estimator", repr(self.estimator), f"one of {', '.join(ESTIMATORS)}")
        for name, least in (("seeds", 1), ("steps", 1), ("width", 1), ("batch", 2)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"{least} or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")

    @property
    def network(self) -> nn.Module:
        """The critic, or CLUB's conditional."""
        return GaussianConditional(self.width) if self.estimator == "club" else Critic(self.width)


class Pairs(NamedTuple):
    """Examples that belong together, row by row.

    Attributes:
        x: (n, d_x).
        z: (n, d_z).
    """

    x: Float[Array, "n p"]
    z: Float[Array, "n q"]


class Reading(NamedTuple):
    """What one critic said.

    Attributes:
        value: nats, None where it is not finite.
        kept: the step that selection chose, 0 for the untrained critic; None where nothing was trained to its end.
        last: what the critic at the end of training reads, None where it is not finite or nothing was trained.
        reason: why the value is missing, "" if it is not.
    """

    value: float | None
    kept: int | None = None
    last: float | None = None
    reason: str = ""


def train_and_read(
    key: PRNGKey, critics: Critics, train: Pairs, selection: Pairs, test: Pairs, noise: float = 0.0
) -> Reading:
    """Trains one critic and reads it.

    Args:
        key: of the critic, batches and noise.
        critics: how; ``seeds`` is not read here.
        train: standardised pairs in any order, drawn from without a pair twice in a batch.
        selection: pairs that choose the step by the training objective, the untrained critic included.
        test: pairs that neither trained nor chose.
        noise: standard deviation of what is added to z, anew at every step, once for ``selection`` and ``test``.

    Returns:
        A :class:`Reading`.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (600, 1))
        >>> sets = [Pairs(one, one) for one in jnp.split(x, 3)]
        >>> reading = train_and_read(jax.random.key(1), Critics("infonce", 1, 100, 16, learning_rate=1e-2), *sets, noise=0.5)
        >>> 0.4 < reading.value < 0.9, reading.kept
        (True, 100)
    """
    init_key, order_key, fit_key, select_key, test_key = jax.random.split(key, 5)
    # Once for all steps: distinct_rows takes rows in random order for granted.
    order = jax.random.permutation(order_key, train.x.shape[0])
    train = Pairs(train.x[order], train.z[order])
    looked, read = (_blocks(one, pairs, noise) for one, pairs in ((select_key, selection), (test_key, test)))
    found = fit(
        fit_key,
        initial(critics, init_key, train),
        Objective(critics),
        (train, looked, jnp.asarray(noise, train.z.dtype)),
        steps=critics.steps,
        optimizer=optimizer(critics.learning_rate, critics.steps),
        evaluate=_Selection(critics),
        every=min(LOOK, critics.steps),
    )
    if found.failed is not None:
        return Reading(None, reason=found.failed)
    if found.best is None:
        return Reading(None, reason="the value on the selection pairs is not finite")
    value, last = (finite(_value(critics, params, read)) for params in (found.params, found.last))
    reason = "" if value is not None else "the value on the test pairs is not finite"
    # The start is looked at too but has no entry: 0 is the untrained critic.
    kept = next((int(entry["step"]) for entry in found.history if entry["evaluation"] == found.best), 0)
    return Reading(value, kept, last, reason)


def read_conditional(key: PRNGKey, conditional: Any, test: Pairs) -> Reading:
    """CLUB with a conditional that is known: nothing is trained.

    Args:
        key: of the order of the pairs.
        conditional: ``(x (b, p), z (c, q)) -> (b, c)``, entry (i, j) is log q(z_j | x_i).
        test: pairs in the conditional's units.
    """
    value = finite(read_scores("club", jax.lax.map(lambda one: conditional(*one), _blocks(key, test, 0.0))))
    return Reading(value, reason="" if value is not None else "the given conditional is not finite")


def read_scores(estimator: str, blocks: Float[Array, "k b b"]) -> Float[Array, ""]:
    """An estimator's value from the scores of held-out pairs, in blocks that were scored within themselves.

    Example:
        >>> [round(read_scores(name, jnp.zeros((2, 3, 3))).item(), 6) for name in ("mine", "nwj", "smile", "club")]
        [0.0, 0.0, 0.0, 0.0]
    """
    if estimator == "infonce":
        return jax.vmap(information.infonce)(blocks).mean()
    joint, marginal = jax.vmap(information.split_scores)(blocks)
    if estimator == "nwj":
        # NWJ is tight at 1 + the log density ratio; the critic is the ratio's for every estimator.
        return information.nwj(joint + 1, marginal + 1)
    # Matching pairs are left out of CLUB's marginal: with them it reads a b-th part less.
    bounds = {"mine": information.donsker_varadhan, "smile": information.smile, "club": information.club}
    return bounds[estimator](joint, marginal)


def block_size(count: int) -> int:
    """The size of the largest equal blocks of at most ``BLOCK`` pairs.

    Example:
        >>> block_size(450), block_size(4500)
        (450, 900)
    """
    return count // math.ceil(count / BLOCK)


def distinct_rows(key: PRNGKey, count: int, batch: int) -> Int[Array, " b"]:
    """Rows of one batch, none twice: a repeated example would pass a matching pair off as an independent one.

    One from each of ``batch`` equal strata of a circle that is turned at random, so that a step costs no permutation.
    The rows must be in random order.

    Args:
        key: of the choice.
        count: rows there are.
        batch: rows wanted; all of them where there are no more.

    Example:
        >>> sorted(distinct_rows(jax.random.key(0), 5, 8).tolist())
        [0, 1, 2, 3, 4]
    """
    size = min(batch, count)
    edges = np.arange(size + 1) * count // size
    # One draw serves all: on the CPU each generator adds to the compilation of a step.
    share = jax.random.uniform(key, (size + 1,))
    chosen = jnp.floor(share * jnp.asarray([*np.diff(edges), count])).astype(int)
    return (jnp.asarray(edges[:-1]) + chosen[:-1] + chosen[-1]) % count


def finite(value: Array) -> float | None:
    """The number, or None: records have no NaN."""
    number = float(value)
    return number if math.isfinite(number) else None


Data = tuple[Pairs, Pairs, Float[Array, ""]]
"""Training pairs, blocks of selection pairs with their noise in, the noise of a training batch."""


def initial(critics: Critics, key: PRNGKey, train: Pairs) -> dict[str, Any]:
    """The parameters that training starts from: the critic's, and MINE's moving average.

    Args:
        critics: whose network it is.
        key: of the critic.
        train: whose dimensions it gets.

    Returns:
        "critic" and "log_ema".

    Example:
        >>> sorted(initial(Critics(width=4), jax.random.key(0), Pairs(jnp.ones((2, 3)), jnp.ones((2, 1)))))
        ['critic', 'log_ema']
    """
    # The untrained critic is 0, so the log of its moving average is exactly 0 too.
    return {"critic": _init(critics.network, key, train.x[:1], train.z[:1]), "log_ema": jnp.zeros(())}


# Compiled for a network and one row: critics that differ in seeds, steps or numbers of pairs share it.
@functools.partial(jax.jit, static_argnums=0)
def _init(network: nn.Module, key: PRNGKey, x: Array, z: Array) -> Any:
    return network.init(key, x, z)


@functools.lru_cache(maxsize=64)
def optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam for the critic, and for MINE's moving average plain descent of rate 1, which sets it; always the same object.

    Args:
        learning_rate: Adam's peak.
        steps: over which it rises and falls.

    Example:
        >>> optimizer(1e-3, 100) is optimizer(1e-3, 100)
        True
    """
    rules: dict[Hashable, optax.GradientTransformation] = {
        "critic": adam(learning_rate, steps, 1.0),
        "log_ema": optax.sgd(1.0),
    }
    return optax.partition(rules, {name: name for name in rules})


@dataclasses.dataclass(frozen=True)
class Objective:
    """Minus what a training step maximises, on one batch; static.

    Attributes:
        critics: how they are trained.
    """

    critics: Critics

    def __call__(self, params: Any, data: Data, key: PRNGKey) -> Float[Array, ""]:
        """Draws a batch of training pairs and its noise, and scores it."""
        (x, z), _, noise = data
        row_key, noise_key = jax.random.split(key)
        rows = distinct_rows(row_key, x.shape[0], self.critics.batch)
        z = z[rows] + noise * jax.random.normal(noise_key, (rows.shape[0], z.shape[1]), z.dtype)
        scores: Any = self.critics.network.apply(params["critic"], x[rows], z)
        if self.critics.estimator != "mine":
            return -_gain(self.critics.estimator, scores[None])
        value, log_ema = information.mine(*information.split_scores(scores), params["log_ema"])
        # Worth 0; its gradient is the step from the old average to the new one, which plain descent then takes.
        step = params["log_ema"] * jax.lax.stop_gradient(params["log_ema"] - log_ema)
        return step - jax.lax.stop_gradient(step) - value


@dataclasses.dataclass(frozen=True)
class _Selection:
    critics: Critics

    def __call__(self, params: Any, data: Data) -> Float[Array, ""]:
        return -_gain(self.critics.estimator, _scored(self.critics, params, data[1]))


def _gain(estimator: str, blocks: Float[Array, "k b b"]) -> Float[Array, ""]:
    """What training maximises and selection compares."""
    if estimator not in ("smile", "club"):
        return read_scores(estimator, blocks)
    # CLUB's q is fitted by likelihood (Cheng 2020): maximising an upper bound would only loosen it.
    joint, marginal = jax.vmap(information.split_scores)(blocks)
    return joint.mean() if estimator == "club" else information.jsd(joint, marginal)


@functools.partial(jax.jit, static_argnums=0)
def _value(critics: Critics, params: Any, blocks: Pairs) -> Float[Array, ""]:
    return read_scores(critics.estimator, _scored(critics, params, blocks))


def _scored(critics: Critics, params: Any, blocks: Pairs) -> Float[Array, "k b b"]:
    # A block at a time: all at once would hold the scores of every pair of every block, and their hidden layers.
    return jax.lax.map(lambda one: critics.network.apply(params["critic"], *one), blocks)  # type: ignore[return-value]


@jax.jit
def _blocks(key: PRNGKey, pairs: Pairs, noise: Array | float) -> Pairs:
    """Pairs in random order (rows sorted by class would make dependent "independent" pairs), in equal blocks."""
    order_key, noise_key = jax.random.split(key)
    size = block_size(pairs.x.shape[0])
    order = jax.random.permutation(order_key, pairs.x.shape[0])[: pairs.x.shape[0] // size * size]
    z = pairs.z[order] + noise * jax.random.normal(noise_key, (order.shape[0], pairs.z.shape[1]), pairs.z.dtype)
    return Pairs(pairs.x[order].reshape(-1, size, pairs.x.shape[1]), z.reshape(-1, size, z.shape[1]))
