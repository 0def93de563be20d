"""Every compiled step lowers for accelerators on a machine without one, and nothing of the CPU's kernels goes with it."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from ani_jax.attacks import base, descent, query
from ani_jax.attacks.attribute import Joint
from ani_jax.attacks.base import LEVELS, Context, Fits, Fitted
from ani_jax.attacks.decoder import Ridge
from ani_jax.attacks.descent import Found
from ani_jax.attacks.trees import Boosted
from ani_jax.attacks.views import Sight
from ani_jax.defenses import registry
from ani_jax.defenses.base import freeze
from ani_jax.modules import initialise
from ani_jax.modules.kernels import convolution
from ani_jax.optimize import fit as fitting
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.training import devices
from ani_jax.training.state import init
from ani_jax.training.step import Work
from ani_jax.types import Batch, Knowledge, Source, fixed

ACCELERATORS = ("cuda", "tpu")
IMAGE = (8, 8, 3)
TINY = {"partition": {"adversary_width": 8, "reconstruction": 0.02, "attribute": 0.5}}
STEPS = [("none", "cnn"), ("none", "resnet"), ("funnel", "cnn"), ("partition", "cnn"), ("ani", None)]


class Leaked(Exception):
    """A form of the CPU's was asked for."""


def leak(*_, **__):
    raise Leaked


def convolutions(jaxpr):
    """How many convolutions a program asks for, ours and lax's."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive in convolution.PLAIN or equation.primitive.name == "conv_general_dilated"
        count += sum(convolutions(inner) for inner in core.jaxprs_in_params(equation.params))
    return count


def lower(traced, platform, monkeypatch):
    """Lowers for a platform, where a form of the CPU's may not even be looked for; the number of convolutions."""
    with monkeypatch.context() as patch:
        for primitive in convolution.FAST:
            patch.setitem(convolution.FAST, primitive, leak)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    # Winograd's barrier, and the loops over pieces of a batch.
    assert "optimization_barrier" not in text
    return len(re.findall(r"stablehlo\.convolution\(", text))


def check(traced, monkeypatch, least=1):
    asked = convolutions(traced.jaxpr.jaxpr)
    assert asked >= least
    for platform in ACCELERATORS:
        # A function that several places call is written once.
        assert least <= lower(traced, platform, monkeypatch) <= asked
    return asked


def build(name, backbone, **options):
    if backbone is not None:
        options["backbone"] = backbone
    attributes = (("attribute", 2),)
    return registry.build(name, 3, IMAGE, attributes=attributes, width=8, steps=10, **TINY.get(name, {}), **options)


def batch(size):
    key = jax.random.key(0)
    label = jnp.arange(size) % 3
    return Batch(jax.random.uniform(key, (size, *IMAGE)), label, {"attribute": label % 2}, jnp.arange(size))


@pytest.fixture
def shapes(monkeypatch):
    """Shapes of a defence's state; nothing is compiled for them."""
    # A program with compiler options of its own cannot be traced inside another.
    monkeypatch.setattr(initialise, "_program", lambda module, backend: functools.partial(module.init, train=False))
    return lambda defense: jax.eval_shape(lambda: init(dataclasses.replace(defense, axis_name=None), jax.random.key(0)))


def phase(defense):
    return next(phase for phase in defense.phases if phase.name == "train")


@pytest.mark.parametrize(("name", "backbone"), STEPS)
def test_a_training_step_on_one_device(name, backbone, shapes, monkeypatch):
    defense = build(name, backbone)
    state = shapes(defense)
    work = Work(defense, phase(defense), 8)
    traced = devices.jitted.trace(work, state, Source(batch(16), fixed), jax.random.key(1), False)
    check(traced, monkeypatch, least=8)


@pytest.mark.parametrize(("name", "backbone"), [STEPS[0], *STEPS[2:]])
def test_a_pmapped_training_step(name, backbone, shapes, monkeypatch):
    defense = build(name, backbone, axis_name=devices.AXIS)
    count = jax.device_count()
    state = shapes(defense)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), state)
    batches = jax.tree.map(lambda leaf: leaf.reshape(count, 1, 2, *leaf.shape[1:]), batch(2 * count))
    work = Work(defense, phase(defense), 2 * count)
    # pmap alone has no trace.
    traced = jax.jit(lambda state, batches: devices.pmapped(work, state, batches)).trace(state, batches)
    check(traced, monkeypatch, least=8)


