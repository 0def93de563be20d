"""Our units of work for the benchmark: as users run them, and the same with XLA's own convolution and pooling."""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from ani_jax.attacks import descent
from ani_jax.attacks.decoder import BLOCKS, WIDTH
from ani_jax.attacks.network import Draw, Lessons, Objective
from ani_jax.data.loader import Rows
from ani_jax.defenses import registry
from ani_jax.defenses.ani import Ani, NoiseInjector
from ani_jax.defenses.base import Defense, Forward, Terms, freeze
from ani_jax.defenses.none import Undefended
from ani_jax.defenses.options import weight
from ani_jax.evaluation.cost import multiply_accumulates
from ani_jax.frontier import sweep
from ani_jax.information import critics
from ani_jax.losses.dependence import distance_correlation
from ani_jax.losses.pairwise import centred
from ani_jax.modules.initialise import initialise
from ani_jax.modules.kernels import convolution, pool
from ani_jax.modules.readers import DecoderReader
from ani_jax.optimize import fit as fitting
from ani_jax.targets.image import image_mse
from ani_jax.training.config import TrainConfig
from ani_jax.training.devices import Devices, jitted
from ani_jax.training.phases import enter
from ani_jax.training.state import State, init
from ani_jax.training.step import Work
from ani_jax.types import Batch, Data, Images, Release, Sent, Source, Task, fixed
from experiments.benchmark.sides import (
    ATTRIBUTES,
    CEILING,
    LEARNING_RATE,
    PENALTY,
    STEPS,
    Builders,
    Case,
    Shape,
    iterations,
    pictures,
)


def ours() -> Builders:
    """The table."""
    return {
        "matmul": matmul,
        **{name: functools.partial(_training_case, name) for name in DEFENSES},
        "critic": critic,
        "inversion": inversion,
        "decoder": decoder_step,
        "correlation": correlation,
        "correlation_differences": functools.partial(correlation, function=by_differences),
        "forward": forward,
        "members": members,
        "devices": devices,
        "frontier": frontier,
    }


def stock() -> Builders:
    """The same cases with nothing but XLA's own convolution and pooling in this whole process."""
    convolution.known = lambda *_: None
    pool.largest = lambda x: nn.max_pool(x, (2, 2), (2, 2))
    return ours()


@dataclasses.dataclass(frozen=True)
class Penalised(Undefended):
    """The plain split with a distance correlation between image and features added to its loss."""

    dependence: float = weight(PENALTY)

    name: ClassVar[str] = "dependence"

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy and the correlation."""
        return {**super().client_loss(forward, batch), "dependence": distance_correlation(batch.image, forward.z)}


class Mean(NoiseInjector):
    """The injector without noise: what it sends is the mean."""

    def __call__(self, x: Array, key: Array, *, train: bool) -> Sent:
        """Draws nothing; the scale's head is then nobody's business."""
        del key
        return Sent(self.describe(x, train=train).location, {})


@dataclasses.dataclass(frozen=True)
class Quiet(Ani):
    """ani's two networks and the cross-entropy, without what makes them a defence."""

    entropy: float = weight(0.0)

    name: ClassVar[str] = "ani_base"

    @property
    def client(self) -> nn.Module:
        """The injector that draws no noise."""
        return Mean(axis_name=self.axis_name)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy."""
        return Undefended.client_loss(self, forward, batch)  # type: ignore[arg-type]

    def measurements(self, forward: Forward, batch: Batch) -> Terms:
        """Nothing: there is no noise."""
        del forward, batch
        return {}


def _options(shape: Shape) -> dict[str, Any]:
    return {"width": shape.width, "steps": STEPS, "learning_rate": LEARNING_RATE}


def _build(name: str, shape: Shape, **options: Any) -> Defense:
    """A defence of the registry; all but ani, which has one alone, with the shape's backbone."""
    attributes = (("attribute", ATTRIBUTES),)
    if name != "ani":
        options["backbone"] = shape.backbone
    size = (shape.image, shape.image, 3)
    return registry.build(name, shape.classes, size, attributes=attributes, **_options(shape), **options)


def _own(kind: type[Defense], shape: Shape, **options: Any) -> Defense:
    return kind(shape.classes, (shape.image, shape.image, 3), **_options(shape), **options)


OFF = {"beta": 0.0, "gamma": 0.0, "l1": 0.0}
QUIET = {
    "release_stddev": 0.0,
    "release_bits": 0,
    "repeats": "fresh",
    "excess": 0.0,
    "correlation": 0.0,
    "pooled": 0.0,
    "finishing_steps": 0,
}
AGAINST = {"listeners": "conv", "decoder": "mirror", "attribute": 0.45, "reconstruction": 0.45, "depth": 2, **QUIET}
DEFENSES: dict[str, Callable[[Shape], Defense]] = {
    "plain": lambda shape: _build("none", shape),
    "dependence": lambda shape: _own(Penalised, shape, backbone=shape.backbone),
    "funnel": lambda shape: _build("funnel", shape),
    "funnel_base": lambda shape: _build("funnel", shape, **OFF),
    "partition": lambda shape: _build("partition", shape, adversary_width=shape.width, **AGAINST),
    "ani": lambda shape: _build("ani", shape),
    "ani_base": lambda shape: _own(Quiet, shape),
}
"""Name -> what is trained, each with its plain base where that is not the plain split itself."""


