"""What a defence is: modules, losses and phases, static and hashable, with no array in it.

Architecture is code and weights are data: everything that a sweep may vary is a field marked by :func:`weight`. Such fields
take no part in equality, so one compiled step serves every weight; their values travel in ``state.weights``.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.types import Batch, Features, Images, Logits, PRNGKey, Release

Terms = dict[str, Float[Array, ""]]
"""Named scalar losses, not yet weighted."""


class Forward(NamedTuple):
    """What the defender's losses see of one batch.

    Attributes:
        z: the features that leave the device.
        aux: the client's private quantities (a noise scale, say).
        logits: the server's answer.
        adversaries: adversary name -> its output on z.
        extra: arrays that a phase's ``prepare`` filled.
    """

    z: Features
    aux: Mapping[str, Array]
    logits: Logits
    adversaries: Mapping[str, Array]
    extra: Mapping[str, Array] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one objective and one set of trainable parameters.

    A module none of whose parameters is trainable runs in evaluation mode (running statistics); noise stays on.

    Attributes:
        name: for logs.
        steps: how many optimiser steps; 0 skips the phase.
        trainable: parameter groups that the defender updates: "client", "server" or a path below them, "client/noise".
        objective: names of the terms of ``Defense.client_loss`` that count. The others are not even compiled.
        adversary_updates: k, adversary updates before each defender update; 0 leaves the adversaries alone.
        reversal: one backward pass serves adversaries and defender, through a gradient reversal (Ganin 2015) that
            :meth:`Defense.reversal_scales` scales; ``adversary_updates`` is then not looked at.
        prepare: pure ``(state, data) -> state``, applied once on entry.
    """

    name: str
    steps: int
    trainable: tuple[str, ...]
    objective: tuple[str, ...]
    adversary_updates: int = 0
    reversal: bool = False
    prepare: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam, or AMSGrad, with L2 regularisation in the gradient (as PyTorch's ``weight_decay``) and optional cosine decay.

    optax keeps the maximum of the bias-corrected second moments, PyTorch that of the raw ones; so the two AMSGrads differ in
    their first steps.

    Attributes:
        learning_rate: initial step size, > 0.
        b1: decay of the first moment.
        b2: decay of the second moment.
        weight_decay: factor of the L2 term added to the gradient.
        amsgrad: keep the maximum of second moments (Reddi 2018).
        decay_steps: cosine decay to zero over that many steps; 0 keeps the rate constant.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    amsgrad: bool = False
    decay_steps: int = 0

    def build(self) -> optax.GradientTransformation:
        """The optax transformation; cheap, so it is rebuilt where it is needed instead of being carried around."""
        rate = (
            optax.cosine_decay_schedule(self.learning_rate, self.decay_steps)
            if self.decay_steps
            else self.learning_rate
        )
        scale = optax.scale_by_amsgrad if self.amsgrad else optax.scale_by_adam
        decay = (optax.add_decayed_weights(self.weight_decay),) if self.weight_decay else ()
        return optax.chain(*decay, scale(b1=self.b1, b2=self.b2), optax.scale_by_learning_rate(rate))


def weight(default: float) -> Any:
    """A dataclass field for a loss weight: traced data, not architecture, so equality and hash leave it out."""
    return dataclasses.field(default=default, compare=False, metadata={"weight": True})


@dataclasses.dataclass(frozen=True)
class Defense:
    """A defence: who computes what, and what each party minimises.

    Subclasses are frozen dataclasses whose fields are options that a user may set; see ``defenses/none.py`` for the shortest.

    Attributes:
        classes: number of classes of the primary task.
        image_shape: (height, width, channels).
        width: channels of the first convolution of the edge.
        steps: optimiser steps of the main phase.
        learning_rate: of the defender.
        axis_name: the device axis that batch statistics are averaged over, None on one device.
        attributes: the data's sensitive attributes, (name, number of classes) each; not every defence looks at them.
    """

    classes: int
    image_shape: tuple[int, int, int]
    width: int = 64
    steps: int = 120
    learning_rate: float = 1e-3
    axis_name: str | None = None
    attributes: tuple[tuple[str, int], ...] = ()

    name: ClassVar[str]
    provenance: ClassVar[str]
    stochastic: ClassVar[bool] = False
    privacy: ClassVar[tuple[str, ...]] = ()
    """Weights that a utility budget scales."""

    def __post_init__(self):
        require(self.classes >= 2, "classes", self.classes, "at least 2")
        require(self.width >= 1, "width", self.width, "at least 1")
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "in (0, 1)")
        for name, value in self.weights().items():
            require(math.isfinite(value) and value >= 0, name, value, "a finite number, 0 or more")

    @property
    def client(self) -> nn.Module:
        """The network on the device: ``(x, key, *, train) -> Sent``."""
        raise NotImplementedError

    @property
    def server(self) -> nn.Module:
        """The provider's network: ``(z, *, train) -> logits``."""
        raise NotImplementedError

    @property
    def adversaries(self) -> Mapping[str, nn.Module]:
        """Co-trained adversaries by name: ``(z, *, train) -> output``. None by default."""
        return {}

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The training schedule; the default is one phase on everything."""
        return (Phase("train", self.steps, ("client", "server"), self.active_terms(), 1 if self.adversaries else 0),)

    def optimizer(self, group: str) -> Optimizer:
        """The optimiser of one of the defender's parameter groups: Adam with cosine decay over all steps that train it."""
        steps = sum(phase.steps for phase in self.phases if group in phase.trainable)
        return Optimizer(self.learning_rate, decay_steps=steps)

    @property
    def adversary_optimizer(self) -> Optimizer:
        """The optimiser of each co-trained adversary."""
        return Optimizer()

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """The defender's losses by name, unweighted, each a mean over the batch."""
        raise NotImplementedError

    def adversary_loss(self, name: str, output: Array, batch: Batch) -> Float[Array, ""]:
        """What adversary ``name`` minimises: always its own plain loss, whatever the defender asks of it."""
        raise NotImplementedError(f"{self.name} has no adversary {name!r}")

    def health(self, name: str, output: Array, batch: Batch, extra: Mapping[str, Array]) -> Terms:
        """What tells whether adversary ``name`` learns, logged as "adversary/NAME/KEY" beside its own loss."""
        del name, output, batch, extra
        return {}

    def reversal_scales(self, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        """Adversary name -> factor of the reversed gradient of its own loss, for phases with ``reversal``.

        The term that the factor stands for gives the defender no other gradient in such a phase.
        """
        raise NotImplementedError(f"{self.name} has no gradient-reversal form")

    def coefficients(self, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        """Term name -> factor, from the traced weights. A term without a weight of its name counts once."""
        return weights

    def measurements(self, forward: Forward, batch: Batch) -> Terms:
        """Quantities to log that nobody optimises."""
        del forward, batch
        return {}

    def weights(self) -> dict[str, float]:
        """The loss weights by field name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if "weight" in f.metadata}

    def init_weights(self) -> dict[str, Array]:
        """The loss weights as arrays, for ``state.weights``."""
        return {name: jnp.float32(value) for name, value in self.weights().items()}

    def scaled(self, weights: Mapping[str, Array], multiplier: Array) -> dict[str, Array]:
        """The weights with those in ``privacy`` multiplied, for the utility budget."""
        return {name: value * multiplier if name in self.privacy else value for name, value in weights.items()}

    def init_extra(self) -> dict[str, Array]:
        """Arrays that a phase's ``prepare`` fills, at their initial values: a saved state has one layout in every phase."""
        return {}

    def active_terms(self) -> tuple[str, ...]:
        """The task and every term whose weight is not 0: 0 * NaN is NaN, so a term that is off must not be computed."""
        return ("task", *(name for name, value in self.weights().items() if value and name != "task"))


@dataclasses.dataclass(frozen=True)
class ClientApply:
    """``(variables, x, key) -> z`` of a client module; equal for equal architectures, so attacks on it compile once."""

    client: nn.Module

    def __call__(self, variables: Any, x: Images, key: PRNGKey) -> Features:
        """Runs the client in evaluation mode, noise on."""
        return self.client.apply(variables, x, key, train=False).z  # type: ignore[union-attr]


@dataclasses.dataclass(frozen=True)
class ClientDensity:
    """``mean``, ``stddev`` or ``log_prob`` of a client module whose ``declares`` names it (see ``types.Release``)."""

    client: nn.Module
    method: str

    def __call__(self, variables: Any, *arguments: Array) -> Array:
        """Evaluates the declared density."""
        return self.client.apply(variables, *arguments, method=self.method)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class ServerApply:
    """``(variables, z) -> logits`` of a server module."""

    server: nn.Module

    def __call__(self, variables: Any, z: Features) -> Logits:
        """Runs the server in evaluation mode."""
        return self.server.apply(variables, z, train=False)  # type: ignore[return-value]


def freeze(
    defense: Defense, params: Mapping[str, Any], statistics: Mapping[str, Any]
) -> tuple[Release, Callable[[Features], Logits]]:
    """Turns trained parameters into what an audit takes: ``release(x, key) -> z`` and ``predict(z) -> logits``.

    Args:
        defense: whose modules the parameters belong to.
        params: with "client" and "server".
        statistics: batch statistics with "client" and "server".

    Returns:
        The release and the provider's predictor, both pytrees.
    """
    variables = {party: {"params": params[party], **_collection(statistics[party])} for party in ("client", "server")}
    client = defense.client
    declared = {name: ClientDensity(client, name) for name in getattr(client, "declares", ())}
    release = Release(variables["client"], ClientApply(client), defense.stochastic, **declared)
    return release, jax.tree_util.Partial(ServerApply(defense.server), variables["server"])


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Refuses an option in one line that names it, its value and what is allowed.

    Raises:
        ValueError: ``condition`` is false.

    Example:
        >>> require(False, "beta", -1, "0 or more")
        Traceback (most recent call last):
        ValueError: beta=-1: must be 0 or more
    """
    if not condition:
        raise ValueError(f"{name}={value}: must be {allowed}")


def _collection(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """A module without batch statistics has no such collection at all."""
    return {"batch_stats": statistics} if statistics else {}
