"""A class that the task never needed: the ink, the gender. Its floors and its normalised leakage (METHODS 5.1)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from ani_jax.records import Clause, Estimate, Look, Metric, Slice, TargetWords
from ani_jax.targets import metrics
from ani_jax.targets.base import Answers, Judgement, Known, Target, register
from ani_jax.types import Batch, Data

SET = 8
"""Images of one identity that an attacker who knows them to be of one puts together, at most."""


def cross_entropy(logits: Array, batch: Batch, aim: Int[Array, ""]) -> Float[Array, " b"]:
    """Cross-entropy with the attribute whose place in alphabetical order is ``aim``.

    The place is traced, so attackers of all attributes with equally many classes share their compiled code.
    """
    labels = jnp.stack([batch.sensitive[name] for name in sorted(batch.sensitive)])[aim]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@register
@dataclasses.dataclass(frozen=True)
class Attribute(Target):
    """One of ``Batch.sensitive``; a guess is a score for each class, the highest wins.

    Attributes:
        classes: K; chance is 1/K.

    Example:
        >>> Attribute("ink", 4).words.title
        'Attribute ink'
    """

    classes: int

    loss = staticmethod(cross_entropy)
    selection = staticmethod(cross_entropy)
    # No doubling can gain a point any more.
    perfect, solved = 1.0, 0.01
    ceilings = True

    @classmethod
    def of(cls, data: Data) -> "tuple[Attribute, ...]":
        """Every sensitive attribute."""
        return tuple(cls(task.name, task.classes) for task in data.sensitive)

    @property
    def words(self) -> TargetWords:
        """Balanced accuracy first: classes of unequal size must not flatter a guess of the largest."""
        return TargetWords(
            name=self.name,
            title=f"Attribute {self.name}",
            metrics=(
                Metric("balanced_accuracy", "balanced accuracy", "percent", "points", references=True),
                Metric("of_a_set", f"of up to {SET} images of one identity", "percent"),
                Metric("over_floor", "over the floor", "points"),
                Metric("auc", "AUC", "ratio"),
            ),
            strength="balanced_accuracy",
            higher=True,
            leakage="",
            plotted="balanced_accuracy",
            floor="chance",
            summary=("balanced_accuracy", "leakage"),
            clauses=(Clause("balanced_accuracy", f"balanced accuracy in inferring {self.name}"),),
            alone=f"{self.name} inferred with {{}} balanced accuracy",
            beyond="over_floor",
            floors=("chance", "majority", "label_mediated"),
        )

    @property
    def alternatives(self) -> int:
        """Its classes."""
        return self.classes

    def aim(self, batch: Batch) -> Any:
        """Its place among the attributes."""
        return jnp.asarray(sorted(batch.sensitive).index(self.name))

    def strength(self, guess: np.ndarray, batch: Batch) -> float:
        """Balanced accuracy."""
        return metrics.balanced_accuracy(guess.argmax(1), np.asarray(batch.sensitive[self.name]))

    def advantage(self, strength: float, batch: Batch) -> float:
        """Over chance."""
        del batch
        return strength - 1 / self.classes

    def gained(self, before: Look, after: Look) -> bool:
        """A point, or 0.003 nats."""
        return after.strength - before.strength >= 0.01 or before.loss - after.loss >= 0.003

    def balanced(self, guess: np.ndarray, sample: Batch) -> np.ndarray:
        """Log posteriors less the log prior: of a rare class that z speaks for, its rarity must not speak against it.

        Attackers are trained on the classes as they are, so what they give is a posterior under the sample's frequencies.
        """
        prior = np.bincount(np.asarray(sample.sensitive[self.name]), minlength=self.classes) / len(sample.label)
        # A class that the attacker never saw stays where its posterior is.
        return guess - np.log(np.where(prior > 0, prior, 1))[None].astype(guess.dtype)

    def judge(self, guess: np.ndarray, known: Known) -> Judgement:
        """Scores; beside them chance, the majority class, and what the provider's answer alone gives away.

        The floor that leakage is counted from is the highest of these in every resample, see :func:`normalised`.
        """
        sample, labels = (np.asarray(batch.sensitive[self.name]) for batch in (known.sample, known.test))
        bootstrap = known.bootstrap

        def resampled(correct: np.ndarray) -> np.ndarray:
            return metrics.balanced(correct.astype(np.float64), labels, bootstrap.weights)

        # The attackers' own frequencies: those of test are nobody's to know.
        majority = labels == np.bincount(sample, minlength=self.classes).argmax()
        floors = {"majority": resampled(majority)}
        if known.answers is not None:
            # Decided as attackers decide: what the answer tells of a rare class is no leakage of theirs.
            told = np.log(np.maximum(label_mediated(known.answers, sample, self.classes), 1e-30))
            floors["label_mediated"] = resampled(self.balanced(told, known.sample).argmax(1) == labels)
        beside = {name: float(values[0]) for name, values in floors.items()}
        beside |= {"chance": 1 / self.classes, "majority_accuracy": float(majority.mean())}
        correct = (guess.argmax(1) == labels).astype(np.float64)
        above, said, undefended = None, "", known.undefended
        if undefended is not None and undefended.per_example is not None:
            above = resampled(undefended.per_example)
        elif undefended is not None and undefended.score.value is not None:
            above = metrics.resampled(undefended.score, len(bootstrap.weights))
            said = "the undefended reference was audited on other images: its score is taken as independent"
        score, floor = resampled(correct), np.max([*floors.values()], axis=0)
        leakage = normalised(score, floor, above)
        leakage = dataclasses.replace(leakage, note="; ".join(filter(None, (leakage.note, said))))

        def strength(rows: np.ndarray, part: metrics.Bootstrap) -> Estimate:
            return part.estimate(lambda weights: metrics.balanced(correct[rows], labels[rows], weights))

        size, best = metrics.best_read(correct, known.test.group, bootstrap)
        slices = (*known.slices((self.name,), strength), Slice("originals", "the tenth that is read best", size, best))
        references = {name: beside.get(name) for name in ("chance", "majority", "majority_accuracy", "label_mediated")}
        scores = metrics.classification(guess, labels, bootstrap) | {"over_floor": metrics.interval(score - floor)}
        together = of_a_set(guess, labels, known.test.group, bootstrap)
        scores |= {} if together is None else {"of_a_set": together}
        return Judgement(scores, references, leakage, correct, slices)


@dataclasses.dataclass(frozen=True)
class HeadLoss:
    """Cross-entropies of several attributes in one output, whose classes lie behind each other on the last axis.

    Attributes:
        heads: the attributes.
        summed: the sum of all (b,) rather than each by itself (b, heads).
    """

    heads: tuple[Attribute, ...]
    summed: bool

    def __call__(self, output: Array, batch: Batch, aim: object = None) -> Float[Array, "b ..."]:
        """Of every example."""
        del aim
        each = jnp.stack(
            [
                optax.softmax_cross_entropy_with_integer_labels(output[:, cut], batch.sensitive[head.name])
                for head, cut in zip(self.heads, cuts(self.heads), strict=True)
            ],
            axis=1,
        )
        return each.sum(1) if self.summed else each


@dataclasses.dataclass(frozen=True)
class Heads(Target):
    """Several attributes at once, for one network with a head for each.

    Attributes:
        heads: the attributes, each by itself.

    Example:
        >>> both = Heads("both", (Attribute("ink", 4), Attribute("pen", 2)))
        >>> [cut for _, cut in both.parts]
        [slice(0, 4, None), slice(4, 6, None)]
    """

    heads: tuple[Attribute, ...]

    @property
    def loss(self) -> HeadLoss:  # type: ignore[override]
        """The sum of all."""
        return HeadLoss(self.heads, True)

    @property
    def selection(self) -> HeadLoss:  # type: ignore[override]
        """Each part by itself: what is best for one may be late for another."""
        return HeadLoss(self.heads, False)

    @property
    def parts(self) -> tuple[tuple[Target, slice], ...]:
        """Every attribute with its classes."""
        return tuple(zip(self.heads, cuts(self.heads), strict=True))


def cuts(heads: Sequence[Attribute]) -> list[slice]:
    """Where each attribute's classes lie where they lie behind each other."""
    ends = np.cumsum([head.classes for head in heads]).tolist()
    return [slice(end - head.classes, end) for head, end in zip(heads, ends, strict=True)]


