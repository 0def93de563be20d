"""The linear discriminant of an attribute within each class of the task, from what is declared of noise where it is declared.

What a client was trained to hide moves what it sends one way for one class of the task and another way for the next. No line over
all classes hears that, a network must find it through the noise, and here it is a closed form.
"""

import dataclasses
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ani_jax.attacks.attribute import NUMBERS
from ani_jax.attacks.base import Asked, Attack, Context, Fitted, Standardiser, in_chunks, register
from ani_jax.attacks.density import BLOCK, declared
from ani_jax.attacks.discriminant import MOST
from ani_jax.attacks.network import moments
from ani_jax.attacks.query import Observed, flat
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Features, PRNGKey

PENALTIES = (1e-6, 1e-4, 1e-2, 1e-1)
"""Parts of the mean variance that are added to every direction's."""
APART = (0.0, 0.5, 1.0)
"""How far an attribute's own mean in a class of the task may leave what class and attribute say one by one."""
SURE = (1.0, 0.5, 0.25)
"""Powers that a posterior is raised to: the means of few rows make it too sure."""
WIDE = "sat out: more features than a covariance is inverted for"
"""How it ends where there are more."""


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Within(Attack):
    """Gaussians of one covariance for every class of the task with every class of the attribute, summed over the task's.

        log p(s | z)  ~  logsumexp over y of  w_ys . z - w_ys . m_ys / 2 + log p(y, s),   w_ys = C^-1 m_ys

    C is the covariance within them all. Where the client declares Gaussian noise, and what it sends bears that out, means and
    covariance are those of the declared means, and the declared variance is added to C: noise that is known need not be
    averaged out. Penalty, power and how far classes may differ are chosen on ``validation``.

    [ours] Measured on ``partition`` at seed 101 (noise of twice the features' size, 512 of them), ink, chance 25%: networks and
    their vote read 28.6%, a discriminant 28.5%, from declared means 30.2%, this 31.3%.
    """

    target: Attribute

    family = "attribute"
    bursts = True
    levels = MappingProxyType({"standard": {}, "thorough": {}})

    def fit(self, context: Context) -> Fitted:
        """Solves for every penalty, and keeps what ``validation`` prefers."""
        asked, batch = context.asked, context.asked.validation
        size = asked.sample_z[0].size
        if size > MOST:
            return Fitted(None, ended=WIDE)
        count = min(len(asked.sample_z), NUMBERS // size)
        label, own = (
            np.asarray(part)[:count] for part in (asked.sample.label, asked.sample.sensitive[self.target.name])
        )
        tasks, classes = int(label.max()) + 1, self.target.classes
        cell = label * classes + own
        means, covariance, often = moment(asked, cell, tasks * classes)
        held = np.concatenate([part for _, part in asked.standardise.doubled(asked.held_z)])
        # What never occurred is never guessed, and no infinity.
        prior = np.log(np.maximum(often, 1e-12 * often.sum()) / often.sum())
        every = [shrunk(means, often, classes, apart) for apart in APART]
        aim, best = self.target.aim(batch), (np.inf, None)
        for penalty in PENALTIES:
            ridge = penalty * max(np.trace(covariance) / size, 1e-20)
            try:
                solved = scipy.linalg.solve(covariance + ridge * np.eye(size), np.concatenate(every).T, assume_a="pos")
            except np.linalg.LinAlgError:
                continue
            for centres, weights in zip(every, np.split(solved, len(every), axis=1), strict=True):
                bias = prior - 0.5 * (weights * centres.T).sum(0)
                scores = held @ weights + bias
                for power in SURE:
                    guess = summed(jnp.asarray(power * scores, jnp.float32), classes)
                    loss = float(self.target.selection(guess, batch, aim).mean())
                    if loss < best[0]:
                        whole, start = (jnp.asarray(power * one, jnp.float32) for one in (weights, bias))
                        best = loss, Cells(whole, start, asked.standardise, classes)
        return Fitted(best[1], None if best[1] is not None else "no penalty gave a finite posterior")


def moment(
    asked: Asked, cell: np.ndarray, cells: int
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, "d d"], Float[np.ndarray, " c"]]:
    """Means of standardised features in every cell, their covariance within, and how many rows there are of each.

    Args:
        asked: what the client sent.
        cell: of the first rows of its sample.
        cells: how many there are.
    """
    size, known = asked.sample_z[0].size, moments(asked) is not None
    rate, member = np.asarray(flat(asked.standardise.rate[None])), np.eye(cells)[cell]
    second, total, often = np.zeros((size, size)), np.zeros((cells, size)), member.sum(0)
    for start in range(0, len(cell), BLOCK):
        rows = slice(start, min(start + BLOCK, len(cell)))
        z = asked.sample_z[rows]
        if known:
            # Of all rows: the library holds what is declared of fewer.
            mean, stddev = declared(asked.release, asked.sample.image[rows])
            noise = np.square(np.asarray(stddev, np.float64) * rate).mean(0)
            second[np.diag_indices(size)] += (rows.stop - rows.start) * noise
            z = mean.reshape(z.shape)
        part = np.asarray(flat(asked.standardise(z)), np.float64)
        second += part.T @ part
        total += member[rows].T @ part
    means = total / np.maximum(often, 1)[:, None]
    return means, (second - total.T @ means) / len(cell), often


def shrunk(
    means: Float[np.ndarray, "c d"], often: Float[np.ndarray, " c"], classes: int, apart: float
) -> Float[np.ndarray, "c d"]:
    """Means of cells, a part of the way from what task and attribute say one by one.

    Args:
        means: of cells, those of one class of the task beside each other.
        often: how many rows each is of; one of none is where the others say.
        classes: of the attribute.
        apart: that part.

    Example:
        >>> shrunk(np.array([[0.0], [1.0], [0.0], [3.0]]), np.ones(4), 2, 0.0)[:, 0].tolist()
        [-0.5, 1.5, 0.5, 2.5]
    """
    size = means.shape[1]
    grid, weight = means.reshape(-1, classes, size), often.reshape(-1, classes, 1)
    task = (weight * grid).sum(1, keepdims=True) / np.maximum(weight.sum(1, keepdims=True), 1)
    own = (weight * (grid - task)).sum(0, keepdims=True) / np.maximum(weight.sum(0, keepdims=True), 1)
    plain = task + own
    return (plain + apart * np.where(weight > 0, grid - plain, 0)).reshape(-1, size)


def summed(scores: Float[Array, "n c"], classes: int) -> Float[Array, "n k"]:
    """Log posterior of each class of the attribute, from log densities of cells.

    Example:
        >>> jnp.exp(summed(jnp.log(jnp.array([[1.0, 2.0, 3.0, 2.0]])), 2)).round(2).tolist()
        [[0.5, 0.5]]
    """
    each = scores.reshape(scores.shape[0], -1, classes)
    return jax.nn.log_softmax(jax.nn.logsumexp(each, axis=1), axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cells:
    """A fitted attacker.

    Attributes:
        weights, bias: of the log density of every cell.
        standardise: before them.
        classes: of the attribute (static).
    """

    weights: Float[Array, "d c"]
    bias: Float[Array, " c"]
    standardise: Standardiser
    classes: int = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Log posterior of each class, (n, K)."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features) -> Array:
        """The same of summarised features."""
        scores = jnp.matmul(flat(self.standardise(z)), self.weights, precision=jax.lax.Precision.HIGHEST)
        return summed(scores + self.bias[None], self.classes)
