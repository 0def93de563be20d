"""What scores are read against: floors that need no attack, and the ceiling that needs no client (METHODS 5.1, 6)."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ani_jax.attacks.base import View
from ani_jax.attacks.query import Observed
from ani_jax.evaluation.metrics import Bootstrap, classification, image_errors
from ani_jax.modules.adversaries import space_to_depth
from ani_jax.records import AttackResult, Estimate
from ani_jax.types import Batch, Features, Images, Logits, Task

FOLD = 4
"""Attackers get raw images with 4x4 pixels folded to a cell, where sides allow it: nothing lost, 16 times cheaper."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What the provider itself answers: predicted primary classes of the auxiliary sample and of the test images.

    Attributes:
        sample: (n,) predictions for ``View.sample``.
        test: (m,) predictions for the test images.
        classes: K of the primary task.
    """

    sample: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]
    classes: int

    @classmethod
    def of(cls, predict: Callable[[Features], Logits], view: View, test_z: Observed) -> "Answers":
        """Asks the provider about one release of each image.

        Raises:
            ValueError: ``predict`` does not return (n, K) logits.
        """
        sample, test = (_predicted(predict, z) for z in (view.sample_z, test_z[0]))
        return cls(sample.argmax(1), test.argmax(1), test.shape[1])

    def label_mediated(self, sample: np.ndarray, classes: int) -> np.ndarray:
        """Class scores (m, classes) of whoever knows only the answer: frequencies on the sample given that answer."""
        table = np.zeros((self.classes, classes))
        np.add.at(table, (self.sample, sample), 1)
        prior = table.sum(0)
        # A class never predicted for the sample says nothing: the prior answers for it.
        table = np.where(table.sum(1, keepdims=True) > 0, table, prior[None, :])
        return (table / table.sum(1, keepdims=True))[self.test]

    def class_mean(self, sample: Images) -> Float[np.ndarray, "m h w c"]:
        """The sample's mean image given the provider's answer, for each test image."""
        images = np.asarray(sample)
        means = [
            images[self.sample == k].mean(0) if (self.sample == k).any() else images.mean(0)
            for k in range(self.classes)
        ]
        return np.stack(means)[self.test]


def _predicted(predict: Callable[[Features], Logits], z: Features) -> np.ndarray:
    logits = np.asarray(jax.jit(predict)(z))
    if logits.ndim != 2 or len(logits) != len(z):
        raise ValueError(f"predict: gave shape {logits.shape} for {len(z)} images; must be (images, classes)")
    return logits


def attribute_floors(
    view: View, test: Batch, task: Task, answers: Answers | None, bootstrap: Bootstrap
) -> tuple[dict[str, float | None], Estimate]:
    """Balanced accuracies that need no attack, and the floor that leakage is counted from: the highest of them.

    Args:
        view: whose sample is learnt from.
        test: scored.
        task: the attribute.
        answers: the provider's, None where it is not at hand.
        bootstrap: of the test images.

    Returns:
        "chance", "majority", "majority_accuracy" (plain accuracy) and "label_mediated" (None without answers); and the
        floor.
    """
    known, labels = np.asarray(view.sample.sensitive[task.name]), np.asarray(test.sensitive[task.name])
    prior = np.bincount(known, minlength=task.classes) / len(known)
    majority = classification(np.broadcast_to(prior, (len(labels), task.classes)), labels, bootstrap)
    floor, mediated = majority["balanced_accuracy"], None
    if answers is not None:
        mediated = classification(answers.label_mediated(known, task.classes), labels, bootstrap)["balanced_accuracy"]
        floor = max(floor, mediated, key=lambda estimate: estimate.value or 0.0)
    found = {
        "chance": 1 / task.classes,
        "majority": majority["balanced_accuracy"].value,
        "majority_accuracy": majority["accuracy"].value,
        "label_mediated": mediated.value if mediated else None,
    }
    return found, floor


def image_floors(view: View, test: Batch, answers: Answers | None) -> dict[str, np.ndarray]:
    """Per-image MSE of guesses that need no attack: "mean", and "class_mean" where there are answers."""
    truth = np.asarray(test.image)
    mean = np.broadcast_to(np.asarray(view.sample.image).mean(0), truth.shape)
    floors = {"mean": image_errors(mean, truth)["mse"]}
    if answers is not None:
        floors["class_mean"] = image_errors(answers.class_mean(view.sample.image), truth)["mse"]
    return floors


def leakage(score: Estimate, floor: Estimate, undefended: Estimate | None) -> Estimate:
    """Normalised leakage ``(score - floor) / (undefended - floor)``: 0 at the floor, 1 undefended (METHODS 5.1).

    The interval is the score's, carried over; floor and denominator count as known. Where the denominator is within
    two of its standard errors of 0 there is nothing to normalise by: None, and the note gives ``score - floor`` with
    its interval.

    Args:
        score: the attack's.
        floor: the highest of the floors.
        undefended: the same attack's score on the undefended reference, None where there is none.

    Example:
        >>> leakage(Estimate(0.5), Estimate(0.25), Estimate(0.75, 0.74, 0.76)).value
        0.5
    """
    if score.value is None or floor.value is None:
        return Estimate(None, note="the attack has no score")
    advantage = f"score - floor = {score.value - floor.value:.3f}"
    if score.low is not None and score.high is not None:
        advantage += f" ({score.low - floor.value:.3f} to {score.high - floor.value:.3f})"
    if undefended is None or undefended.value is None:
        return Estimate(None, note=f"no undefended reference; {advantage}")
    width = undefended.value - floor.value
    error = math.hypot(_standard_error(undefended), _standard_error(floor))
    if width <= max(2 * error, 1e-9):
        reason = f"the undefended score is within two standard errors ({2 * error:.3f}) of the floor {floor.value:.3f}"
        return Estimate(None, note=f"{reason}; {advantage}")
    ends = [None if end is None else (end - floor.value) / width for end in (score.low, score.high)]
    return Estimate((score.value - floor.value) / width, ends[0], ends[1])


def _standard_error(estimate: Estimate) -> float:
    return 0.0 if estimate.low is None or estimate.high is None else (estimate.high - estimate.low) / (2 * 1.96)


def undefended_score(reference: AttackResult | None) -> Estimate | None:
    """The balanced accuracy that the same attack reached on the undefended reference."""
    return None if reference is None or reference.status != "ok" else reference.scores.get("balanced_accuracy")


def send_raw(x: Images) -> Images:
    """The image, folded where its sides allow it."""
    return space_to_depth(x, FOLD) if x.shape[1] % FOLD == 0 and x.shape[2] % FOLD == 0 else jnp.asarray(x)
