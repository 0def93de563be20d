"""Attribute inference: which ink was it? A logistic probe, and networks on several views of z (METHODS 5.0, 5.1)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ani_jax.attacks.base import (
    EVERYWHERE,
    PATIENCE,
    Asked,
    Attack,
    Context,
    Fitted,
    Level,
    Standardiser,
    in_chunks,
    register,
)
from ani_jax.attacks.network import BEHIND, CONTAINED, PRUNED, SILENT, Trained, end_of
from ani_jax.attacks.query import Observed, flat
from ani_jax.attacks.views import FITTED, Answered, Joined, View, view_of
from ani_jax.modules.readers import (
    AdditiveReader,
    ConvReader,
    FourierReader,
    LinearReader,
    LocalReader,
    PerceptronReader,
)
from ani_jax.optimize.fit import lbfgs
from ani_jax.targets.attribute import Attribute, Heads
from ani_jax.targets.base import Target
from ani_jax.types import Features, PRNGKey

BANK = (
    ("linear", "decorrelated"),
    ("local", "ranked"),
    ("local", "contrast"),
    ("conv", "guessed"),
    ("perceptron", "standardised"),
    ("perceptron", "decorrelated"),
    ("fourier", "standardised"),
    ("additive", "ranked"),
    ("additive", "sorted"),
    ("curves", "ranked"),
    ("curves", "sorted"),
    ("curves", "pooled"),
)
"""Networks and the views that they are told of z by; all make a start, the leaders are trained on."""
WIDER = (*BANK, ("conv", "standardised"), ("perceptron", "ranked"))
"""The same where there is more time."""
AGAIN = (("local", "ranked"), ("perceptron", "standardised"), ("additive", "ranked"))
"""Those that also hear several releases of an image, of which one leads: there is less to find than in a single one."""
L2_GRID = (1.0, 1e-1, 1e-2, 1e-3)
"""Weights of the probe's penalty, from the strongest on; each fit starts from the one before."""

DIVERGED = "no penalty gave finite weights"
"""Why there is no line."""
NUMBERS = 10_240 * 4096
"""Features of all rows together that a probe learns from: of several noisy releases each row has four statistics of each."""

Examples = tuple[Float[Array, "n d"], Int[Array, " n"]]
"""Flat features and classes."""


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Probe(Attack):
    """Multinomial logistic regression on standardised, flat features: any linear direction, whatever its sign.

        min over W, b of  mean CE(z W + b, s) + l2 / 2 * |W|^2,   l2 chosen on ``validation``

    Attributes:
        iterations: of L-BFGS, per penalty.
        rows: of the sample that it learns from, at most: the linear network and the discriminant hear all of them.
    """

    target: Attribute
    iterations: int = 30
    rows: int = 10_240

    family = "attribute"
    bursts = True
    levels = EVERYWHERE

    def fit(self, context: Context) -> Fitted:
        """Fits one probe a penalty and keeps the one with the lowest cross-entropy on ``validation``."""
        own, held = (part.sensitive[self.target.name] for part in (context.asked.sample, context.asked.validation))
        found = line(context.asked, own, held, self.target.classes, self.rows, self.iterations)
        return Fitted(found, DIVERGED if found is None else None)


def line(
    asked: Asked, labels: Array, truth: Array, classes: int, rows: int = Probe.rows, iterations: int = Probe.iterations
) -> "Linear | None":
    """The line that reads labels off z best on ``validation``, None where no penalty gave finite weights.

    Args:
        asked: what the client sent.
        labels: of its sample.
        truth: of its validation images.
        classes: K.
        rows: of the sample that it learns from, at most.
        iterations: of L-BFGS, per penalty.
    """
    rows = max(1, min(rows, NUMBERS // asked.sample_z[0].size))
    z, held = (flat(asked.standardise(part)) for part in (asked.sample_z[:rows], asked.held_z))
    found = logistic_path((z, labels[:rows]), (held, truth), classes, iterations)
    return None if found is None else Linear(*found, asked.standardise)


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


FORMS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "linear": LinearReader,
        "perceptron": PerceptronReader,
        "additive": AdditiveReader,
        "curves": functools.partial(AdditiveReader, width=64),
        "fourier": FourierReader,
        "conv": ConvReader,
        "local": LocalReader,
    }
)
"""Name -> the network with so many outputs."""
RATES = MappingProxyType({"linear": 5.0, "additive": 2.0})
"""Form -> factor of the learning rate: what starts at 0 and has one layer has far to go."""


