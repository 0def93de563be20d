"""What a method may need beyond the contract, each in a toy of its own; reversal is in tests/training/test_reversal.py."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ani_jax.defenses import mixins
from ani_jax.defenses.base import Defense, Phase
from ani_jax.defenses.none import Undefended
from ani_jax.losses.task import cross_entropy
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.state import init
from ani_jax.training.step import make_step


@dataclasses.dataclass(frozen=True)
class Plain(Undefended):
    """The undefended split on the toy's images."""

    width: int = 2
    depth: int = 1
    steps: int = 2


@dataclasses.dataclass(frozen=True)
class Loud(mixins.Measured, Plain):
    def measurements(self, forward, batch):
        return {"loudness": jnp.abs(forward.z).mean(), "images": jnp.float32(len(batch.image))}


@dataclasses.dataclass(frozen=True)
class Centred(mixins.Prepared, Plain):
    """Its loss sees the mean of the training images, which a phase fills in."""

    @property
    def phases(self):
        return (
            Phase("before", 1, ("client", "server"), ("task",)),
            Phase("train", 2, ("client", "server"), ("task",), prepare=self.prepare),
        )

    def init_extra(self):
        return {"mean": jnp.float32(-1)}

    def prepare(self, state, data):
        return dataclasses.replace(state, extra={"mean": data.defend.stored.image.mean()})

    def client_loss(self, forward, batch):
        return {"task": cross_entropy(forward.logits, batch.label).mean() + forward.extra["mean"]}


def built(kind):
    return kind(3, (4, 4, 1))


def test_measurements_are_logged_and_optimised_by_nobody(toy_batch):
    loud, plain = built(Loud), built(Plain)
    state = init(loud, jax.random.key(0))
    after, metrics = jax.jit(make_step(loud, loud.phases[0]))(state, toy_batch)
    expected, without = jax.jit(make_step(plain, plain.phases[0]))(state, toy_batch)
    assert set(metrics) - set(without) == {"loudness", "images"}
    assert float(metrics["images"]) == 32
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after.params, expected.params))


def test_what_is_prepared_has_a_place_from_the_start_and_is_what_losses_see(toy_data, toy_batch):
    centred = built(Centred)
    state = init(centred, jax.random.key(0))
    assert float(state.extra["mean"]) == -1
    step = jax.jit(make_step(centred, centred.phases[1]))
    filled = centred.prepare(state, toy_data)
    lifted = float(step(filled, toy_batch)[1]["loss"]) - float(step(state, toy_batch)[1]["loss"])
    assert lifted == pytest.approx(1 + float(toy_batch.image.mean()), rel=1e-4)
    state = train(centred, toy_data, TrainConfig(batch_size=8))
    assert float(state.extra["mean"]) == pytest.approx(float(toy_batch.image.mean()), rel=1e-6)
    assert init(built(Plain), jax.random.key(0)).extra == {}


def test_what_a_mixin_asks_for_must_be_given(toy_batch):
    class Silent(mixins.Measured, mixins.Prepared, mixins.Reversible, Defense):
        pass

    silent = Silent()
    for missing in (lambda: silent.measurements(None, None), silent.init_extra, lambda: silent.reversal_scales({})):
        with pytest.raises(NotImplementedError):
            missing()


@dataclasses.dataclass(frozen=True)
class Whisper(mixins.Hiding, Plain):
    """Plain, and told what to hide."""

    name = "whisper"


@dataclasses.dataclass(frozen=True)
class Argument(mixins.Contested, Plain):
    """Plain, and overheard."""

    name = "argument"


def test_the_first_attribute_is_hidden_unless_others_are_named():
    known = (("ink", 4), ("paper", 3))
    assert Whisper(3, (4, 4, 1), attributes=known).hidden == {"ink": 4}
    assert Whisper(3, (4, 4, 1), attributes=known, hide="paper, ink").hidden == {"paper": 3, "ink": 4}
    heard = Argument(3, (4, 4, 1), attributes=known, hide="paper,ink").adversaries
    assert [one.name for one in heard] == ["paper", "ink"]
    for options, message in (
        ({"attributes": known, "hide": "scent"}, "hide=scent: must be names out of ink, paper, each once"),
        ({"attributes": known, "hide": "ink,ink"}, "hide=ink,ink: must be names each given once"),
        ({}, "defense=whisper: must be another where the data has no sensitive attribute"),
    ):
        with pytest.raises(ValueError, match=message):
            Whisper(3, (4, 4, 1), **options)
    with pytest.raises(ValueError, match=r"attribute=0\.5: must be 0 where the data has no sensitive attribute"):
        Argument(3, (4, 4, 1))
    assert not Argument(3, (4, 4, 1), attribute=0.0).adversaries


def test_what_is_proved_must_be_told():
    with pytest.raises(NotImplementedError):
        _ = mixins.Proved().proved
