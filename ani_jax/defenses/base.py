"""What a defence is: modules, losses and phases, static and hashable, with no array in it."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.options import Weights
from ani_jax.losses.checks import require
from ani_jax.types import Batch, Features, Images, Logits, PRNGKey, Release

Terms = dict[str, Float[Array, ""]]
"""Named scalar losses, not yet weighted."""
UNKNOWN: Any = None
"""What follows from the data, as long as there is none."""


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
    # All that are built without it share this one, so nobody may write to it.
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
        reversal: one backward pass serves adversaries and defender; only of a :class:`mixins.Reversible` defence, and
            ``adversary_updates`` is then not looked at.
        prepare: pure ``(state, data) -> state``, applied once on entry; of ``state.extra``, only a
            :class:`mixins.Prepared` defence has anything.
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
        """The optax transformation."""
        rate = (
            optax.cosine_decay_schedule(self.learning_rate, self.decay_steps)
            if self.decay_steps
            else self.learning_rate
        )
        scale = optax.scale_by_amsgrad if self.amsgrad else optax.scale_by_adam
        # Before Adam's scaling, as in PyTorch's Adam; after it, it would be AdamW.
        decay = (optax.add_decayed_weights(self.weight_decay),) if self.weight_decay else ()
        return optax.chain(*decay, scale(b1=self.b1, b2=self.b2), optax.scale_by_learning_rate(rate))


@dataclasses.dataclass(frozen=True)
class Adversary:
    """One co-trained adversary.

    Attributes:
        name: unique within its defence; the sorted order of names seeds the adversaries' parameters.
        module: ``(z, *, train) -> output``.
        loss: ``(output, batch) -> scalar``, what it minimises: always its own plain loss, whatever the defender asks of it.
        optimizer: its own.
        health: ``(output, batch, state.extra) -> terms`` that tell whether it learns, logged as "adversary/NAME/KEY" beside
            its loss.
    """

    name: str
    module: nn.Module
    loss: Callable[[Array, Batch], Float[Array, ""]]
    # A constant rate, where the defender's decays: adversaries must keep up to the end.
    optimizer: Optimizer = Optimizer()
    health: Callable[[Array, Batch, Mapping[str, Array]], Terms] = lambda output, batch, extra: {}


@dataclasses.dataclass(frozen=True)
class Defense:
    """A defence: who computes what, and what each party minimises.

    Subclasses are frozen dataclasses whose fields are options that a user may set; see ``defenses/none.py`` for the shortest.
    What some of them need beyond these members is in ``defenses/mixins.py``. Built without ``classes`` and ``image_shape``, a
    defence has its options checked as far as they do not depend on data; its modules cannot be asked for.

    Attributes:
        classes: number of classes of the primary task; None before there is data.
        image_shape: (height, width, channels); None before there is data.
        width: channels of the first convolution of the edge.
        steps: optimiser steps of the main phase.
        learning_rate: of the defender.
        axis_name: the device axis that batch statistics are averaged over, None on one device.
        attributes: the data's sensitive attributes, (name, number of classes) each; not every defence looks at them.
    """

    classes: int = UNKNOWN
    image_shape: tuple[int, int, int] = UNKNOWN
    width: int = 64
    steps: int = 120
    learning_rate: float = 1e-3
    axis_name: str | None = None
    attributes: tuple[tuple[str, int], ...] = ()

    name: ClassVar[str]
    provenance: ClassVar[str]

    def __post_init__(self):
        require(self.classes is None or self.classes >= 2, "classes", self.classes, "at least 2")
        require(self.width >= 1, "width", self.width, "at least 1")
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "in (0, 1)")
        # They refuse what is out of range, and need nothing of the data.
        _ = self.weights

    @property
    def stochastic(self) -> bool:
        """Whether two releases of one image may differ."""
        return False

    @property
    def memoised(self) -> bool:
        """Whether a device that is asked about an image again says the same again, see ``types.Release``."""
        return False

    @property
    def client(self) -> nn.Module:
        """The network on the device: ``(x, key, *, train) -> Sent``."""
        raise NotImplementedError

    @property
    def server(self) -> nn.Module:
        """The provider's network: ``(z, *, train) -> logits``."""
        raise NotImplementedError

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """Whom it is trained against. Nobody by default."""
        return ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The training schedule; the default is one phase on everything: the task, and every term whose weight is not 0."""
        terms = ("task", *self.weights.active)
        return (Phase("train", self.steps, ("client", "server"), terms, 1 if self.adversaries else 0),)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """The defender's losses by name, unweighted, each a mean over the batch."""
        raise NotImplementedError

    @property
    def weights(self) -> Weights:
        """The loss weights; by default the fields marked as such, each the factor of the term of its name."""
        return Weights.of(self)

    def optimizer(self, group: str) -> Optimizer:
        """The optimiser of one of the defender's parameter groups: Adam with cosine decay over all steps that train it."""
        # All of them: a rate that ran out with the main phase left the funnel's finishing steps without effect.
        steps = sum(phase.steps for phase in self.phases if group in phase.trainable)
        return Optimizer(self.learning_rate, decay_steps=steps)


@dataclasses.dataclass(frozen=True)
class ClientApply:
    """``(variables, x, key) -> z`` of a client module; equal for equal architectures, so attacks on it compile once."""

    client: nn.Module

    def __call__(self, variables: Any, x: Images, key: PRNGKey) -> Features:
        """Runs the client in evaluation mode, noise on."""
        return self.client.apply(variables, x, key, train=False).z  # type: ignore[union-attr]


@dataclasses.dataclass(frozen=True)
class ClientDensity:
    """What a client module ``declares``: ``given``, ``mean``, ``stddev``, ``log_prob`` or ``capacity``, see ``types.Release``."""

    client: nn.Module
    method: str

    def __call__(self, variables: Any, *arguments: Any) -> Any:
        """Evaluates what is declared."""
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
) -> tuple[Release, jax.tree_util.Partial]:
    """Turns trained parameters into what an audit takes: ``release(x, key) -> z`` and ``predict(z) -> logits``.

    Args:
        defense: whose modules the parameters belong to.
        params: with "client" and "server".
        statistics: batch statistics with "client" and "server".

    Returns:
        The release and the provider's predictor, both pytrees.
    """
    # A module without batch statistics has no such collection at all.
    variables = {
        party: {"params": params[party], **({"batch_stats": statistics[party]} if statistics[party] else {})}
        for party in ("client", "server")
    }
    client = defense.client
    declared = {name: ClientDensity(client, name) for name in getattr(client, "declares", ())}
    release = Release(
        variables["client"], ClientApply(client), defense.stochastic, memoised=defense.memoised, **declared
    )
    # No closure: a Partial is a pytree, so one compiled attack serves every predictor of an architecture.
    return release, jax.tree_util.Partial(ServerApply(defense.server), variables["server"])
