"""The linear discriminant in double precision: a direction that carries a millionth of the variance is heard like any other."""

import contextlib
import dataclasses

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array

from ani_jax.attacks.attribute import DIVERGED, Linear, logistic_path
from ani_jax.attacks.base import EVERYWHERE, Asked, Attack, Context, Fitted, register
from ani_jax.attacks.query import flat
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch

PENALTIES = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
"""Parts of the mean variance that are added to every direction's."""
MOST = 4096
"""Features at most for which the covariance is inverted; of more, the products of so many rows."""
TAUGHT = 0.75
"""Part of the sample that directions are learnt on; the rest says what their scores are worth."""
FOUND, LEFT = 0.02, 0.01
"""Balanced accuracy over chance, and below 1, between which a logistic regression of all whitened features follows."""
FINER, ITERATIONS = (1e-2, 1e-4), 40
"""Its penalties, and its iterations of L-BFGS for each."""


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Discriminant(Attack):
    """Fisher's discriminant: the least squares of class indicators on standardised features, then a logistic regression.

        W = (C + penalty * trace(C) / d)^-1 Z^T Y / n,   C = Z^T Z / n,   log p(s | z) ~ (z W) A + b

    Descent finds quiet directions last, since its steps are as long as the loud ones allow: of a mark at 1e-4 of an image's
    scale a logistic probe says nothing, and this says all. The penalty is chosen on ``validation``.

    Least squares mistake what lies far from a boundary for error: of 2,048 features and 40,000 rows they read 82% of a label that
    a line tells without error. So where they found something and left something, a logistic regression on whitened features goes
    on from there (91%), and is kept if ``validation`` agrees.
    """

    target: Attribute

    family = "attribute"
    levels = EVERYWHERE

    def repeated(self) -> None:
        """Sits out: what noise is left hides what only double precision would tell."""

    def fit(self, context: Context) -> Fitted:
        """Keeps the penalty with the lowest cross-entropy on ``validation``."""
        asked, name, classes = context.asked, self.target.name, self.target.classes
        labels, truth = asked.sample.sensitive[name], asked.validation.sensitive[name]
        size, taught = asked.sample_z[0].size, int(TAUGHT * len(asked.sample_z))
        dual = size > MOST
        learnt = min(taught, MOST) if dual else taught
        aims = np.eye(classes)[np.asarray(labels)[:learnt]]
        aims, rows = aims - aims.mean(0), None
        if dual:
            rows = np.asarray(flat(asked.standardise(asked.sample_z[:learnt])))
            matrix, wanted = np.zeros((learnt, learnt)), aims
            for start in range(0, size, MOST):
                part = rows[:, start : start + MOST].astype(np.float64)
                matrix += part @ part.T
        else:
            matrix, wanted = np.zeros((size, size)), np.zeros((size, classes))
            for place, part in asked.standardise.doubled(asked.sample_z, 0, learnt):
                matrix += part.T @ part
                wanted += part.T @ aims[place]
        solved = []
        for penalty in PENALTIES:
            ridge = penalty * max(np.trace(matrix) / len(matrix), 1e-20)
            with contextlib.suppress(np.linalg.LinAlgError):
                found = scipy.linalg.solve(matrix + ridge * np.eye(len(matrix)), wanted, assume_a="pos")
                solved.append(found if rows is None else rows.T @ found)
        # All penalties beside each other: the rows are standardised once.
        every = np.stack(solved, axis=2) if solved else np.zeros((size, classes, 0))
        told_all, heard_all = (
            np.concatenate([np.tensordot(part, every, 1) for _, part in asked.standardise.doubled(z, begin)])
            for z, begin in ((asked.sample_z, taught), (asked.held_z, 0))
        )
        best, least, chosen, strength = None, np.inf, 0.0, 0.0
        for index in range(len(solved)):
            weights, told, heard = (one[..., index] for one in (every, told_all, heard_all))
            # Scores at deviation 1, since a logistic regression's penalty is of their scale.
            rate = 1 / np.maximum(told.std(0), 1e-12)
            weights, told, heard = (
                weights * rate,
                jnp.asarray(told * rate, jnp.float32),
                jnp.asarray(heard * rate, jnp.float32),
            )
            fitted = logistic_path((told, jnp.asarray(labels)[taught:]), (heard, jnp.asarray(truth)), classes)
            if fitted is None:
                continue
            lift, bias = fitted
            guess = heard @ lift + bias[None]
            loss = self.missed(guess, asked.validation)
            if loss < least:
                whole = jnp.asarray(weights @ np.asarray(lift), jnp.float32)
                best, least, chosen = Linear(whole, bias, asked.standardise), loss, PENALTIES[index]
                strength = self.target.strength(np.asarray(guess), asked.validation)
        if best is not None and not dual and 1 / classes + FOUND < strength < 1 - LEFT:
            finer, loss = self.finer(asked, matrix / learnt, chosen)
            best = finer if loss < least else best
        return Fitted(best, None if best is not None else DIVERGED)

    def finer(self, asked: Asked, covariance: np.ndarray, penalty: float) -> tuple[Linear | None, float]:
        """A logistic regression of features whose covariance, penalty included, is made the identity; and its validation loss."""
        labels, truth = (part.sensitive[self.target.name] for part in (asked.sample, asked.validation))
        ridge = penalty * max(np.trace(covariance) / len(covariance), 1e-20)
        try:
            root = np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))
        except np.linalg.LinAlgError:
            return None, np.inf
        whiten = scipy.linalg.solve_triangular(root, np.eye(len(root)), lower=True).T
        told, heard = (
            jnp.asarray(
                np.concatenate([(part @ whiten).astype(np.float32) for _, part in asked.standardise.doubled(z)])
            )
            for z in (asked.sample_z, asked.held_z)
        )
        fitted = logistic_path((told, labels), (heard, truth), self.target.classes, ITERATIONS, FINER)
        if fitted is None:
            return None, np.inf
        lift, bias = fitted
        loss = self.missed(heard @ lift + bias[None], asked.validation)
        return Linear(jnp.asarray(whiten @ np.asarray(lift), jnp.float32), bias, asked.standardise), loss

    def missed(self, guess: Array, batch: Batch) -> float:
        """The mean loss by which attackers are chosen."""
        return float(self.target.selection(guess, batch, self.target.aim(batch)).mean())
