"""Scores of attacks and of utility with 95% intervals, bootstrapped over originals rather than images.

Everything here is NumPy on the host: scores are computed once, on the test split, and must not depend on the device.
An interval resamples whole groups (all images of one original together), because images of one scan are not
independent.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from ani_jax.losses.reconstruction import WINDOW, ms_ssim, ms_ssim_scales, ssim
from ani_jax.records import Estimate

RESAMPLES = 1000
"""Bootstrap resamples behind an interval."""
PSNR_CAP = 100.0
"""Decibels reported for equal images, whose PSNR is infinite; one 8-bit level of error everywhere is 48."""
WORST = 0.05
"""The part of the test images that counts as "most leaked"."""
PEOPLE = 0.1
"""The part of the originals that counts as "read best"."""
PART = 512
"""Images that are compared at a time: similarities keep a dozen copies of them, distances one number for every pair."""


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
        return interval(statistic(self.weights))

    def within(self, rows: Bool[np.ndarray, " n"]) -> "Bootstrap":
        """The same resamples, of which only some examples are looked at.

        Example:
            >>> Bootstrap.of(None, 3, resamples=10).within(np.array([True, False, True])).weights.shape
            (11, 2)
        """
        return Bootstrap(self.weights[:, rows])

    def mean(self, values: ArrayLike) -> Estimate:
        """Estimate of the mean of (n,) values.

        Example:
            >>> Bootstrap.of(None, 2).mean([0.0, 1.0])
            Estimate(value=0.5, low=0.0, high=1.0, note='')
        """
        return self.estimate(lambda weights: _over(weights @ np.asarray(values, np.float64), weights.sum(1)))


def interval(values: ArrayLike) -> Estimate:
    """What a bootstrap's values say: the sample's with the 95% percentile interval of the resamples'.

    Args:
        values: (1 + r,), the sample first; NaN where it is not defined.

    Example:
        >>> interval([2.0, 1.0, np.nan, 3.0])
        Estimate(value=2.0, low=1.05, high=2.95, note='')
    """
    value, *rest = np.asarray(values, np.float64)
    if not np.isfinite(value):
        return Estimate(None, note="not defined on this sample")
    # A resample may have lost a class, or everything that varies.
    finite = np.asarray(rest)[np.isfinite(rest)]
    if not len(finite):
        return Estimate(float(value), note="no resample defines it")
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def resampled(value: Estimate, count: int) -> Float[np.ndarray, " count"]:
    """What stands for the resamples of a number that was measured elsewhere: itself, then draws as wide as its interval.

    Args:
        value: with an interval or, where it counts as known, without.
        count: of what is returned.

    Example:
        >>> resampled(Estimate(0.5), 3).tolist()
        [0.5, 0.5, 0.5]
    """
    # An interval of 95% is four standard errors wide, all but.
    error = 0.0 if value.low is None or value.high is None else (value.high - value.low) / (2 * 1.96)
    found = np.random.default_rng(0).normal(0.0 if value.value is None else value.value, error, count)
    found[0] = value.value
    return found


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
        "balanced_accuracy": bootstrap.estimate(lambda weights: balanced(correct, labels, weights)),
        "accuracy": bootstrap.mean(correct),
        "auc": bootstrap.estimate(lambda weights: auc(scores, labels, weights)),
    }


def balanced_accuracy(guesses: ArrayLike, labels: ArrayLike) -> float:
    """Mean recall over the classes that occur in ``labels``.

    Example:
        >>> balanced_accuracy([0, 0, 0], [0, 0, 1])
        0.5
    """
    guesses, labels = np.asarray(guesses), np.asarray(labels)
    return float(balanced((guesses == labels).astype(np.float64), labels, np.ones((1, len(labels))))[0])


def balanced(
    correct: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Balanced accuracy of every resample.

    Args:
        correct: how right each guess is, 1 or 0.
        labels: true classes.
        weights: of the resamples, see :class:`Bootstrap`.

    Returns:
        Mean recall over the classes that occur in ``labels``; NaN for a resample that lacks one of them.

    Example:
        >>> balanced(np.array([1.0, 1.0, 0.0]), np.array([0, 0, 1]), np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])).tolist()
        [0.5, nan]
    """
    one_hot = (labels[:, None] == np.unique(labels)[None, :]).astype(np.float64)
    return _over(weights @ (one_hot * correct[:, None]), weights @ one_hot).mean(1)