def batch(count: int, shape: Shape) -> Batch:
    """The shared pictures, on the device."""
    image, label, attribute = map(jnp.asarray, pictures(count, shape))
    return Batch(image, label, {"attribute": attribute})


def fresh(defense: Defense, shape: Shape) -> State:
    """A new state in the phase that trains everything."""
    state = init(defense, jax.random.key(0))
    phase = main_phase(defense)
    if phase.prepare is not None:
        state = enter(state, 0, phase, types.SimpleNamespace(defend=Source(batch(shape.batch, shape), fixed)))
        # Random pictures have no class mean worth hinging at.
        state = dataclasses.replace(state, extra={**state.extra, "class_mean": jnp.float32(CEILING)})
    return state


def main_phase(defense: Defense) -> Any:
    """The phase that trains everything."""
    return next(phase for phase in defense.phases if phase.name == "train")


def training(defense: Defense, shape: Shape, spread: Devices) -> Callable[[], Any]:
    """A step as the training loop runs it, state donated, on a batch that is on the device already; returns its outcome."""
    defense = dataclasses.replace(defense, axis_name=spread.axis_name)
    work, key = Work(defense, main_phase(defense), shape.batch), jax.random.key(1)
    state, source = spread.scatter(fresh(defense, shape)), Source(batch(shape.batch, shape), fixed)
    feed: Any = _first(source.stored)
    if spread.mode != "jit":
        feed = next(spread.feed(source, key, shape.batch, [(0, 1)]))

    def unit() -> Any:
        nonlocal state
        state, outcome = spread.run(work, state, feed, key, 0)
        return jax.block_until_ready((state, outcome))[1]

    return unit


def _first(stored: Batch) -> Any:
    """The rows of one dispatch of one step."""
    return Rows(jax.tree.map(lambda leaf: leaf[None], stored), fixed)


def _training_case(name: str, shape: Shape) -> Case:
    defense = DEFENSES[name](shape)

    def facts() -> dict[str, float]:
        work, feed = Work(defense, main_phase(defense), shape.batch), _first(batch(shape.batch, shape))
        return _facts(jitted.trace(work, fresh(defense, shape), feed, jax.random.key(1), False))

    return Case(training(defense, shape, Devices("jit")), facts=facts)


