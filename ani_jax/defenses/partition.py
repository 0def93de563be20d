"""``partition``: Privacy Partitioning (Chi et al. 2018, arXiv 1812.02863), a split that is trained against adversaries.

    min over client, server of  (1 - a_r - a_s - a_e) * CE(server(z), y) - a_r * L_rec(R(z), x) - a_s * L_attr(A(z), s)
                                                                           + a_e * bound of I(x; z | y)

while the reconstructor R and the attribute classifiers A minimise their own plain losses on the same z. [published] in the
abstract: a few layers on the device, an interactive adversarial construction, gender hidden from face images.
[reconstruction] everything else: the objective, the forms of L_rec and L_attr, the hinge, the schedule. [ours] The noise that is
sent, and the last term, of weight ``excess``: adversaries hide what they hear, it also what nobody listens for.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.base import Adversary, Forward, Optimizer, Phase, Terms
from ani_jax.defenses.mixins import Contested, Noisy, Prepared, Reversible
from ani_jax.defenses.options import require_split, weight
from ani_jax.defenses.registry import register
from ani_jax.losses import adversarial, reconstruction
from ani_jax.losses.checks import require
from ani_jax.losses.dependence import local_distance_correlation
from ani_jax.losses.task import accuracy, cross_entropy
from ani_jax.modules.adversaries import ConvClassifier, MirrorDecoder, MLPClassifier
from ani_jax.modules.cloud import SplitCloud
from ani_jax.modules.edge import SplitEdge
from ani_jax.modules.probes import ChannelVotes, Heard, LinearClassifier, LocalDecoder, PositionVotes, decorrelate
from ani_jax.modules.sender import CLEAN
from ani_jax.types import Batch, Data, Features, Images, Labels, Logits, Source

ATTRIBUTE_OBJECTIVES: dict[str, Callable[[Logits, Labels, Any], Array]] = {
    "max_entropy": lambda logits, labels, prior: adversarial.max_entropy(logits),
    "neg_ce": lambda logits, labels, prior: cross_entropy(logits, labels),
    "kl_to_prior": lambda logits, labels, prior: adversarial.kl_to_prior(logits, prior),
}
"""L_attr of logits, labels and prior, by name."""
RECONSTRUCTION_OBJECTIVES = {"mse": reconstruction.mse, "l1": reconstruction.l1, "ssim": reconstruction.ssim_loss}
LISTENERS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": ConvClassifier,
    "mlp": lambda classes, width: MLPClassifier(classes, 4 * width),
    "linear": lambda classes, width: LinearClassifier(classes),
    "positions": PositionVotes,
    "channels": lambda classes, width: ChannelVotes(classes),
}
"""Kinds of attribute adversaries, by number of classes and width; the last two vote, on decorrelated features."""
DECODERS = {"local": LocalDecoder, "mirror": MirrorDecoder}
"""Kinds of reconstruction adversaries."""
DECORRELATED = ("positions", "channels", "local")
"""Kinds of adversaries that hear decorrelated features, the others standardised ones."""
IMAGE = "image"
"""Name of the reconstruction adversary."""
DRAWN = 2048
"""Drawings of ``defend`` that floors and priors are estimated from."""
STATISTICS = 2**32 - 1
"""What their key is folded with: a step that no training reaches."""


@register
@dataclasses.dataclass(frozen=True)
class Partition(Prepared, Reversible, Contested, Noisy):
    """Privacy Partitioning with adversaries for hidden attributes, for the image, or for both.

    Every adversary hears z at unit variance, as every attacker will: otherwise the client hides by speaking quietly. An
    adversary whose weight is 0 does not exist. [reconstruction] The paper's adversaries are networks; which, is not known.

    Attributes:
        backbone: "cnn", "resnet" or "vgg".
        depth: how many of the backbone's blocks run on the device.
        light: convolve 2x2 with stride 2 on the device, instead of 3x3 and pooling; of the cnn alone. [ours]
        attribute_objective: L_attr, what the defender maximises: "max_entropy", "kl_to_prior", or "neg_ce", whose optimum
            can be an adversary that is confidently wrong.
        reconstruction_objective: L_rec: "mse", "l1" or "ssim" (1 - SSIM).
        hinge: the defender maximises min(L_rec, tau) of the batch, tau being the class-mean floor of the training data in the
            loss's own units: an unbounded L_rec diverges, and beyond that floor nothing can be asked of a release that keeps
            the label.
        listeners: kinds of adversaries of a hidden attribute, comma-separated, out of "conv", "mlp", "linear", "positions"
            and "channels" (see ``modules/probes.py``); they share the attribute's weight equally.
        decoder: the reconstruction adversary: "local", whose every position paints its part of the image (see
            ``modules/probes.py``), or "mirror", the edge in reverse.
        pooled: share of the attribute's weight that counts what voters say together, the sum of their log posteriors, instead of
            each voter by itself: near uniform an entropy is flat while votes add up (METHODS 2.2).
        correlation: weight, beside each attribute's entropy, of the distance correlation between the attribute and what every
            position, every channel and all together say before noise: a closed form, which cannot lag behind the client as
            adversaries do. [ours]
        adversary_updates: k, adversary updates before each update of the defender, 1 to 5.
        pretraining_steps: steps of client and server on the cross-entropy alone, before there are adversaries.
        warmup_steps: steps of the adversaries alone that follow.
        finishing_steps: steps of the server alone, at the end, behind features of which nothing linear tells of a hidden
            attribute to who knows the label: that was taken out of them in closed form, and costs the device a product with as
            many directions as attribute and label have. Where 0, or with attribute=0, nothing is. [ours]
        reversal: one backward pass through a gradient reversal (Ganin 2015) in place of the alternation.
        reconstruction: a_r, weight of the reconstruction; with a_s, the weight ``attribute``, and a_e, the weight ``excess``,
            a_r + a_s + a_e < 1.
    """

    backbone: str = "cnn"
    # Cut after two blocks, 28.6% of inks are read instead of 26.4%, and R² is 0.52 instead of 0.21 (docs/RESULTS.md).
    depth: int = 3
    light: bool = False
    attribute_objective: str = "max_entropy"
    reconstruction_objective: str = "mse"
    hinge: bool = True
    # With "linear" as a third, inks were read 28, 48, 34% (docs/RESULTS.md): it does not keep up with a moving client.
    listeners: str = "positions,channels"
    # It has little to learn and so keeps up with the client, where the mirrored one falls behind.
    decoder: str = "local"
    pooled: float = 0.5
    correlation: float = 3.0
    adversary_updates: int = 1
    adversary_rate: float = 1e-2
    pretraining_steps: int = 0
    warmup_steps: int = 0
    # Without it inks were read 29.9 and 30.3%, with it 27.0% (docs/RESULTS.md).
    finishing_steps: int = 200
    reversal: bool = False
    attribute: float = weight(0.6, private=True)
    reconstruction: float = weight(0.0, private=True)
    # Of a deterministic client an outsider finds all that its adversaries do not hear (docs/RESULTS.md).
    release_stddev: float = 2.0
    release_bits: int = 8
    repeats: str = "memoised"
    excess: float = weight(0.004, private=True)

    # Narrower than the reference it is measured against: some of what it hides, the narrowness hides (docs/RESULTS.md).
    width: int = 16
    steps: int = 1000
    learning_rate: float = 1e-2

    name: ClassVar[str] = "partition"
    provenance: ClassVar[str] = (
        "Privacy Partitioning (Chi et al. 2018, arXiv 1812.02863). The split with interactive adversaries is published; "
        "objectives, hinge, schedule, networks and weights are this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        require_split(self.backbone, self.depth, self.image_shape, self.light)
        for name, allowed in (
            ("attribute_objective", tuple(ATTRIBUTE_OBJECTIVES)),
            ("reconstruction_objective", tuple(RECONSTRUCTION_OBJECTIVES)),
            ("decoder", tuple(DECODERS)),
        ):
            require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        require(0 <= self.pooled <= 1, "pooled", self.pooled, "in [0, 1]")
        require(0 <= self.correlation <= 100, "correlation", self.correlation, "in [0, 100]")
        require(1 <= self.adversary_updates <= 5, "adversary_updates", self.adversary_updates, "1 to 5")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(self.finishing_steps >= 0, "finishing_steps", self.finishing_steps, "0 or more")
        if self.attribute:
            kinds, once = self._kinds, "each once, comma-separated"
            good = set(kinds) <= set(LISTENERS) and len(set(kinds)) == len(kinds)
            require(good, "listeners", self.listeners, f"names out of {', '.join(LISTENERS)}, {once}")
        if self.reversal:
            # A reversed gradient is that of the adversary's own loss: whatever else the defender may want, it cannot say.
            objective, alternation = self.attribute_objective, "which only reversal=False can train"
            plain = not self.attribute or objective == "neg_ce"
            require(plain, "reversal", True, f"False with attribute_objective={objective}, {alternation}")
            unhinged = not (self.reconstruction and self.hinge)
            require(unhinged, "reversal", True, f"False with hinge=True, {alternation}")
            require(self.adversary_updates == 1, "reversal", True, "False with adversary_updates above 1")
            for name in ("excess", *(("pooled", "correlation") if self.attribute else ())):
                require(
                    not getattr(self, name), "reversal", True, f"False with {name}={getattr(self, name)}, {alternation}"
                )

    @property
    def erases(self) -> bool:
        """Whether anything is taken out of the features: where an attribute is hidden, and a server can learn to go on."""
        return bool(self.finishing_steps and self.attribute)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind.strip() for kind in self.listeners.split(","))

    @property
    def client(self) -> nn.Module:
        """The undefended split's own edge, and what is done to its features before they are sent."""
        edge = SplitEdge(self.width, self.depth, self.axis_name, self.backbone, self.light)
        return self.sent(edge, self.directions(given_label=True) if self.erases else 0)

    @property
    def server(self) -> nn.Module:
        """The remaining backbone."""
        return SplitCloud(self.classes, self.width, self.depth, None, self.axis_name, self.backbone)

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """ATTRIBUTE-LISTENER for each hidden attribute and each listener, and "image"."""
        found = [self.listener(*hidden, kind) for hidden in self.hidden.items() for kind in self._kinds]
        if self.reconstruction:
            painter = DECODERS[self.decoder](self.image_shape, self.adversary_width)
            found.append(
                Adversary(
                    IMAGE,
                    Heard(painter, self.decoder in DECORRELATED, self.axis_name),
                    self._error,
                    Optimizer(self.adversary_rate),
                    # Beside it what a blind one would score: the loss of the mean image.
                    lambda guess, batch, extra: {"blind": extra["mean_image"]},
                )
            )
        return tuple(found)

    def listener(self, attribute: str, classes: int, kind: str) -> Adversary:
        """One adversary of a hidden attribute: it minimises its cross-entropy.

        Args:
            attribute: its name.
            classes: how many the attribute has.
            kind: a key of ``LISTENERS``.
        """

        def loss(output: Array, batch: Batch) -> Float[Array, ""]:
            return cross_entropy(*_opinions(output, batch.sensitive[attribute])).mean()

        def health(output: Array, batch: Batch, extra: Mapping[str, Array]) -> Terms:
            # Voters are heard together, as an attacker would; beside it what a blind one would score.
            right = accuracy(_pooled(output), batch.sensitive[attribute]).mean()
            return {"accuracy": right, "majority": extra[f"prior/{attribute}"].max()}

        heard = Heard(LISTENERS[kind](classes, self.adversary_width), kind in DECORRELATED, self.axis_name)
        return Adversary(f"{attribute}-{kind}", heard, loss, Optimizer(self.adversary_rate), health)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Client and server alone, the adversaries alone, then everybody."""
        parties, terms = ("client", "server"), ("task", *self.weights.active)
        k = self.adversary_updates if self.adversaries else 0
        if not self.weights.active:
            # The undefended training, step for step (METHODS 7): with nobody to listen, no phase is different from another.
            return (Phase("train", self.pretraining_steps + self.steps, parties, terms),)
        # Steps of several phases may be 0, so each that needs the statistics prepares them: they come out the same.
        return (
            Phase("pretrain", self.pretraining_steps, parties, ("task",)),
            Phase("warm_up", self.warmup_steps, (), ("task",), k, prepare=self.prepare),
            Phase("train", self.steps, parties, terms, k, self.reversal, prepare=self.prepare),
            Phase("finish", self.finishing_steps if self.erases else 0, ("server",), ("task",), prepare=self.finish),
        )

    def finish(self, state: Any, data: Data) -> Any:
        """Takes what is linear in the hidden attributes, beside the label, out of the features."""

        def clean(state: Any, images: Images) -> Features:
            own = {"params": state.params["client"], "batch_stats": state.statistics["client"]}
            return self.client.apply(own, images, None, train=False, method="clean").z  # type: ignore[union-attr]

        # Of features that nothing was taken out of yet.
        blank = jax.tree.map(jnp.zeros_like, state.statistics["client"]["erase"])
        whole = {**state.statistics, "client": {**state.statistics["client"], "erase": blank}}
        return self.erase(dataclasses.replace(state, statistics=whole), data, clean, given_label=True)

    def init_extra(self) -> dict[str, Array]:
        """Uniform priors and floors of 0, until :meth:`prepare`."""
        extra = {f"prior/{name}": jnp.full(classes, 1 / classes) for name, classes in self.hidden.items()}
        return extra | ({"class_mean": jnp.float32(0), "mean_image": jnp.float32(0)} if self.reconstruction else {})

    def prepare(self, state: Any, data: Data) -> Any:
        """Priors of the hidden attributes, and the losses of the class-mean and the mean image, from ``defend`` alone."""
        # As one program: one operation after the other, a drawing takes many times as long to compile.
        batch = jax.jit(Source.draw, static_argnums=2)(data.defend, jax.random.fold_in(state.key, STATISTICS), DRAWN)
        # One more drawing of each class: kl_to_prior is infinite where a class's prior is 0.
        extra = {
            f"prior/{name}": (jax.nn.one_hot(batch.sensitive[name], classes).sum(0) + 1) / (DRAWN + classes)
            for name, classes in self.hidden.items()
        }
        if self.reconstruction:
            member = jax.nn.one_hot(batch.label, self.classes)
            size = jnp.maximum(member.sum(0), 1)[:, None, None, None]
            guess = (jnp.einsum("nk,nhwc->khwc", member, batch.image) / size)[batch.label]
            extra["class_mean"] = self._error(guess, batch)
            mean = jnp.broadcast_to(batch.image.mean(0)[None], batch.image.shape)
            extra["mean_image"] = self._error(mean, batch)
        return dataclasses.replace(state, extra=extra)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, L_attr (mean over hidden attributes and their adversaries) and the hinged L_rec."""
        losses, confusion = {"task": cross_entropy(forward.logits, batch.label).mean()}, []
        objective = ATTRIBUTE_OBJECTIVES[self.attribute_objective]
        for name, output in forward.adversaries.items():
            if name == IMAGE:
                continue
            # Names of attributes may hold a dash, names of listeners do not.
            attribute = name.rpartition("-")[0]
            prior, labels = forward.extra.get(f"prior/{attribute}"), batch.sensitive[attribute]
            # Each voter's own entropy is flat near uniform, while pooled votes add up; pooled alone, votes might cancel.
            alone, together = (
                objective(*own, prior).mean() for own in (_opinions(output, labels), (_pooled(output), labels))
            )
            confusion.append((1 - self.pooled) * alone + self.pooled * together)
        if confusion:
            losses["attribute"] = jnp.stack(confusion).mean()
        if confusion and self.correlation:
            heard = decorrelate(forward.aux.get(CLEAN, forward.z), self.axis_name)
            flat = heard.reshape(len(heard), -1)
            # Channels as positions: each with all of its own places.
            views = (heard, jnp.swapaxes(heard.reshape(len(heard), -1, heard.shape[-1]), 1, 2), flat)
            told = [
                local_distance_correlation(
                    jax.nn.one_hot(batch.sensitive[name], classes), view, axis_name=self.axis_name
                )
                for name, classes in self.hidden.items()
                for view in views
            ]
            losses["attribute"] -= self.correlation * jnp.stack(told).mean()
        if self.reconstruction:
            error = self._error(forward.adversaries[IMAGE], batch)
            if self.axis_name is not None:
                # The least of a mean and a floor is not the mean of what each device would make of its own.
                error = jax.lax.pmean(error, self.axis_name)
            losses["reconstruction"] = adversarial.hinged(error, forward.extra["class_mean"]) if self.hinge else error
        # Weights are of what is maximised.
        return losses | {name: -value for name, value in self.beyond(forward, batch).items()}

    def reversal_scales(self, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        """What each adversary's own loss weighs in the defender's objective."""
        names = [adversary.name for adversary in self.adversaries]
        share = weights["attribute"] / max(len(names) - (IMAGE in names), 1)
        return {name: weights["reconstruction"] if name == IMAGE else share for name in names}

    def _error(self, guess: Array, batch: Batch) -> Float[Array, ""]:
        """The unhinged reconstruction loss: all of the reconstructor's own, and the defender's L_rec."""
        return RECONSTRUCTION_OBJECTIVES[self.reconstruction_objective](guess, batch.image).mean()


def _pooled(output: Array) -> Logits:
    """Logits (n, K) of all voters together: the sum of their log posteriors."""
    return jax.nn.log_softmax(output).sum(1) if output.ndim == 3 else output


def _opinions(output: Array, labels: Labels) -> tuple[Logits, Labels]:
    """Logits (n, K) with their labels: each of an example's voters answers for itself."""
    if output.ndim == 2:
        return output, labels
    return output.reshape(-1, output.shape[-1]), jnp.repeat(labels, output.shape[1])
