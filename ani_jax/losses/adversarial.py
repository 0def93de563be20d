"""What a defender plays against its co-trained adversaries (METHODS 2.2).

Sign convention: :func:`max_entropy` and :func:`kl_to_prior` are the L_attr, and :func:`hinged` makes the L_rec, that the
defender MAXIMISES,

    L_defender = (1 - a_r - a_s) * CE(task) - a_r * min(L_rec, tau) - a_s * L_attr

while the adversaries always minimise their own plain losses: cross-entropy, and the unhinged reconstruction loss. An
adversary that was trained on an entropy objective would never see the attribute.

The objective that METHODS calls ``neg_ce`` has no function here, for it is no new one: L_attr is the adversary's own
:func:`ani_jax.losses.task.cross_entropy`, and the minus is the defender's. Its optimum can be an adversary that is
confidently *wrong*, which gives the attribute away: prefer :func:`max_entropy`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ani_jax.losses.checks import Logits, floating, require, require_rank


def max_entropy(logits: Logits) -> Float[Array, " b"]:
    """L_attr = H(softmax A(z)), for the defender to maximise: the adversary should know nothing, not the opposite.

    Args:
        logits: (b, k), the adversary's.

    Returns:
        (b,), nats, from 0 to log k.

    Raises:
        ValueError: ``logits`` is not of rank 2.

    Example:
        >>> round(max_entropy(jnp.zeros((1, 4))).item(), 4)
        1.3863
    """
    log_p = _log_softmax(logits)
    return -_expectation(log_p, log_p)


def kl_to_prior(logits: Logits, prior: Float[Array | np.ndarray, " k"]) -> Float[Array, " b"]:
    """L_attr = -KL(softmax A(z) || p(s)), for the defender to maximise: it should say what it would without z.

    Equals :func:`max_entropy` minus log k for a uniform prior, and suits unequal classes better.

    Args:
        logits: (b, k), the adversary's.
        prior: (k,), p(s) over the training data; positive, used as given.

    Returns:
        (b,), nats, 0 or less; minus infinity where the prior of a class that has probability is 0.

    Raises:
        ValueError: ``logits`` is not of rank 2 or ``prior`` is not (k,).

    Example:
        >>> abs(round(kl_to_prior(jnp.log(jnp.array([[0.9, 0.1]])), jnp.array([0.9, 0.1])).item(), 5))
        0.0
    """
    log_p, prior = _log_softmax(logits), floating(prior)
    require(prior.shape == log_p.shape[1:], "prior.shape", prior.shape, f"({log_p.shape[1]},)")
    return -_expectation(log_p, log_p - jnp.log(prior)[None])


def hinged(loss: float | Float[Array | np.ndarray, "..."], ceiling: float | Float[Array, ""]) -> Float[Array, "..."]:
    """min(loss, ceiling): stops pushing once an adversary is as bad as it need be.

    An unbounded -L_rec diverges: a defender can always make a reconstruction worse. Only the defender's update is
    hinged.

    Args:
        loss: per example or a scalar; which of the two is averaged first is the caller's choice, and they differ.
        ceiling: tau, in the loss's units; by default of the defence the class-mean floor (METHODS 6).

    Returns:
        The loss's shape; gradient 0 at and above the ceiling.

    Example:
        >>> hinged(jnp.array([0.25, 0.75]), 0.5).tolist()
        [0.25, 0.5]
    """
    loss = floating(loss)
    ceiling = jnp.asarray(ceiling, loss.dtype)
    require(ceiling.ndim == 0, "ceiling.shape", ceiling.shape, "a scalar's, ()")
    # Not minimum, which would pass half a gradient on where the two are equal.
    return jnp.where(loss < ceiling, loss, ceiling)


def reverse_gradient(x: Float[Array | np.ndarray, "..."], scale: float | Float[Array, ""] = 1.0) -> Float[Array, "..."]:
    """Identity forward, gradient times -scale backward (Ganin & Lempitsky 2015).

    One backward pass then trains adversary and encoder at once. At the same adversary parameters the encoder gets the
    alternating gradient for an adversary's own loss, its cross-entropy or an unhinged reconstruction loss; for the entropy
    objectives and the hinge it does not.

    Args:
        x: any shape.
        scale: factor, 0 or more; may be traced, gets no gradient.

    Returns:
        ``x``.

    Example:
        >>> jax.grad(lambda x: reverse_gradient(x, 0.5) ** 2)(3.0).item()
        -3.0
    """
    return _reverse(jnp.asarray(x), jnp.asarray(scale, jnp.result_type(float)))


@jax.custom_vjp
def _reverse(x: Array, scale: Array) -> Array:
    del scale
    return x


# A float32 scale must not widen a bfloat16 cotangent: a custom gradient has the type of its primal.
_reverse.defvjp(
    lambda x, scale: (x, scale),
    lambda scale, cotangent: ((-scale * cotangent).astype(cotangent.dtype), jnp.zeros_like(scale)),
)


def _log_softmax(logits: Logits) -> Float[Array, "b k"]:
    logits = floating(logits)
    require_rank(logits, "logits", 2)
    return jax.nn.log_softmax(logits)


def _expectation(log_p: Logits, values: Logits) -> Float[Array, " b"]:
    p = jnp.exp(log_p)
    # 0 * log 0 is 0: a class whose probability underflows must not bring an infinite logit with it.
    return jnp.where(p > 0, p * jnp.where(p > 0, values, 0), 0).sum(1)