def of_a_set(
    guess: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    group: ArrayLike | None,
    bootstrap: metrics.Bootstrap,
) -> Estimate | None:
    """Balanced accuracy for identities, of whom an attacker has up to ``SET`` images: their log likelihoods are added up.

    None where images show no identities, or the attribute is none of theirs: an ink, say, that differs from drawing to drawing.

    Args:
        guess: log posteriors less the log prior of each image, up to a constant an image.
        labels: classes.
        group: whom each image shows.
        bootstrap: of the images, clustered by these.

    Example:
        >>> group = np.repeat(np.arange(40), 4)
        >>> labels, rng = group % 2, np.random.default_rng(0)
        >>> guess = np.eye(2)[labels] + rng.normal(size=(160, 2))
        >>> alone = metrics.balanced_accuracy(guess.argmax(1), labels)
        >>> alone < of_a_set(guess, labels, group, metrics.Bootstrap.of(group, 160)).value
        True
    """
    if group is None:
        return None
    _, first, place = np.unique(np.asarray(group), return_index=True, return_inverse=True)
    if len(first) == len(place) or (labels != labels[first][place]).any():
        return None
    few = metrics.nth(place) < SET
    total = np.zeros((len(first), guess.shape[1]))
    np.add.at(total, place[few], guess[few])
    correct = (total.argmax(1) == labels[first]).astype(np.float64)
    # Images of one identity have one weight in every resample.
    return bootstrap.estimate(lambda weights: metrics.balanced(correct, labels[first], weights[:, first]))


