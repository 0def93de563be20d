"""Scores of attacks and of utility with 95% intervals, bootstrapped over originals rather than images.

Everything here is NumPy on the host: scores are computed once, on the test split, and must not depend on the device.
An interval resamples whole groups (all images of one original together), because images of one scan are not
independent.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from ani_jax.losses.reconstruction import ssim
from ani_jax.records import Estimate

RESAMPLES = 1000
"""Bootstrap resamples behind an interval."""
PSNR_CAP = 100.0
"""Decibels reported for equal images, whose PSNR is infinite; one 8-bit level of error everywhere is 48."""
WORST = 0.05
"""The part of the test images that counts as "most leaked"."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bootstrap:
    """Resampling weights of n examples: row 0 is the sample as it is, every further row one resample of whole groups.

    Attributes:
        weights: (1 + resamples, n) how often each example occurs.
    """

    weights: np.ndarray

    @classmethod
    def of(cls, group: ArrayLike | None, count: int, seed: int = 0, resamples: int = RESAMPLES) -> "Bootstrap":
        """Draws the resamples.

        Args:
            group: (n,) which original each example shows; None means that each is its own.
            count: n.
            seed: of the resampling.
            resamples: how many.

        Raises:
            ValueError: ``count`` below 1, or a group of another length.

        Example:
            >>> Bootstrap.of([0, 0, 1], 3, resamples=10).weights.shape
            (11, 3)
        """
        group = np.arange(count) if group is None else np.asarray(group)
        if count < 1 or group.shape != (count,):
            raise ValueError(f"group: shape {group.shape}; must be ({count},) with at least one example")
        _, owner = np.unique(group, return_inverse=True)
        groups = owner.max() + 1
        drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), resamples)
        return cls(np.concatenate([np.ones((1, count)), drawn[:, owner]]).astype(np.float64))

    def estimate(self, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """The statistic of the sample with its 95% percentile interval.

        Args:
            statistic: (r, n) weights -> (r,) values; a resample on which it is not defined gives NaN and is left out.

        Returns:
            The estimate; None with the reason where the sample itself does not define it.
        """
        values = np.asarray(statistic(self.weights), np.float64)
        if not np.isfinite(values[0]):
            return Estimate(None, note="not defined on this sample")
        # A resample may have lost a class, or everything that varies.
        rest = values[1:][np.isfinite(values[1:])]
        if not len(rest):
            return Estimate(float(values[0]), note="no resample defines it")
        low, high = np.quantile(rest, [0.025, 0.975])
        return Estimate(float(values[0]), float(low), float(high))

    def mean(self, values: ArrayLike) -> Estimate:
        """Estimate of the mean of (n,) values.

        Example:
            >>> Bootstrap.of(None, 2).mean([0.0, 1.0])
            Estimate(value=0.5, low=0.0, high=1.0, note='')
        """
        return self.estimate(lambda weights: weights @ np.asarray(values, np.float64) / weights.sum(1))


def classification(scores: ArrayLike, labels: ArrayLike, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Balanced accuracy, accuracy and macro one-against-rest AUC of class scores.

    Args:
        scores: (n, K); the highest is the guess.
        labels: (n,) true classes.
        bootstrap: of these examples.

    Returns:
        "balanced_accuracy" (mean recall over the classes that occur), "accuracy" and "auc", all fractions.

    Raises:
        ValueError: scores that are not (n, K) or a label outside 0..K-1.

    Example:
        >>> found = classification(np.eye(3), [0, 1, 1], Bootstrap.of(None, 3))
        >>> found["balanced_accuracy"].value, round(found["accuracy"].value, 3)
        (0.75, 0.667)
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores: shape {scores.shape} for labels of shape {labels.shape}; must be (n, K) and (n,)")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels: {labels.min()} to {labels.max()}; must be 0 to {scores.shape[1] - 1}")
    correct = (scores.argmax(1) == labels).astype(np.float64)
    return {
        "balanced_accuracy": bootstrap.estimate(lambda weights: _balanced(correct, labels, weights)),
        "accuracy": bootstrap.mean(correct),
        "auc": bootstrap.estimate(lambda weights: _auc(scores, labels, weights)),
    }


def balanced_accuracy(guesses: ArrayLike, labels: ArrayLike) -> float:
    """Mean recall over the classes that occur in ``labels``.

    Example:
        >>> balanced_accuracy([0, 0, 0], [0, 0, 1])
        0.5
    """
    guesses, labels = np.asarray(guesses), np.asarray(labels)
    return float(_balanced((guesses == labels).astype(np.float64), labels, np.ones((1, len(labels))))[0])


def image_errors(guess: ArrayLike, truth: ArrayLike) -> dict[str, np.ndarray]:
    """Per-image MSE, PSNR (peak 1, at most ``PSNR_CAP``) and, from 11 pixels a side on, SSIM (Wang 2004).

    Args:
        guess: (n, h, w, c) in [0, 1].
        truth: the same shape.

    Returns:
        Metric -> (n,) float64.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> {k: v.tolist() for k, v in image_errors(np.zeros((1, 2, 2, 1)), np.ones((1, 2, 2, 1))).items()}
        {'mse': [1.0], 'psnr': [-0.0]}
    """
    guess, truth = np.asarray(guess, np.float32), np.asarray(truth, np.float32)
    if guess.shape != truth.shape or guess.ndim != 4:
        raise ValueError(f"guess: shape {guess.shape}; must be that of truth, {truth.shape}, four-dimensional")
    mse = np.square(guess.astype(np.float64) - truth).mean((1, 2, 3))
    # Capped, because records have no infinity.
    errors = {"mse": mse, "psnr": -10 * np.log10(np.maximum(mse, 10 ** (-PSNR_CAP / 10)))}
    if min(truth.shape[1:3]) >= 11:
        errors["ssim"] = np.asarray(ssim(guess, truth), np.float64)  # type: ignore[arg-type]
    return errors


def retrieval(guess: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Whether each reconstruction's nearest original (by MSE, among all of them) is its own.

    An original that is pixel for pixel another one's twin counts as found with either; of several originals at the same
    distance only the first counts, so a constant guess finds one in n.

    Args:
        guess: (n, ...) reconstructions.
        truth: (n, ...) originals in the same order.

    Returns:
        (n,) of 1.0 and 0.0.

    Example:
        >>> retrieval(np.array([[0.1], [0.2]]), np.array([[0.0], [1.0]])).tolist()
        [1.0, 0.0]
    """
    found, real = np.asarray(guess, np.float64), np.asarray(truth, np.float64)
    found, real = found.reshape(len(found), -1), real.reshape(len(real), -1)
    # Distances stay what they are; smaller numbers leave less to cancel.
    centre = real.mean(0)
    found, real = found - centre, real - centre
    # A guess's own square is the same for all originals.
    nearest = (np.square(real).sum(1)[None, :] - 2 * found @ real.T).argmin(1)
    return (real[nearest] == real).all(1).astype(np.float64)


def reconstruction(
    guess: ArrayLike, truth: ArrayLike, floors: Mapping[str, ArrayLike], bootstrap: Bootstrap
) -> tuple[dict[str, Estimate], np.ndarray]:
    """Every image score of METHODS 6.

    Args:
        guess: (n, h, w, c) in [0, 1].
        truth: (n, h, w, c) originals.
        floors: name ("mean", "class_mean") -> (n,) MSE of guessing that image; each gives an R^2.
        bootstrap: of these images.

    Returns:
        Scores (mse, mse_worst, psnr, ssim, retrieval, r2_NAME) and the per-image MSE.
    """
    errors = image_errors(guess, truth)
    scores = {name: bootstrap.mean(values) for name, values in errors.items()}
    scores.setdefault("ssim", Estimate(None, note="images under 11 pixels a side have no SSIM"))
    mse = errors["mse"]
    order = np.argsort(mse, kind="stable")

    def lowest(weights: np.ndarray) -> np.ndarray:
        # From the lowest error up until the share is full, at least one image; the last one counts in part.
        ordered = weights[:, order]
        share = np.maximum(WORST * ordered.sum(1), 1)[:, None]
        taken = np.clip(share - (np.cumsum(ordered, axis=1) - ordered), 0, ordered)
        return taken @ mse[order] / taken.sum(1)

    scores["mse_worst"] = bootstrap.estimate(lowest)
    for name, floor in floors.items():
        scores[f"r2_{name}"] = r_squared(mse, floor, bootstrap)
    scores["retrieval"] = bootstrap.mean(retrieval(guess, truth))
    return scores, mse


def r_squared(mse: ArrayLike, floor: ArrayLike, bootstrap: Bootstrap) -> Estimate:
    """1 - mean(mse) / mean(floor); 0 or less: nothing recovered beyond the floor.

    Args:
        mse: (n,) error of each image.
        floor: (n,) error of the reference guess of each image.
        bootstrap: of these images.

    Example:
        >>> r_squared([0.1, 0.3], [0.4, 0.4], Bootstrap.of(None, 2)).value
        0.5
    """
    mse, floor = np.asarray(mse, np.float64), np.asarray(floor, np.float64)
    if not floor.any():
        return Estimate(None, note="the floor has no error: every image is the same")
    return bootstrap.estimate(lambda weights: 1 - _over(weights @ mse, weights @ floor))


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Division that says NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)


def _balanced(correct: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # Classes of the sample: one that a resample lacks is 0 / 0 there, and the resample is left out.
    one_hot = (labels[:, None] == np.unique(labels)[None, :]).astype(np.float64)
    return _over(weights @ (one_hot * correct[:, None]), weights @ one_hot).mean(1)


def _auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro average over the classes that occur of the weighted probability that one of them outscores one of the rest.

    Undefined where only one class occurs.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return np.full(len(weights), np.nan)
    found = []
    for k in classes:
        order = np.argsort(scores[:, k], kind="stable")
        # Equal scores are summed before they are compared: a tie counts one half, whatever the order within it.
        starts = np.flatnonzero(np.diff(scores[order, k], prepend=-np.inf) != 0)
        ordered, positive = weights[:, order], (labels == k)[order].astype(np.float64)
        up = np.add.reduceat(ordered * positive, starts, axis=1)
        down = np.add.reduceat(ordered * (1 - positive), starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        found.append(_over((up * below).sum(1), up.sum(1) * down.sum(1)))
    return np.mean(found, axis=0)
