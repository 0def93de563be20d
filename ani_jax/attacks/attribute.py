"""Attribute inference: which ink was it? A logistic probe, perceptrons and convolutional networks (METHODS 5.1)."""

import dataclasses
import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ani_jax.attacks.base import EVERYWHERE, Attack, Context, Fitted, Standardiser, in_chunks, register
from ani_jax.attacks.network import Trained, fit_network
from ani_jax.attacks.query import Observed, flat
from ani_jax.modules.adversaries import ConvClassifier, MLPClassifier
from ani_jax.optimize.fit import lbfgs
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Features, PRNGKey

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3)
"""Weights of the probe's penalty, from the strongest on; each fit starts from the one before."""

PATIENCE = 2
"""Penalties in a row that may do worse than the best before the path ends: weaker ones only overfit more."""

Examples = tuple[Float[Array, "n d"], Int[Array, " n"]]
"""Flat features and classes."""


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Probe(Attack):
    """Multinomial logistic regression on standardised, flat features: any linear direction, whatever its sign.

        min over W, b of  mean CE(z W + b, s) + l2 / 2 * |W|^2,   l2 chosen on ``validation``

    Attributes:
        iterations: of L-BFGS, per penalty.
    """

    target: Attribute
    iterations: int = 30

    family = "attribute"
    levels = EVERYWHERE

    def fit(self, context: Context) -> Fitted:
        """Fits one probe a penalty and keeps the one with the lowest cross-entropy on ``validation``."""
        asked, name = context.asked, self.target.name
        z, held = flat(asked.standardise(asked.sample_z)), flat(asked.standardise(asked.held_z))
        pairs = (z, asked.sample.sensitive[name]), (held, asked.validation.sensitive[name])
        found = logistic_path(*pairs, self.target.classes, self.iterations)
        if found is None:
            return Fitted(None, "no penalty gave finite weights")
        return Fitted(Linear(*found, asked.standardise))


def logistic_path(
    data: Examples, held: Examples, classes: int, iterations: int = 30, grid: tuple[float, ...] = L2_GRID
) -> tuple[Float[Array, "d k"], Float[Array, " k"]] | None:
    """Logistic regressions along a grid of penalties; the one with the lowest cross-entropy on ``held``.

    Deterministic. Returns weights and bias, None where no penalty gave a finite cross-entropy.

    Args:
        data: (n, d) features and (n,) classes to fit.
        held: the same, to choose the penalty by.
        classes: K.
        iterations: of L-BFGS, per penalty.
        grid: penalties, decreasing.

    Example:
        >>> x, y = jnp.array([[-1.0], [-2.0], [1.0], [2.0]]), jnp.array([0, 0, 1, 1])
        >>> weights, bias = logistic_path((x, y), (x, y), 2)
        >>> (x @ weights + bias[None]).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    # With fewer examples than features the optimum lies in their span; orthonormal directions keep the penalty what it is.
    lift = _span(data[0]) if data[0].shape[1] > data[0].shape[0] else None
    if lift is not None:
        data, held = (data[0] @ lift, data[1]), (held[0] @ lift, held[1])
    params = (jnp.zeros((data[0].shape[1], classes), data[0].dtype), jnp.zeros(classes, data[0].dtype))
    best, least, waited = None, float("inf"), 0
    for l2 in grid:
        params = lbfgs(params, logistic_objective, (*data, l2), steps=iterations, tolerance=1e-5)
        # Without the penalty, which would favour the weak ones. Not a number is never less, so it counts as waiting.
        value = float(_objective(params, (*held, 0.0)))
        best, least, waited = (params, value, 0) if value < least else (best, least, waited + 1)
        if waited == PATIENCE:
            break
    return best if best is None or lift is None else (lift @ best[0], best[1])


def logistic_objective(
    params: tuple[Array, Array], data: tuple[Float[Array, "n d"], Int[Array, " n"], float | Array]
) -> Float[Array, ""]:
    """Mean cross-entropy of a linear classifier plus ``l2 / 2`` times the weights' squared norm."""
    (weights, bias), (x, labels, l2) = params, data
    logits = x @ weights + bias[None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean() + l2 / 2 * jnp.square(weights).sum()


_objective = jax.jit(logistic_objective)


@jax.jit
def _span(x: Float[Array, "n d"]) -> Float[Array, "d n"]:
    """Orthonormal directions that span the rows of x, fewer than its columns; no penalised linear fit leaves that span.

    With x x^T = L L^T they are x^T L^-T.
    """
    gram = x @ x.T
    size = gram.shape[0]
    # float32 needs it; it drops directions of under 1e-4 of the mean variance. A constant client's trace is 0.
    jitter = 1e-4 * jnp.maximum(jnp.trace(gram) / size, 1e-20)
    factor = jnp.linalg.cholesky(gram + jitter * jnp.eye(size, dtype=x.dtype))
    return jax.scipy.linalg.solve_triangular(factor, x, lower=True).T


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """A fitted probe."""

    weights: Float[Array, "d k"]
    bias: Float[Array, " k"]
    standardise: Standardiser

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Class scores (n, K)."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features) -> Array:
        """Class scores of summarised features."""
        return flat(self.standardise(z)) @ self.weights + self.bias[None]


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class AttributeNetwork(Trained):
    """A network trained with cross-entropy on what the client sends for fresh auxiliary images.

    Convolutions for feature maps (b, h, w, c), a perceptron of four times the width for vectors (b, d). Another seed is another
    attacker of the same architecture.
    """

    target: Attribute

    family = "attribute"
    levels = MappingProxyType(
        {
            "smoke": {"steps": 5, "batch_size": 32},
            "quick": {"steps": 60, "batch_size": 32},
            "standard": {"steps": 400, "seeds": 3, "trial_steps": 30},
            "thorough": {"steps": 1500, "seeds": 5, "trial_steps": 100},
        }
    )

    @property
    def architecture(self) -> str:
        """One architecture, several seeds."""
        return f"network-{self.seed}"

    def fit(self, context: Context) -> Fitted:
        """Trains the network."""
        tuned = self.tuned(context)
        module = network(context.asked.held_z.ndim, self.target.classes, tuned.width)
        # The name's key differs from seed to seed already; whoever fits all with one key gets different networks too.
        return fit_network(jax.random.fold_in(context.key, self.seed), module, tuned, context)


@functools.lru_cache(maxsize=64)
def network(rank: int, classes: int, width: int) -> nn.Module:
    """The classifier for features of this rank; the same object for the same arguments."""
    return ConvClassifier(classes, width) if rank == 4 else MLPClassifier(classes, 4 * width)