def nth(owner: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Which of its own original's images each is, in their order.

    Args:
        owner: whom each image shows, 0 and up without gaps.

    Example:
        >>> nth(np.array([1, 0, 1, 1])).tolist()
        [0, 0, 1, 2]
    """
    count, found = np.bincount(owner), np.empty(len(owner), int)
    found[np.argsort(owner, kind="stable")] = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return found


def best_read(correct: Float[np.ndarray, " n"], group: ArrayLike | None, bootstrap: Bootstrap) -> tuple[int, Estimate]:
    """How well an attacker reads the tenth of the originals that it reads best: who is at risk, not how many.

    An original is chosen by one half of its drawings and scored on the other half, and the other way round: chosen and scored
    on the same, the luckiest tenth of coin tosses would be read perfectly. Every resample chooses anew; of originals that were
    read equally well all count in part.

    Args:
        correct: how right each guess is, 1 or 0.
        group: (n,) originals; None is one drawing of each.
        bootstrap: of these examples, whole groups at a time.

    Returns:
        How many originals have two drawings or more, and the accuracy; None where there are fewer than ten.

    Example:
        >>> group, correct = np.repeat(np.arange(20), 4), np.repeat([1.0] * 2 + [0.0] * 18, 4)
        >>> best_read(correct, group, Bootstrap.of(group, 80))[1].value
        1.0
    """
    group = np.arange(len(correct)) if group is None else np.asarray(group)
    _, first, owner, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    several = count > 1
    if several.sum() < 1 / PEOPLE:
        return int(several.sum()), Estimate(None, note="needs ten originals that were drawn twice or more")
    place = nth(owner)
    halves = [
        _over(np.bincount(owner, own * correct), np.bincount(owner, own).astype(float))[several]
        for own in (place % 2 == 0, place % 2 == 1)
    ]

    def scored(weights: np.ndarray) -> np.ndarray:
        # An original's drawings are resampled together, so one of them has the weight of all.
        weights, found = weights[:, first][:, several], []
        for chosen, score in (halves, halves[::-1]):
            levels = (chosen[:, None] == np.unique(chosen)[None, ::-1]).astype(np.float64)
            held, read = weights @ levels, weights @ (levels * score[:, None])
            taken = np.clip(PEOPLE * held.sum(1, keepdims=True) - (np.cumsum(held, axis=1) - held), 0, held)
            found.append(_over((_over(taken, held, 0.0) * read).sum(1), taken.sum(1)))
        return np.mean(found, axis=0)

    return int(several.sum()), bootstrap.estimate(scored)


def image_errors(guess: ArrayLike, truth: ArrayLike) -> dict[str, np.ndarray]:
    """Per-image MSE, PSNR (peak 1, at most ``PSNR_CAP``), from 11 pixels a side on SSIM (Wang 2004), from 22 on MS-SSIM.

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
    mse = squares(guess, truth)
    # Capped, because records have no infinity.
    errors = {"mse": mse, "psnr": -10 * np.log10(np.maximum(mse, 10 ** (-PSNR_CAP / 10)))}
    scales = ms_ssim_scales(*truth.shape[1:3])
    # Of a single scale it would be SSIM again.
    for name, similarity, least in (("ssim", ssim, 1), ("ms_ssim", ms_ssim, 2)):
        if scales >= least:
            parts = [similarity(guess[i : i + PART], truth[i : i + PART]) for i in range(0, len(truth), PART)]  # type: ignore[arg-type]
            errors[name] = np.concatenate(parts).astype(np.float64)
    return errors


def squares(guess: Float[np.ndarray, "n h w c"], truth: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Mean squared error of every image, in double precision."""
    return np.square(guess.astype(np.float64) - truth).mean((1, 2, 3))


def retrieval(guess: ArrayLike, truth: ArrayLike, group: ArrayLike | None = None, *, twins: bool = True) -> np.ndarray:
    """Whether each reconstruction's nearest image (by MSE) is its own, among one image of every original.

    An image that is pixel for pixel another one's twin counts as found with either; of several at the same distance only the
    first counts, so a constant guess finds one in n.

    Args:
        guess: (n, ...) reconstructions.
        truth: (n, ...) images in the same order.
        group: (n,) which original each image shows: of others than its own, the first alone is there to be found. None means
            that each is its own.
        twins: whether twins count so; False where what is compared are no images, of which a constant client makes twins.

    Returns:
        (n,) of 1.0 and 0.0.

    Example:
        >>> retrieval(np.array([[0.1], [0.2]]), np.array([[0.0], [1.0]])).tolist()
        [1.0, 0.0]
    """
    found, real = np.asarray(guess, np.float64), np.asarray(truth, np.float64)
    found, real = found.reshape(len(found), -1), real.reshape(len(real), -1)
    shown = np.arange(len(real)) if group is None else np.asarray(group)
    _, firsts, owner = np.unique(shown, return_index=True, return_inverse=True)
    # Distances stay what they are; smaller numbers leave less to cancel.
    centre = real.mean(0)
    found, real = found - centre, real - centre
    # A guess's own square is the same for all originals.
    square, hits = np.square(real).sum(1), []
    for start in range(0, len(found), PART):
        rows = np.arange(start, min(start + PART, len(found)))
        distances = square[firsts] - 2 * found[rows] @ real[firsts].T
        distances[np.arange(len(rows)), owner[rows]] = square[rows] - 2 * (found[rows] * real[rows]).sum(1)
        nearest = distances.argmin(1)
        hits.append((nearest == owner[rows]) | (twins & (real[firsts[nearest]] == real[rows]).all(1)))
    return np.concatenate(hits).astype(np.float64)


def retrieved(guess: ArrayLike, truth: ArrayLike, group: ArrayLike | None, bootstrap: Bootstrap) -> Estimate:
    """The part of :func:`retrieval` that found its own; noted among how many, since of fewer it is easier.

    Example:
        >>> x = np.arange(8.0)[:, None]
        >>> retrieved(x, x, None, Bootstrap.of(None, 8)).note
        'among 8'
    """
    count = len(np.asarray(truth)) if group is None else len(np.unique(np.asarray(group)))
    return dataclasses.replace(bootstrap.mean(retrieval(guess, truth, group)), note=f"among {count:,}")


def cosine(guess: ArrayLike, truth: ArrayLike) -> Float[np.ndarray, " n"]:
    """Cosine similarity of each pair of vectors, 0 where one of them is 0.

    Args:
        guess: (n, d).
        truth: (n, d).

    Example:
        >>> cosine([[1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [1.0, 1.0]]).tolist()
        [1.0, 0.0]
    """
    guess, truth = np.asarray(guess, np.float64), np.asarray(truth, np.float64)
    lengths = np.linalg.norm(guess, axis=1) * np.linalg.norm(truth, axis=1)
    return _over((guess * truth).sum(1), lengths, 0.0)


def reconstruction(
    guess: ArrayLike,
    truth: ArrayLike,
    floors: Mapping[str, ArrayLike],
    bootstrap: Bootstrap,
    group: ArrayLike | None = None,
) -> tuple[dict[str, Estimate], np.ndarray]:
    """Every image score of METHODS 6.

    Args:
        guess: (n, h, w, c) in [0, 1].
        truth: (n, h, w, c) originals.
        floors: name ("mean", "class_mean") -> (n,) MSE of guessing that image; each gives an R^2.
        bootstrap: of these images.
        group: see :func:`retrieval`.

    Returns:
        Scores (mse, mse_worst, psnr, ssim, ms_ssim, retrieval, r2_NAME) and the per-image MSE.
    """
    errors = image_errors(guess, truth)
    scores = {name: bootstrap.mean(values) for name, values in errors.items()}
    scores.setdefault("ssim", Estimate(None, note=f"images under {WINDOW} pixels a side have no SSIM"))
    scales = ms_ssim_scales(*np.shape(truth)[1:3])
    said = (
        f"over the {scales} scales that fit"
        if scales > 1
        else f"images under {2 * WINDOW} pixels a side have one scale"
    )
    scores["ms_ssim"] = dataclasses.replace(scores.get("ms_ssim", Estimate(None)), note=said if scales < 5 else "")
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
    scores["retrieval"] = retrieved(guess, truth, group, bootstrap)
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


def _over(numerator: np.ndarray, denominator: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    """Division that says NaN, or what it is told to, where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), undefined), where=denominator != 0)


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro average over the classes that occur of the probability that one of them outscores one of the rest; ties count half.

    Args:
        scores: (n, K).
        labels: (n,) true classes.
        weights: (r, n) of the resamples, see :class:`Bootstrap`.

    Returns:
        (r,); NaN for a resample that lacks a class, and for all where only one class occurs.

    Example:
        >>> auc(np.eye(2), np.array([0, 1]), np.ones((1, 2))).tolist()
        [1.0]
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
