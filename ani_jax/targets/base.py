"""What every target owns: the truth, when a guess is stronger, its scores beside their floors, and its words.

Attacks train on ``loss``, keep and tune by ``selection``; the audit chooses attackers by ``strength`` on ``validation`` and has
``judge`` score the chosen one on ``test``; reports read ``words``. Nobody asks which target it is.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ani_jax.records import Estimate, Look, Picture, Slice, TargetWords
from ani_jax.targets.metrics import Bootstrap
from ani_jax.types import Batch, Data, Images

Loss = Callable[[Array, Batch, Any], Float[Array, " b"]]
"""``(output, batch, aim) -> (b,)``; static; ``aim`` is the traced value of :meth:`Target.aim`."""


# Compared by identity: == of two arrays is no truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What the provider itself answers: predicted primary classes of the auxiliary sample and of the test images.

    Attributes:
        sample: (n,) predictions for the first n of the images that attackers learn from.
        test: (m,) predictions for the test images.
        classes: K of the primary task.
    """

    sample: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]
    classes: int


class Undefended(NamedTuple):
    """What the same attack found on the undefended reference.

    Attributes:
        score: its strength, as a report says it.
        per_example: one number a test image, None where the reference was audited on other images.
    """

    score: Estimate
    per_example: Float[np.ndarray, " m"] | None


class Known(NamedTuple):
    """What guesses are set beside.

    Attributes:
        sample: auxiliary images, from which floors are learnt.
        test: the images that guesses are scored on.
        answers: the provider's, None where its network is not at hand.
        bootstrap: of the test images.
        undefended: what leakage is normalised by, None without a reference.
        classes: attribute -> names of its classes, for those whose parts of the test images are looked at by themselves.
    """

    sample: Batch
    test: Batch
    answers: Answers | None
    bootstrap: Bootstrap
    undefended: Undefended | None = None
    classes: Mapping[str, tuple[str, ...]] = {}

    def slices(
        self, attributes: Iterable[str], strength: Callable[[Bool[np.ndarray, " m"], Bootstrap], Estimate]
    ) -> tuple[Slice, ...]:
        """The strength on every class of some attributes, and where the provider is right and where it is wrong.

        Args:
            attributes: names; one whose classes have no names is left out.
            strength: (rows that are looked at, a bootstrap of these) -> estimate.
        """
        parts = [
            (name, title, np.asarray(self.test.sensitive[name]) == k)
            for name in attributes
            for k, title in enumerate(self.classes.get(name, ()))
        ]
        if self.answers is not None:
            right = self.answers.test == np.asarray(self.test.label)
            parts += [("answer", "right", right), ("answer", "wrong", ~right)]
        return tuple(
            Slice(by, name, int(rows.sum()), strength(rows, self.bootstrap.within(rows)))
            for by, name, rows in parts
            if rows.any()
        )


class Judgement(NamedTuple):
    """What the guesses of one attacker are worth; the fields are those of :class:`ani_jax.records.AttackResult`.

    Attributes:
        scores: by metric.
        references: what scores are read against, by name.
        leakage: 0 at the floor and 1 undefended; None with a note where it is not defined.
        per_example: one number a test image.
        slices: whom the strength comes from.
    """

    scores: dict[str, Estimate]
    references: dict[str, float | None]
    leakage: Estimate
    per_example: np.ndarray
    slices: tuple[Slice, ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing that an attacker may want of every image; static and hashable.

    Attributes:
        name: within its data set.
    """

    name: str

    # Given as staticmethod: a plain function would be bound, and get the target for its output.
    loss: ClassVar[Loss]
    """What a network attacker minimises."""
    selection: ClassVar[Loss]
    """What its parameters and settings are chosen by on ``validation``; often the same."""
    perfect: ClassVar[float] = float("inf")
    """A strength that nothing can exceed."""
    solved: ClassVar[float] = 0.0
    """How near to it nothing is left to find."""
    limits: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    """Between which each number of a guess must lie."""
    ceilings: ClassVar[bool] = False
    """Whether the same attack on raw images, on a random encoder and on the undefended client is shown beside its score."""

    @classmethod
    def of(cls, data: Data) -> tuple[Self, ...]:
        """All targets of this kind that a data set has."""
        raise NotImplementedError

    @property
    def words(self) -> TargetWords:
        """What a report needs to know."""
        raise NotImplementedError

    @property
    def alternatives(self) -> int | None:
        """How many answers there are, each of which counts as much, where the strength is the share of right ones."""
        return None

    def aim(self, batch: Batch) -> Any:
        """A traced value that tells this target from others of its kind, so that they share compiled code."""
        del batch
        return None

    @property
    def parts(self) -> "tuple[tuple[Target, slice], ...]":
        """The targets that one output answers at once, each with its place on the output's last axis; just this one."""
        return ((self, slice(None)),)

    def strength(self, guess: np.ndarray, batch: Batch) -> float:
        """How strong a guess is; higher is stronger."""
        raise NotImplementedError

    def advantage(self, strength: float, batch: Batch) -> float:
        """How far a strength lies over the best answer that does not look at z."""
        raise NotImplementedError

    def answered(self, strength: float) -> bool:
        """Whether nothing is left to find."""
        return strength > self.perfect - self.solved

    def gained(self, before: Look, after: Look) -> bool:
        """Whether twice the training made an attacker stronger by more than a plateau allows (METHODS 5.0 a)."""
        raise NotImplementedError

    def balanced(self, guess: np.ndarray, sample: Batch) -> np.ndarray:
        """The guess that decides, whatever classes are frequent among the attacker's own images."""
        del sample
        return guess

    def judge(self, guess: np.ndarray, known: Known) -> Judgement:
        """Every score of the guesses on ``test``, beside what needs no attack, and the leakage that follows from both."""
        raise NotImplementedError

    def picture(self, guess: Images | np.ndarray) -> Picture | None:
        """The guesses as the report shows them, None for what is no picture."""
        del guess
        return None


T = TypeVar("T", bound=type[Target])
KINDS: list[type[Target]] = []
"""Every kind of target, in the order of a report."""


def register(kind: T) -> T:
    """Makes a kind of target known; to be written above its class."""
    KINDS.append(kind)
    return kind


def of(data: Data) -> tuple[Target, ...]:
    """All targets of a data set, in the order of a report.

    Example:
        >>> from ani_jax.data import digits
        >>> [target.name for target in of(digits.load())]
        ['ink', 'paper', 'image']
    """
    return tuple(target for kind in KINDS for target in kind.of(data))
