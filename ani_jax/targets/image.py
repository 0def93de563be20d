"""The image itself: reconstruction, read against the mean image and the class-mean image (METHODS 6)."""

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from ani_jax.losses.reconstruction import mse
from ani_jax.records import Clause, Estimate, Look, Metric, Picture, TargetWords
from ani_jax.targets import metrics
from ani_jax.targets.base import Answers, Judgement, Known, Target, register
from ani_jax.types import Batch, Data, Images


def image_mse(guess: Images, batch: Batch, aim: object = None) -> Float[Array, " b"]:
    """MSE per image."""
    del aim
    return mse(guess, batch.image)


@register
@dataclasses.dataclass(frozen=True)
class Image(Target):
    """What the client was given; a guess is an image in [0, 1].

    Example:
        >>> Image().name, Image().words.higher
        ('image', False)
    """

    name: str = "image"

    # Less than what 8 bits round off.
    perfect, solved = 0.0, 1e-6
    limits = (0.0, 1.0)
    # One loss for training and selection: what a network is kept by is what it learns (METHODS 5.2).
    loss = selection = staticmethod(image_mse)

    @classmethod
    def of(cls, data: Data) -> "tuple[Image, ...]":
        """One, of data that has images."""
        return (cls(),) if data.test.image.ndim == 4 else ()

    @property
    def words(self) -> TargetWords:
        """The MSE says who is strongest; R² over the class mean says what was learnt beyond the answer."""
        return TargetWords(
            name=self.name,
            title="Image",
            metrics=(
                Metric("mse", "MSE", "small", "relative", references=True),
                Metric("mse_worst", "MSE, most leaked 5%", "small"),
                Metric("psnr", "PSNR", "decibel"),
                Metric("ssim", "SSIM", "ratio"),
                Metric("ms_ssim", "MS-SSIM", "ratio"),
                Metric("r2_mean", "R² over mean", "ratio"),
                Metric("r2_class_mean", "R² over class mean", "ratio", "relative"),
                Metric("retrieval", "retrieval, top-1", "percent"),
            ),
            strength="mse",
            higher=False,
            leakage="r2_class_mean",
            plotted="r2_class_mean",
            floor="",
            summary=("mse", "r2_class_mean"),
            clauses=(
                Clause("mse", "the strongest reconstruction's error", relative=True),
                Clause("ssim", "SSIM"),
                Clause("r2_mean", "R² over mean"),
                Clause("r2_class_mean", "R² over class mean", relative=True),
                Clause("retrieval", "top-1 retrieval"),
            ),
            alone="the strongest reconstruction's MSE is {}",
            is_input=True,
            floors=("mse_mean_image", "mse_class_mean"),
        )

    def strength(self, guess: np.ndarray, batch: Batch) -> float:
        """Minus the MSE."""
        return -float(metrics.squares(guess, np.asarray(batch.image)).mean())

    def advantage(self, strength: float, batch: Batch) -> float:
        """R² over the batch's own mean image, 0 where all its images are one."""
        variance = float(np.asarray(batch.image, np.float64).var(0).mean())
        return 1 + strength / variance if variance else 0.0

    def gained(self, before: Look, after: Look) -> bool:
        """2% of the error."""
        return after.loss < 0.98 * before.loss

    def judge(self, guess: np.ndarray, known: Known) -> Judgement:
        """Scores; beside them the errors of the mean image and, where the provider's answers are known, of the class mean."""
        truth, own = np.asarray(known.test.image), np.asarray(known.sample.image)
        floors = {"mean": metrics.squares(np.broadcast_to(own.mean(0), truth.shape), truth)}
        if known.answers is not None:
            floors["class_mean"] = metrics.squares(class_mean(known.answers, own), truth)
        scores, errors = metrics.reconstruction(guess, truth, floors, known.bootstrap, known.test.group)
        scores.setdefault("r2_class_mean", Estimate(None, note="needs predict"))
        beside = {
            f"mse_{name}": float(floors[floor].mean()) if floor in floors else None
            for name, floor in (("mean_image", "mean"), ("class_mean", "class_mean"))
        }
        # Not normalised by a reference: R² over the class mean is a leakage already.
        leakage = Estimate(None, note="defined for attributes; for images read r2_class_mean")
        slices = known.slices(known.classes, lambda rows, bootstrap: bootstrap.mean(errors[rows]))
        return Judgement(scores, beside, leakage, errors, slices)

    def picture(self, guess: Images | np.ndarray) -> Picture | None:
        """Images of one channel or three."""
        return Picture.of(guess) if guess.shape[-1] in (1, 3) else None


def class_mean(answers: Answers, sample: np.ndarray) -> Float[np.ndarray, "m ..."]:
    """The sample's mean image, or vector, given the provider's answer, for each test image.

    Args:
        answers: the provider's.
        sample: images (n, h, w, c) or vectors (n, d), those that are answered for first.
    """
    sample = sample[: len(answers.sample)]
    # Of a class that is never answered for the sample there is no mean: the mean image answers for it.
    means = [
        sample[answers.sample == k].mean(0) if (answers.sample == k).any() else sample.mean(0)
        for k in range(answers.classes)
    ]
    return np.stack(means)[answers.test]