def test_members_of_a_sweep(monkeypatch):
    x, kernel = jnp.ones((4, 2, 8, 8, 3)), jnp.ones((4, 3, 3, 3, 8))
    loss = jax.grad(lambda x, kernel: (convolution.output_p.bind(x, kernel, spec=SPEC) ** 2).sum(), (0, 1))
    assert check(jax.jit(jax.vmap(loss)).trace(x, kernel), monkeypatch) == 3


SPEC = convolution.Spec((1, 1), ((1, 1), (1, 1)), IMAGE[:2], (3, 3), IMAGE[:2])


def test_a_form_of_the_cpus_is_seen(monkeypatch):
    """On the CPU each of the marks is there."""
    x, kernel = jnp.ones((64, 8, 8, 64)), jnp.ones((3, 3, 64, 128))
    traced = jax.jit(lambda x, kernel: convolution.output_p.bind(x, kernel, spec=SPEC)).trace(x, kernel)
    assert check(traced, monkeypatch) == 1
    with pytest.raises(Leaked):
        lower(traced, "cpu", monkeypatch)
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "optimization_barrier" in text
    assert "stablehlo.convolution(" not in text


@pytest.fixture(scope="module")
def asked():
    """What the undefended client answered, and the provider's network, before any training."""
    defense = build("none", "cnn")
    state = init(defense, jax.random.key(0))
    release, predict = freeze(defense, state.params, state.statistics)
    images = batch(16)
    knowledge = Knowledge(release, predict)
    return base.prepare(jax.random.key(1), knowledge, Source(images, fixed), images, count=16)


def one_step(attack):
    """The attack as short as it can be, with the programs that it has at length."""
    small = {"steps": 1, "images": 2, "tuned_on": 2, "rates": (0.1,), "variations": (0.1,), "energies": (0.1,)}
    small |= {"inversion_steps": 1, "prior_steps": 1, "width": 8, "first": 0}
    names = {field.name for field in dataclasses.fields(attack)}
    return dataclasses.replace(attack, **{name: value for name, value in small.items() if name in names})


def networks():
    """The networks and the descents among the attacks of the longest level, one of a kind."""
    found = {}
    for target in (Attribute("attribute", 2), Image("image")):
        for kind in base.ATTACKS[type(target)]:
            for attack in kind.at(target, LEVELS["thorough"]):
                # Trees are grown on the host: they have no compiled step.
                if attack.steps and kind is not Boosted:
                    found[f"{target.name}-{kind.__name__}{getattr(attack, 'form', '')}"] = attack
    return found


@pytest.mark.parametrize("name", networks())
def test_every_step_of_an_attacker(name, asked, monkeypatch):
    found = {}

    def step(loss, update, params, state, good, *rest):
        found.setdefault(type(loss).__name__, minimise.trace(loss, update, params, state, good, *rest))
        return params, state, good, jnp.float32(0)

    def advance(search, state, index, steps):
        found.setdefault(type(search.canvas).__name__, stepped.trace(search, state, index, steps))
        return state, jnp.zeros(len(state.good))

    def end(restarts, search, state):
        count = len(state.good) // restarts
        return Found(search.start[:count], jnp.zeros(count), jnp.ones(count, bool))

    def call(function, *given):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *given))

    stepped, minimise = descent.advance, fitting.step
    monkeypatch.setattr(descent, "advance", advance)
    monkeypatch.setattr(descent, "_end", end)
    monkeypatch.setattr(fitting, "step", step)
    monkeypatch.setattr(fitting, "_call", call)
    attack = one_step(networks()[name])
    # What other attacks found is not looked at; the network that it is a part of is, and how it sees.
    fits = Fits(asked, lambda _: jax.random.key(2))
    attack.fit(
        Context(
            jax.random.key(2), asked, lambda one: fits(one) if isinstance(one, Joint | Ridge | Sight) else Fitted(None)
        )
    )
    assert found
    # Some readers of attributes are matrices alone.
    least = int(getattr(attack, "form", "conv") == "conv")
    for traced in found.values():
        check(traced, monkeypatch, least)


def test_what_asks_a_client(asked, monkeypatch):
    image = jax.ShapeDtypeStruct((4, *IMAGE), jnp.float32)
    check(jax.jit(query.ask, static_argnums=3).trace(asked.release, image, jax.random.key(0), 1), monkeypatch)
