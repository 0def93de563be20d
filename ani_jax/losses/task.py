"""What the provider is paid for: classification losses and accuracies."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.losses.checks import Labels, Logits, floating, require, require_rank


def cross_entropy(logits: Logits, labels: Labels) -> Float[Array, " b"]:
    """Cross-entropy of integer labels under softmax(logits), per example.

        CE = log sum_k exp(logits_k) - logits_y

    Args:
        logits: (b, k), unnormalised log-probabilities.
        labels: (b,), classes from 0 to k - 1; one beyond them gives NaN rather than a silent 0.

    Returns:
        (b,), nats, 0 or more.

    Raises:
        ValueError: the shapes are not (b, k) and (b,).

    Example:
        >>> [round(value, 4) for value in cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).tolist()]
        [1.3863, 1.3863]
    """
    return -_true_class(jax.nn.log_softmax(_checked(logits, labels)), labels)


def smoothed_kl(logits: Logits, labels: Labels, smoothing: float) -> Float[Array, " b"]:
    """KL(q_smooth || softmax(logits)): label smoothing as the funnel uses it [code], per example.

        q_smooth = 1 - s on the true class, s / (K - 1) on each of the others

    Differs from smoothed cross-entropy by the entropy of q, so that 0 is attainable. ``smoothing=0`` is cross-entropy.

    Args:
        logits: (b, k) with k of 2 or more.
        labels: (b,), classes from 0 to k - 1.
        smoothing: s, in [0, 1). Static.

    Returns:
        (b,), nats, 0 or more.

    Raises:
        ValueError: ``smoothing`` is outside [0, 1), or the shapes do not fit.

    Example:
        >>> q = jnp.array([[0.8, 0.1, 0.1]])
        >>> abs(round(float(smoothed_kl(jnp.log(q), jnp.array([0]), 0.2)[0]), 5))
        0.0
    """
    logits = _checked(logits, labels)
    classes = logits.shape[1]
    require(0 <= smoothing < 1, "smoothing", smoothing, "in [0, 1)")
    require(classes > 1, "logits.shape", logits.shape, "(b, k) with k of 2 or more")
    log_p = jax.nn.log_softmax(logits)
    true = _true_class(log_p, labels)
    # The entropy below would be 0 * log 0.
    if smoothing == 0:
        return -true
    other = smoothing / (classes - 1)
    negative_entropy = (1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(other)
    return negative_entropy - (1 - smoothing - other) * true - other * log_p.sum(1)


def accuracy(logits: Logits, labels: Labels) -> Float[Array, " b"]:
    """Whether the largest logit is the true class's, per example; the first of equal logits counts.

    Args:
        logits: (b, k).
        labels: (b,).

    Returns:
        (b,), 1.0 or 0.0.

    Raises:
        ValueError: the shapes are not (b, k) and (b,).

    Example:
        >>> accuracy(jnp.array([[0.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1])).tolist()
        [1.0, 0.0]
    """
    logits = _checked(logits, labels)
    return (logits.argmax(1) == labels).astype(logits.dtype)


def top_k_accuracy(logits: Logits, labels: Labels, k: int) -> Float[Array, " b"]:
    """Whether the true class is among the k largest logits, per example.

    Counts the logits *above* the true one, so that a tie is decided in the true class's favour.

    Args:
        logits: (b, classes).
        labels: (b,).
        k: how many guesses count, from 1 to the number of classes. Static.

    Returns:
        (b,), 1.0 or 0.0.

    Raises:
        ValueError: ``k`` is outside its range, or the shapes do not fit.

    Example:
        >>> top_k_accuracy(jnp.array([[3.0, 2.0, 1.0]] * 2), jnp.array([1, 2]), 2).tolist()
        [1.0, 0.0]
    """
    logits = _checked(logits, labels)
    require(1 <= k <= logits.shape[1], "k", k, f"from 1 to {logits.shape[1]}")
    above = (logits > _true_class(logits, labels)[:, None]).sum(1)
    return (above < k).astype(logits.dtype)


def balanced_accuracy(predictions: Labels, labels: Labels, classes: int) -> Float[Array, ""]:
    """Mean over classes of the accuracy within the class; chance is 1/K whatever the class sizes.

    Classes that no label of the batch has are left out of the mean, as scikit-learn does.

    Args:
        predictions: (b,), predicted classes.
        labels: (b,), true classes from 0 to ``classes`` - 1.
        classes: K, the number of classes. Static.

    Returns:
        Scalar in [0, 1]. A statistic of the batch: averages of it over batches are not the data set's.

    Raises:
        ValueError: the shapes are not both (b,), or ``classes`` is below 1.

    Example:
        >>> float(balanced_accuracy(jnp.array([0, 0, 0, 1]), jnp.array([0, 0, 0, 0]), 2))
        0.75
    """
    predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
    require_rank(labels, "labels", 1)
    require(predictions.shape == labels.shape, "predictions.shape", predictions.shape, f"labels', {labels.shape}")
    require(classes >= 1, "classes", classes, "1 or more")
    own = jax.nn.one_hot(labels, classes)
    size = own.sum(0)
    correct = (own * (predictions == labels)[:, None]).sum(0)
    return (correct / jnp.maximum(size, 1)).sum() / jnp.maximum((size > 0).sum(), 1)


def _checked(logits: Logits, labels: Labels) -> Float[Array, "b k"]:
    logits, labels = floating(logits), jnp.asarray(labels)
    require_rank(logits, "logits", 2)
    require(labels.shape == logits.shape[:1], "labels.shape", labels.shape, f"({logits.shape[0]},)")
    require(jnp.issubdtype(labels.dtype, jnp.integer), "labels.dtype", labels.dtype, "an integer type")
    return logits


def _true_class(values: Float[Array, "b k"], labels: Labels) -> Float[Array, " b"]:
    # Not a product with one_hot: of a class that does not exist that would be a silent 0, and this is NaN.
    return jnp.take_along_axis(values, jnp.asarray(labels)[:, None], axis=1)[:, 0]
