"""The linear discriminant within each answer of the provider: of whoever sends little but the answer, all else lies there."""

import contextlib
import dataclasses
from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ani_jax.attacks.base import Attack, Context, Fitted, Standardiser, in_chunks, register
from ani_jax.attacks.discriminant import PENALTIES, TAUGHT, calibrated
from ani_jax.attacks.query import Observed, as_predictor, flat, predicted
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Features, Knowledge, Logits, PRNGKey

MOST = 4096
"""Rows of an answer at most that its directions are learnt from."""
FIRM = (*PENALTIES[-2:], 1.0)
"""Parts of the mean variance that are added to every direction's: an answer has few rows."""


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Within(Attack):
    """Fisher's discriminant of each predicted class by itself, one calibration for all of them.

        W_a = (C_a + penalty * trace(C_a) / d)^-1 Z_a^T Y_a / n_a    of the rows that are answered with a, less their mean

    What an attribute changes depends on what is drawn: over all digits together most of it cancels. [ours] Of a ``partition``
    trained to say nothing but its label (``excess``), this alone found as much as all other attackers together (docs/RESULTS.md).
    """

    target: Attribute

    family = "attribute"
    levels = MappingProxyType({"standard": {}, "thorough": {}})

    @classmethod
    def able(cls, knowledge: Knowledge) -> bool:
        """Who answers must be known."""
        return knowledge.predict is not None

    def repeated(self) -> None:
        """Sits out: several releases together have no answer."""

    def fit(self, context: Context) -> Fitted:
        """Keeps the penalty with the lowest cross-entropy on ``validation``."""
        asked = context.asked
        predict = as_predictor(asked.knowledge.predict)  # type: ignore[arg-type]
        labels = np.asarray(asked.sample.sensitive[self.target.name])
        taught = int(TAUGHT * len(labels))
        answers = predicted(predict, asked.sample_z)
        aims = np.eye(self.target.classes)[labels[:taught]]
        shape = (answers.shape[1], asked.sample_z[0].size, self.target.classes)
        weights, centres = np.zeros((len(FIRM), *shape)), np.zeros(shape[:2])
        for answer in range(shape[0]):
            rows = np.flatnonzero(answers[:taught].argmax(1) == answer)[:MOST]
            # Of two rows less their mean nothing can be told.
            if len(rows) > 2:
                z = np.asarray(flat(asked.standardise(asked.sample_z[rows])), np.float64)
                centres[answer] = z.mean(0)
                weights[:, answer] = _solved(z - centres[answer], aims[rows] - aims[rows].mean(0))
        best, least, still = None, np.inf, (jnp.eye(shape[2]), jnp.zeros(shape[2]))
        for one in weights:
            directions = (jnp.asarray(one, jnp.float32), jnp.asarray(centres, jnp.float32), asked.standardise, predict)
            told, heard = (
                np.asarray(in_chunks(WithinAnswers(*directions, *still), z[None]))
                for z in (asked.sample_z[taught:], asked.held_z)
            )
            found = calibrated(self.target, (told, labels[taught:]), heard, asked.validation)
            if found is not None and found.loss < least:
                least = found.loss
                best = WithinAnswers(*directions, jnp.asarray(found.lift, jnp.float32), jnp.asarray(found.bias))
        return Fitted(best, None if best is not None else "no penalty gave finite weights")


def _solved(rows: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """Ridge solutions (penalties, d, K), from the smaller of the two products."""
    dual = rows.shape[1] > len(rows)
    matrix, wanted = (rows @ rows.T, aims) if dual else (rows.T @ rows, rows.T @ aims)
    found = np.zeros((len(FIRM), rows.shape[1], aims.shape[1]))
    for place, penalty in enumerate(FIRM):
        ridge = penalty * max(np.trace(matrix) / len(matrix), 1e-20)
        with contextlib.suppress(np.linalg.LinAlgError):
            solution = scipy.linalg.solve(matrix + ridge * np.eye(len(matrix)), wanted, assume_a="pos")
            found[place] = rows.T @ solution if dual else solution
    return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithinAnswers:
    """Reads each row by the directions of its own answer.

    Attributes:
        weights: of each answer, (A, d, K).
        centres: of each answer, (A, d).
        standardise: of z.
        predict: the provider's network, a pytree callable.
        lift: of all answers, (K, K).
        bias: likewise, (K,).
    """

    weights: Float[Array, "a d k"]
    centres: Float[Array, "a d"]
    standardise: Standardiser
    predict: Callable[[Features], Logits]
    lift: Float[Array, "k k"]
    bias: Float[Array, " k"]

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Log posterior of each class, (n, K)."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features) -> Float[Array, "n k"]:
        """Log posterior of each class from (n, ...) features."""
        x, answer = flat(self.standardise(z)), self.predict(z).argmax(1)
        scores = jnp.einsum("nd,adk->nak", x, self.weights) - jnp.einsum("ad,adk->ak", self.centres, self.weights)[None]
        return jnp.take_along_axis(scores, answer[:, None, None], axis=1)[:, 0] @ self.lift + self.bias[None]
