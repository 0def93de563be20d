"""A defence small enough to check by hand: dense client and server, one dense adversary that reads the ink."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from ani_jax.defenses.base import Adversary, Defense, Phase
from ani_jax.defenses.mixins import Prepared
from ani_jax.defenses.options import Weights, weight
from ani_jax.losses.task import cross_entropy
from ani_jax.types import Batch, Data, Sent, Source, Task, fixed


class ToyClient(nn.Module):
    """Batch norm and noise, so that statistics and keys matter."""

    stddev: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, key, *, train):
        # No bias: batch norm removes it, so its gradient is rounding noise, which Adam would blow up.
        z = nn.Dense(6, use_bias=False, name="dense")(x.reshape(len(x), -1))
        z = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name, name="norm")(z)
        return Sent(z + self.stddev * jax.random.normal(key, z.shape), {})


class ToyHead(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, z, *, train=False):
        return nn.Dense(self.classes)(z)


class Against(Weights):
    """The defender maximises what it weighs."""

    def factors(self, traced):
        return {"attribute": -traced["attribute"]}


@dataclasses.dataclass(frozen=True)
class Toy(Prepared, Defense):
    """Minimise CE - attribute * CE of the adversary."""

    attribute: float = weight(0.5, private=True)
    stddev: float = 0.1
    updates: int = 1
    pretraining: int = 0

    name: ClassVar[str] = "toy"
    provenance: ClassVar[str] = "a toy"

    @property
    def client(self):
        return ToyClient(self.stddev, self.axis_name)

    @property
    def server(self):
        return ToyHead(self.classes)

    @property
    def adversaries(self):
        return (Adversary("ink", ToyHead(2), lambda guess, batch: cross_entropy(guess, batch.sensitive["ink"]).mean()),)

    @property
    def weights(self):
        return Against.of(self)

    @property
    def phases(self):
        return (
            Phase("pretrain", self.pretraining, ("client", "server"), ("task",)),
            Phase("train", self.steps, ("client", "server"), ("task", *self.weights.active), self.updates),
            Phase("server", 2 if self.pretraining else 0, ("server",), ("task",), prepare=reset_extra),
        )

    def init_extra(self):
        return {"prepared": jnp.int32(0)}

    def client_loss(self, forward, batch):
        leaked = cross_entropy(forward.adversaries["ink"], batch.sensitive["ink"]).mean()
        return {"task": cross_entropy(forward.logits, batch.label).mean(), "attribute": leaked}


def reset_extra(state, data):
    """A visible ``prepare``: counts how often it ran."""
    return state.replace(extra={"prepared": state.extra["prepared"] + 1})


@pytest.fixture(scope="session")
def toy():
    """Builds the toy defence with options, or of a kind made of it."""

    def build(kind=Toy, **options):
        return kind(**{"classes": 3, "image_shape": (4, 4, 1), "steps": 6, **options})

    return build


def make_batch():
    """Thirty-two images in which label and ink can be read."""
    key = jax.random.key(7)
    label = jnp.arange(32) % 3
    ink = (jnp.arange(32) // 3) % 2
    image = 0.1 * jax.random.uniform(key, (32, 4, 4, 1))
    image = image.at[:, 0, 0, 0].add(0.4 * label).at[:, 1, 1, 0].add(0.5 * ink)
    return Batch(image, label, {"ink": ink}, jnp.arange(32))


def make_data(batch):
    """One batch in the role of every split."""
    source, tasks = Source(batch, fixed), (Task("label", ("a", "b", "c")), Task("ink", ("red", "blue")))
    return Data(source, batch, source, batch, batch, "toy", tasks[0], tasks[1:])


@pytest.fixture(scope="session")
def toy_batch():
    return make_batch()


@pytest.fixture(scope="session")
def toy_data(toy_batch):
    return make_data(toy_batch)