@dataclasses.dataclass(frozen=True)
class Joint(Trained):
    """One network on one view of z with a head for every attribute; it is trained once for all of them.

    Attributes:
        form: name in ``FORMS``.
        seen: name of the view, see :mod:`ani_jax.attacks.views`.
    """

    target: Heads
    form: str = "perceptron"
    seen: str = "standardised"

    family = "attribute"

    @property
    def name(self) -> str:
        """Network and view, and whether it is the start alone."""
        return f"{self.form}, {self.seen}{'' if self.rivals else ', start'}"

    @property
    def architecture(self) -> str:
        """The form, whatever it sees."""
        return self.form

    @property
    def rate(self) -> float:
        """The learning rate, faster for forms of one layer."""
        return self.learning_rate * RATES.get(self.form, 1.0)

    def contained(self, asked: Asked) -> bool:
        """Of a vector there are no squares, and what is guessed of one is no picture but another line."""
        shown = {"contrast": asked.sample_z, "guessed": asked.sample.image}
        return self.seen in shown and shown[self.seen].ndim != 4

    def module(self, asked: Asked) -> nn.Module:
        """The network."""
        del asked
        return FORMS[self.form](sum(head.classes for head in self.target.heads))

    def view(self, context: Context) -> View:
        """The view, learnt on the sample; one perceptron has the provider's logits beside it where they are granted."""
        asked, view = context.asked, view_of(context, self.seen)
        predict = asked.knowledge.predict
        # For one network, and where its rows stay as they are, since the provider's may cost more than the attacker's: where
        # noise is fresh at every step, trees alone have them. Nor does it hear several releases.
        alone = (self.form, self.seen) == ("perceptron", "standardised")
        told = predict is not None and alone and asked.queries == 1 and not asked.fresh
        return Joined((view, Answered.of(predict, asked.sample_z[:FITTED]))) if told else view  # type: ignore[arg-type]


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Reader(Attack):
    """The part of a :class:`Joint` network that answers for one attribute.

    Attributes:
        form, seen: of the network.
        bank: all networks that start; the leaders among them double.
        heard: those of them that also attack several releases, where one alone leads; () for all.
        first, least, again, leaders, batch_size, learning_rate: see :class:`ani_jax.attacks.network.Trained`.
    """

    target: Attribute
    form: str = "perceptron"
    seen: str = "standardised"
    bank: tuple[tuple[str, str], ...] = (("perceptron", "standardised"),)
    heard: tuple[tuple[str, str], ...] = ()
    first: int = 0
    least: int = 0
    again: int = 0
    leaders: int = 2
    batch_size: int = 128
    learning_rate: float = 2e-3

    family = "attribute"
    bursts = True
    levels = MappingProxyType(
        {
            "preview": {"steps": 20, "batch_size": 64},
            "standard": {"steps": 4992, "first": 312, "least": 2496, "again": 2496, "bank": BANK, "heard": AGAIN},
            "thorough": {"steps": 39_936, "first": 624, "least": 2496, "bank": WIDER, "leaders": 4},
        }
    )

    @property
    def name(self) -> str:
        """Network and view."""
        return f"{self.form}, {self.seen}"

    @classmethod
    def at(cls, target: Target, level: Level) -> tuple[Self, ...]:
        """One for each network of the bank."""
        return tuple(
            dataclasses.replace(one, form=form, seen=seen)
            for one in super().at(target, level)
            for form, seen in one.bank
        )

    def repeated(self) -> Self | None:
        """The same where it is one of those that are ``heard``, among these alone."""
        if self.heard and (self.form, self.seen) not in self.heard:
            return None
        steps, bank = self.again or self.steps, tuple(pair for pair in self.bank if pair in (self.heard or self.bank))
        leaders = 1 if self.heard else self.leaders
        return dataclasses.replace(self, bank=bank, leaders=leaders, steps=steps, least=min(self.least, steps))

    def alone(self, heads: Heads) -> Joint:
        """Its network for other attributes, trained at once for as long as no plateau is called."""
        steps = self.least or self.steps
        settings = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return Joint(heads, steps, form=self.form, seen=self.seen, **settings)

    def fit(self, context: Context) -> Fitted:
        """Trains the network, or takes its part of what was trained for another attribute."""
        asked = context.asked
        known = tuple(Attribute(*one) for one in asked.attributes or ((self.target.name, self.target.classes),))
        names = ("steps", "first", "least", "leaders", "batch_size", "learning_rate")
        settings = {name: getattr(self, name) for name in names}
        heads = Heads("attributes", known)
        every = tuple(Joint(heads, form=form, seen=seen, **settings) for form, seen in self.bank)
        found = context.fitted(dataclasses.replace(every[self.bank.index((self.form, self.seen))], rivals=every))
        index = known.index(self.target)
        attacker = None if found.attacker is None else found.attacker.part(index)
        curves, ended = found.curves[index : index + 1], found.ended
        # It may have been trained on for another attribute.
        trained = ended not in ("", PRUNED, SILENT, BEHIND, CONTAINED)
        ended = end_of(curves, self.target, len(asked.sample.label)) if trained else ended
        return found._replace(attacker=attacker, curves=curves, ended=ended, last=None)


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Voting(Attack):
    """The mean log posterior of the family's leading attackers; ``validation`` says of how many.

    Attributes:
        most: attackers that vote, at most.
    """

    target: Attribute
    most: int = 4

    family = "attribute"
    bursts = True
    levels = MappingProxyType({"standard": {}, "thorough": {"most": 6}})
    last = True

    def fit(self, context: Context) -> Fitted:
        """Adds attackers from the best on, and keeps the number with the lowest cross-entropy on ``validation``."""
        asked, batch = context.asked, context.asked.validation
        ranked = sorted((context.loss(rival), index) for index, rival in enumerate(context.rivals))
        able = [context.fitted(context.rivals[index]).attacker for loss, index in ranked if loss < jnp.inf][: self.most]
        if len(able) < 2:
            return Fitted(None, "fewer than two attackers to put together")
        posteriors = [jax.nn.log_softmax(one(context.key, asked.held), axis=1) for one in able]
        means = [jnp.stack(posteriors[:count]).mean(0) for count in range(2, len(able) + 1)]
        losses = [float(self.target.selection(mean, batch, self.target.aim(batch)).mean()) for mean in means]
        return Fitted(Mean(tuple(able[: 2 + int(np.argmin(losses))])))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A fitted vote."""

    members: tuple[Any, ...]

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Mean log posterior, (n, K)."""
        return jnp.stack([jax.nn.log_softmax(one(key, z), axis=1) for one in self.members]).mean(0)
