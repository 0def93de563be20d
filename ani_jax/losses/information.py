"""Mutual information in nats: variational bounds as functions of a critic's scores.

One family of signatures for the bounds: ``joint`` holds the scores T(x_i, z_i) of pairs that belong together,
``marginal`` scores of pairs that were drawn independently (any number of them; :func:`split_scores` makes both from a
matrix). Every bound is a scalar to *maximise* over the critic, except :func:`club`. Take scores from an unbounded
critic, trained on other examples than those it is evaluated on.

No distribution-free lower bound can exceed about log N for N examples (McAllester & Stratos 2018), and for a
deterministic encoder of continuous x the truth is infinite: measure I(x; z + noise) with the noise declared.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from ani_jax.losses.checks import floating, require

Scores = Float[Array | np.ndarray, "..."]
ScoreMatrix = Float[Array | np.ndarray, "b b"]
Nats = Float[Array, ""]


def split_scores(scores: ScoreMatrix) -> tuple[Float[Array, " b"], Float[Array, " m"]]:
    """Scores of pairs that belong together, and of all pairs that do not.

    Args:
        scores: (b, b), entry (i, j) is T(x_i, z_j); b of 2 or more.

    Returns:
        The diagonal (b,), and the b * (b - 1) other entries.

    Raises:
        ValueError: ``scores`` is not square or has one row.

    Example:
        >>> joint, marginal = split_scores(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> joint.tolist(), marginal.tolist()
        ([1.0, 4.0], [2.0, 3.0])
    """
    scores = _square(scores)
    size = scores.shape[0]
    require(size > 1, "scores.shape", scores.shape, "(b, b) with b of 2 or more")
    # All but the first entry, in rows of b + 1, ends each row with a diagonal entry.
    return jnp.diagonal(scores), scores.ravel()[1:].reshape(size - 1, size + 1)[:, :-1].ravel()


def donsker_varadhan(joint: Scores, marginal: Scores) -> Nats:
    """E_joint[T] - log E_marginal[exp T] <= I (Donsker & Varadhan 1983; Belghazi 2018).

    Its mini-batch gradient is biased: train with :func:`mine`. Its variance grows like exp(I).

    Args:
        joint: scores of pairs that belong together, any shape.
        marginal: scores of independent pairs, any shape.

    Returns:
        Scalar, nats. A lower bound in expectation over the data only for a critic that is fixed beforehand and many
        examples.

    Example:
        >>> donsker_varadhan(jnp.ones(3), jnp.zeros(5)).item()
        1.0
    """
    joint, marginal = floating(joint), floating(marginal)
    return joint.mean() - _log_mean_exp(marginal)


def mine(
    joint: Scores, marginal: Scores, log_ema: float | Nats = -math.inf, *, decay: float = 0.99
) -> tuple[Nats, Nats]:
    """MINE (Belghazi 2018): the Donsker-Varadhan value with the gradient whose bias a moving average corrects.

        gradient of  E_joint[T] - E_marginal[exp T] / ema,    ema <- decay * ema + (1 - decay) * mean_marginal exp T

    The moving average is carried as its logarithm, so that large scores do not overflow.

    Args:
        joint: scores of pairs that belong together.
        marginal: scores of independent pairs.
        log_ema: log of the moving average of exp T; minus infinity starts it with this batch's mean.
        decay: of the moving average, in [0, 1). Static.

    Returns:
        The value, nats, which equals :func:`donsker_varadhan` and has MINE's gradient; and the new ``log_ema``, a
        constant to the gradient.

    Raises:
        ValueError: ``decay`` is outside [0, 1).

    Example:
        >>> value, log_ema = mine(jnp.ones(3), jnp.zeros(5))
        >>> value.item(), log_ema.item()
        (1.0, 0.0)
    """
    require(0 <= decay < 1, "decay", decay, "in [0, 1)")
    joint, marginal = floating(joint), floating(marginal)
    log_mean = _log_mean_exp(marginal)
    # A constant to the gradient: the denominator is the average over batches, not this batch's, and that is the correction.
    current = jax.lax.stop_gradient(log_mean)
    previous = jax.lax.stop_gradient(jnp.asarray(log_ema, current.dtype))
    mixed = jnp.logaddexp(previous + math.log(decay), current + math.log1p(-decay)) if decay else current
    new = jnp.where(jnp.isneginf(previous), current, mixed)
    surrogate = joint.mean() - jnp.exp(log_mean - new)
    value = joint.mean() - log_mean
    # The value of one, the gradient of the other.
    return jax.lax.stop_gradient(value - surrogate) + surrogate, new


def nwj(joint: Scores, marginal: Scores) -> Nats:
    """E_joint[T] - E_marginal[exp(T - 1)] <= I (Nguyen, Wainwright & Jordan 2010), tight at T = 1 + log density ratio.

    Unbiased in value and gradient for a fixed critic; its variance grows like exp(I).

    Args:
        joint: scores of pairs that belong together.
        marginal: scores of independent pairs.

    Returns:
        Scalar, nats.

    Example:
        >>> nwj(jnp.ones(3), jnp.ones(5)).item()
        0.0
    """
    joint, marginal = floating(joint), floating(marginal)
    # The mean in logarithms: the sum of what exp makes of a few large scores would overflow before it is divided.
    return joint.mean() - jnp.exp(_log_mean_exp(marginal) - 1)


def infonce(scores: ScoreMatrix) -> Nats:
    """InfoNCE (van den Oord 2018): log b + mean_i [ T(x_i, z_i) - log sum_j exp T(x_i, z_j) ] <= I.

    Cannot exceed log b, whatever the truth (see :func:`infonce_cap`): say so beside the number.

    Args:
        scores: (b, b), entry (i, j) is T(x_i, z_j).

    Returns:
        Scalar, nats, at most log b.

    Raises:
        ValueError: ``scores`` is not square.

    Example:
        >>> round(infonce(100 * jnp.eye(4)).item(), 4), infonce(jnp.zeros((4, 4))).item()
        (1.3863, 0.0)
    """
    scores = _square(scores)
    return (jnp.diagonal(scores) - logsumexp(scores, axis=1)).mean() + math.log(scores.shape[0])


def infonce_cap(batch: int) -> float:
    """The most that InfoNCE can say with this batch: log b, in nats.

    Args:
        batch: b.

    Returns:
        log b.

    Raises:
        ValueError: ``batch`` is below 1.

    Example:
        >>> round(infonce_cap(128), 3)
        4.852
    """
    require(batch >= 1, "batch", batch, "1 or more")
    return math.log(batch)


def smile(joint: Scores, marginal: Scores, clip: float = 5.0) -> Nats:
    """SMILE (Song & Ermon 2020): Donsker-Varadhan with clipped marginal scores.

        E_joint[T] - log E_marginal[exp clip(T, -clip, clip)]

    Less variance for some bias: no longer a bound once a score is clipped. Its authors train the critic with
    :func:`jsd` and evaluate with this.

    Args:
        joint: scores of pairs that belong together.
        marginal: scores of independent pairs.
        clip: above 0, nats; infinity gives Donsker-Varadhan.

    Returns:
        Scalar, nats.

    Raises:
        ValueError: ``clip`` is not above 0.

    Example:
        >>> smile(jnp.full(3, 9.0), jnp.full(5, 9.0), clip=4.0).item()
        5.0
    """
    require(clip > 0, "clip", clip, "above 0")
    return donsker_varadhan(joint, jnp.clip(floating(marginal), -clip, clip))


def jsd(joint: Scores, marginal: Scores) -> Nats:
    """Lower bound of the Jensen-Shannon divergence between joint and product (Nowozin 2016; Hjelm 2019).

        log 2 + ( E_joint[-softplus(-T)] + E_marginal[-softplus(T)] ) / 2

    Not mutual information (it never exceeds log 2) but stable to train with; its optimal critic is the log density
    ratio.

    Args:
        joint: scores of pairs that belong together.
        marginal: scores of independent pairs.

    Returns:
        Scalar, nats, at most log 2.

    Example:
        >>> abs(round(jsd(jnp.zeros(3), jnp.zeros(5)).item(), 5))
        0.0
    """
    joint, marginal = floating(joint), floating(marginal)
    return math.log(2) - (jax.nn.softplus(-joint).mean() + jax.nn.softplus(marginal).mean()) / 2


def club(joint: Scores, marginal: Scores) -> Nats:
    """CLUB (Cheng 2020): E_joint[log q(z|x)] - E_marginal[log q(z|x)], an *upper* bound of I if q is exact.

    With a fitted q it is an estimate only. Loose: twice the truth and more for strong dependence. The mean over all
    pairs, matching ones included, is the paper's form: pass the whole matrix as ``marginal``.

    Args:
        joint: log q(z_i | x_i).
        marginal: log q(z_j | x_i) of independent pairs.

    Returns:
        Scalar, nats.

    Example:
        >>> club(jnp.full(3, -1.0), jnp.full((3, 3), -4.0)).item()
        3.0
    """
    return floating(joint).mean() - floating(marginal).mean()


def _log_mean_exp(scores: Scores) -> Nats:
    return logsumexp(scores) - math.log(scores.size)


def _square(scores: ScoreMatrix) -> Float[Array, "b b"]:
    scores = floating(scores)
    require(scores.ndim == 2 and scores.shape[0] == scores.shape[1], "scores.shape", scores.shape, "(b, b)")
    return scores