def label_mediated(answers: Answers, sample: np.ndarray, classes: int) -> Float[np.ndarray, "m k"]:
    """Class scores of whoever knows only the provider's answer: frequencies on the sample given that answer.

    Args:
        answers: the provider's.
        sample: true classes of the sample, those that are answered for first.
        classes: K of the attribute.
    """
    table = np.zeros((answers.classes, classes))
    np.add.at(table, (answers.sample, sample[: len(answers.sample)]), 1)
    prior = table.sum(0)
    # A class never predicted for the sample says nothing: the prior answers for it.
    table = np.where(table.sum(1, keepdims=True) > 0, table, prior[None, :])
    return (table / table.sum(1, keepdims=True))[answers.test]


def normalised(
    score: Float[np.ndarray, " r"], floor: Float[np.ndarray, " r"], undefended: Float[np.ndarray, " r"] | None
) -> Estimate:
    """Normalised leakage ``(score - floor) / (undefended - floor)``: 0 at the floor, 1 undefended (METHODS 5.1).

    All three are taken anew in every resample, so what they share cancels. Where the denominator is within two of its standard
    errors of 0 there is nothing to normalise by: None, and the note gives ``score - floor`` with its interval.

    Args:
        score: the attack's, on the sample and then on its resamples.
        floor: the highest of the floors, likewise.
        undefended: the same attack's score on the undefended reference, likewise; None where there is none.

    Example:
        >>> normalised(np.array([0.5, 0.4]), np.array([0.25, 0.2]), np.array([0.75, 0.6])).value
        0.5
    """
    over = metrics.interval(score - floor)
    if over.value is None:
        return over
    advantage = f"score - floor = {over.value:.3f}"
    advantage += "" if over.low is None or over.high is None else f" ({over.low:.3f} to {over.high:.3f})"
    if undefended is None:
        return Estimate(None, note=f"no undefended reference; {advantage}")
    width = undefended - floor
    known = width[1:][np.isfinite(width[1:])]
    error = 2 * float(known.std()) if len(known) else 0.0
    # Where every resample says the same the error is 0, and a width of 0 divides nothing.
    if not width[0] > max(error, 1e-9):
        reason = f"the undefended score is within two standard errors ({error:.3f}) of the floor {floor[0]:.3f}"
        return Estimate(None, note=f"{reason}; {advantage}")
    return metrics.interval((score - floor) / np.where(width > 0, width, np.nan))