def _facts(traced: Any) -> dict[str, float]:
    """The arithmetic of a program, counted in its jaxpr and by XLA, and the bytes that it needs beside what goes in and out."""
    closed, compiled = traced.jaxpr, traced.lower().compile()
    return {
        "macs": multiply_accumulates(core.jaxpr_as_fun(closed), *closed.in_avals),
        "xla_flops": compiled.cost_analysis().get("flops", 0.0),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def _fit(loss: Any, optimizer: Any, params: Any, data: Any, steps: int, draw: Any = None) -> Case:
    """Steps of a fit as its loop on the host dispatches them, each behind the draw of its rows where there is one."""
    key, carried = jax.random.key(2), (params, optimizer.init(params), jnp.asarray(True))

    def unit() -> Any:
        nonlocal carried
        for index in range(steps):
            own = data if draw is None else draw(data, jax.random.fold_in(key, index))
            *carried, value = fitting.step(loss, optimizer.update, *carried, own, key, index)
        return jax.block_until_ready((carried, value))[1]

    own = data if draw is None else jax.eval_shape(draw, data, key)
    return Case(unit, steps, lambda: _facts(fitting.step.trace(loss, optimizer.update, *carried, own, key, 0)))


def critic(shape: Shape) -> Case:
    """MINE's step on images and a funnel's features."""
    chosen = critics.Critics("mine", batch=shape.batch, learning_rate=LEARNING_RATE)
    sizes = (3 * shape.image**2, 12 * (shape.image // 4) ** 2)
    keys = jax.random.split(jax.random.key(0), 3)
    pairs = critics.Pairs(*(jax.random.normal(key, (4 * shape.batch, size)) for key, size in zip(keys, sizes)))
    params = critics.initial(chosen, keys[2], pairs)
    optimizer = critics.optimizer(LEARNING_RATE, STEPS)
    return _fit(critics.Objective(chosen), optimizer, params, (pairs, pairs, jnp.float32(0.1)), steps=10)


def _undefended(shape: Shape) -> Release:
    defense = DEFENSES["plain"](dataclasses.replace(shape, backbone="cnn"))
    state = init(defense, jax.random.key(0))
    return freeze(defense, state.params, state.statistics)[0]


def decoder_step(shape: Shape, width: int = WIDTH, blocks: int = BLOCKS, owned: int = 512) -> Case:
    """The strongest decoder's step on what the undefended client sent."""
    stored, side = batch(owned, shape), shape.image // 4
    z = jax.random.normal(jax.random.key(1), (owned, side, side, 2 * shape.width))
    module = DecoderReader((shape.image, shape.image, 3), width, blocks)
    params = initialise(module, jax.random.key(0), z[:1])["params"]
    loss, optimizer = Objective(module, image_mse), fitting.adam(LEARNING_RATE, STEPS, 1.0)
    lessons = Lessons(z, stored, z, stored, None)
    return _fit(loss, optimizer, params, lessons, steps=1, draw=jax.jit(Draw(shape.batch)))


def elsewhere(image: Images) -> Images:
    """Where descents start: other pictures, since in a flat one all pools tie, which libraries break differently."""
    return 0.25 + image[..., ::-1] / 2


def inversion(shape: Shape) -> Case:
    """White-box descent, per image and iteration; its beginning and end, a part in hundreds of a real one, are left out."""
    release, image, key, steps = (
        _undefended(shape),
        batch(shape.count, shape).image,
        jax.random.key(0),
        iterations(shape),
    )
    z = release(image, key)
    goal = descent.Goal(release, jnp.ones(z.shape[1:]))
    setting = descent.Setting(0.01, 1e-3)
    search, begin = descent.begin(goal, descent.Pixels(), None, elsewhere(image)[None], z[None], setting, key)

    def unit() -> Any:
        state = begin
        for index in range(steps):
            state, _ = descent.advance(search, state, index, steps)
        return jax.block_until_ready(state.unknown)

    return Case(unit, steps * shape.count, lambda: _facts(descent.advance.trace(search, begin, 0, steps)))


def _program(function: Callable[..., Any], *arguments: Any) -> Case:
    jitted = jax.jit(function)
    return Case(lambda: jax.block_until_ready(jitted(*arguments)), facts=lambda: _facts(jitted.trace(*arguments)))


def by_differences(x: Float[Array, "b d"], z: Float[Array, "b e"]) -> Float[Array, ""]:
    """Distance correlation as its definition reads: a tensor of all differences, b * b * d numbers of it in memory."""

    def distances(x: Array) -> Array:
        # Without the barrier XLA would fuse the differences away, which PyTorch and NumPy do not.
        differences = jax.lax.optimization_barrier(x[:, None] - x[None])
        squares = jnp.square(differences).sum(-1)
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

    ones = jnp.ones(x.shape[0])
    a, b = (centred(distances(value), ones) for value in (x, z))
    return jnp.sqrt((a * b).mean() / jnp.sqrt((a * a).mean() * (b * b).mean()))


def correlation(shape: Shape, function: Callable[[Array, Array], Array] = distance_correlation) -> Case:
    """Distance correlation of two batches (b, count), with the gradient by the second."""
    x, z = (jax.random.normal(key, (shape.batch, shape.count)) for key in jax.random.split(jax.random.key(0)))
    return _program(jax.grad(function, 1), x, z)


def forward(shape: Shape) -> Case:
    """The frozen funnel client on ``shape.batch`` images."""
    defense = DEFENSES["funnel"](dataclasses.replace(shape, backbone="cnn"))
    state = init(defense, jax.random.key(0))
    release = freeze(defense, state.params, state.statistics)[0]
    return _program(
        lambda release, image, key: release(image, key), release, batch(shape.batch, shape).image, state.key
    )


def matmul(shape: Shape) -> Case:
    """The machine's limit: a large product in float32."""
    return _program(jnp.matmul, *jax.random.normal(jax.random.key(0), (2, shape.count, shape.count)))


def members(shape: Shape) -> Case:
    """One step of ``shape.count`` plain splits as one program."""
    defense = DEFENSES["plain"](shape)
    work, key = Work(defense, main_phase(defense), shape.batch), jax.random.key(1)
    source = Source(batch(shape.batch, shape), fixed)
    states = sweep.stack([fresh(defense, shape)] * shape.count)

    def unit() -> Any:
        nonlocal states
        states, outcome = sweep.dispatch(states, source, key, work)
        return jax.block_until_ready((states, outcome))[1]

    return Case(unit)


def devices(shape: Shape) -> Case:
    """One plain step with the batch spread over all devices of the process."""
    return Case(training(DEFENSES["plain"](shape), shape, Devices("pmap")))


def frontier(shape: Shape, steps: int = 5) -> Case:
    """A frontier of ``shape.count`` points, each a funnel trained for a few steps."""
    defense = registry.build("funnel", shape.classes, (shape.image, shape.image, 3), width=shape.width, steps=steps)
    points = [
        dataclasses.replace(defense, **sweep.scaled(defense, factor)) for factor in sweep.multipliers(shape.count)
    ]
    held, task = batch(shape.batch, shape), Task("task", tuple(map(str, range(shape.classes))))
    source = Source(held, fixed)
    data = Data(source, held, source, held, held, "random", task, ())
    config = TrainConfig(batch_size=shape.batch)
    group = sweep.group_size(shape.count)
    return Case(lambda: jax.block_until_ready(sweep.train_together(points, data, config, group)))
