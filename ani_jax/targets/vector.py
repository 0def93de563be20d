"""The vector itself, where a client is given no images: reconstruction, read against the mean vector and the class means."""

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from ani_jax.records import Clause, Estimate, Look, Metric, TargetWords
from ani_jax.targets import metrics
from ani_jax.targets.base import Judgement, Known, Target, register
from ani_jax.targets.image import class_mean
from ani_jax.types import Batch, Data, Features


def vector_mse(guess: Features, batch: Batch, aim: object = None) -> Float[Array, " b"]:
    """Mean squared error per vector, in the units of the data."""
    del aim
    return ((guess - batch.image) ** 2).mean(1)


@register
@dataclasses.dataclass(frozen=True)
class Vector(Target):
    """What the client was given; a guess is a vector (d,) of any scale.

    Example:
        >>> Vector().name, Vector().words.higher
        ('vector', True)
    """

    name: str = "vector"

    # Of R²: what is left is rounding.
    perfect, solved = 1.0, 1e-4
    loss = selection = staticmethod(vector_mse)

    @classmethod
    def of(cls, data: Data) -> "tuple[Vector, ...]":
        """One, of data that has vectors."""
        return (cls(),) if data.test.image.ndim == 2 and data.test.image.size else ()

    @property
    def words(self) -> TargetWords:
        """R² over the mean says who is strongest: vectors have no unit."""
        return TargetWords(
            name=self.name,
            title="Vector",
            metrics=(
                Metric("r2_mean", "R² over mean", "ratio", "relative"),
                Metric("r2_class_mean", "R² over class mean", "ratio", "relative"),
                Metric("cosine", "cosine similarity", "ratio", references=True),
                Metric("retrieval", "retrieval, top-1", "percent"),
            ),
            strength="r2_mean",
            higher=True,
            leakage="r2_mean",
            plotted="r2_mean",
            floor="",
            summary=("r2_mean", "retrieval"),
            clauses=(
                Clause("r2_mean", "R² over mean of the strongest reconstruction", relative=True),
                Clause("cosine", "cosine similarity"),
                Clause("retrieval", "top-1 retrieval"),
            ),
            alone="the strongest reconstruction has an R² of {} over the mean",
            is_input=True,
            floors=("cosine_mean",),
        )

    def strength(self, guess: np.ndarray, batch: Batch) -> float:
        """R² over the batch's own mean, 0 where all its vectors are one."""
        truth = np.asarray(batch.image, np.float64)
        variance = float(truth.var(0).mean())
        return 1 - float(np.square(guess - truth).mean()) / variance if variance else 0.0

    def advantage(self, strength: float, batch: Batch) -> float:
        """R² itself."""
        del batch
        return strength

    def gained(self, before: Look, after: Look) -> bool:
        """2% of the error."""
        return after.loss < 0.98 * before.loss

    def judge(self, guess: np.ndarray, known: Known) -> Judgement:
        """Scores, beside the cosine similarity of the mean vector, which is high where all vectors point one way."""
        truth, own = (np.asarray(batch.image, np.float64) for batch in (known.test, known.sample))
        bootstrap, mean = known.bootstrap, np.broadcast_to(own.mean(0), truth.shape)
        floors = {"mean": mean} | ({} if known.answers is None else {"class_mean": class_mean(known.answers, own)})
        errors = np.square(guess - truth).mean(1)
        scores = {
            f"r2_{name}": metrics.r_squared(errors, np.square(floor - truth).mean(1), bootstrap)
            for name, floor in floors.items()
        }
        scores.setdefault("r2_class_mean", Estimate(None, note="needs the provider's answers"))
        scores["cosine"] = bootstrap.mean(metrics.cosine(guess, truth))
        scores["retrieval"] = metrics.retrieved(guess, truth, known.test.group, bootstrap)
        # Not normalised by a reference: R² over the mean is a leakage already.
        leakage = Estimate(None, note="defined for attributes; for vectors read r2_mean")
        floor = np.square(mean - truth).mean(1)

        def strength(rows: np.ndarray, part: metrics.Bootstrap) -> Estimate:
            return metrics.r_squared(errors[rows], floor[rows], part)

        beside: dict[str, float | None] = {"cosine_mean": float(metrics.cosine(mean, truth).mean())}
        return Judgement(scores, beside, leakage, errors, known.slices(known.classes, strength))
