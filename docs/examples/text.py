"""What sentence embeddings tell: as floats, in 8 bits, in 1 bit, and with noise that is trained for each input.

    python docs/examples/text.py --level=standard --output=DIR --client=all

docs/examples/TEXT.md says what is measured and shows what was found. A client that was audited is not audited again; one that was
interrupted goes on. Needs the extra "examples": pip install -e ".[examples]".
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.scipy.stats import norm
from matplotlib import rc_context
from matplotlib.figure import Figure
from sentences import Corpus, corpus
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ani_jax
from ani_jax.attacks.base import level_named
from ani_jax.attacks.discrete import bits, positions, topk
from ani_jax.data import pairs
from ani_jax.losses.noise import gaussian_rate
from ani_jax.losses.task import cross_entropy
from ani_jax.records import Estimate, Evidence, from_json, to_json
from ani_jax.reporting.figures import COLOURS, INK, STYLE
from experiments.folders import Parts, write
from experiments.process import keep_programs
from experiments.progress import Progress, say

ROWS, DEFEND = 20_000, 0.25
"""Messages, and the share of them that trains noise and provider; attackers never see these."""
WEIGHTS, LOST = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003), 0.01
"""Of the nats that noise lets through, beside the cross-entropy: the first that costs no more of the topic's accuracy is kept."""
STEPS, BATCH = 4000, 512
"""Of training it; messages a step."""
RANGE = 3.0
"""Deviations beyond which numbers of few bits are cut off."""


def embedded(texts: list[str]) -> np.ndarray:
    """Sentence embeddings (n, 256) of length 1, by the model that lies in wordllama's wheel; nothing is downloaded."""
    try:
        import wordllama
    except ImportError:
        raise SystemExit('wordllama is missing: pip install -c constraints.txt -e ".[examples]"') from None
    # It looks for its tokenizer in its cache alone, which the wheel's own folder can stand for.
    home = pathlib.Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=home, disable_download=True).embed(texts, norm=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """The messages, embedded and divided.

    Attributes:
        corpus: the messages.
        x: (n, d) their embeddings, at a deviation of 1 on average.
        split: (n,) 0 auxiliary, 1 validation, 2 test, 3 for training noise and provider; paraphrases are never divided.
    """

    corpus: Corpus
    x: np.ndarray
    split: np.ndarray

    @classmethod
    def of(cls, made: Corpus, embed: Callable[[list[str]], np.ndarray], seed: int = 0) -> "Scene":
        """Embeds the messages and deals them by what they state."""
        known, group = np.unique(made.group, return_inverse=True)
        defend = np.random.default_rng(seed).permutation(len(known)) < DEFEND * len(known)
        own = defend[group]
        split = np.full(len(group), 3, np.int8)
        split[~own] = pairs.dealt(np.unique(group[~own], return_inverse=True)[1], seed)
        x = embed(made.text).astype(np.float32)
        return cls(made, x / x[split == 0].std(0).mean(), split)

    @property
    def topic(self) -> np.ndarray:
        """What each is about, as numbers."""
        return np.unique(self.corpus.topic, return_inverse=True)[1].astype(np.int32)

    def recorded(self, columns: Mapping[str, Any], name: str) -> ani_jax.Pairs:
        """What a client sends of the audited rows, with everything that it should not tell, and the provider's answers."""
        sent = pairs.numbers(columns["z"], bits=columns.get("z_bits", 0)).reshape(len(self.x), -1)
        provider = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        provider.fit(sent[self.split == 3], self.corpus.topic[self.split == 3])
        rows = self.split < 3
        told = {"x": self.x, "label": self.corpus.topic, "answer": provider.predict(sent), "split": self.split}
        told |= {"group": self.corpus.group, **{f"s_{key}": one for key, one in self.corpus.hidden.items()}}
        whole = {key: np.asarray(columns[key]) for key in columns if key == "z_bits"}
        return pairs.Pairs.of(whole | {key: one[rows] for key, one in ({"z": columns["z"]} | told).items()}, name)


# What clients without noise send of x; a vector store keeps numbers of 8 bits or of 1.
def few(client: Any) -> Callable[[np.ndarray], dict[str, Any]]:
    """A wrapper of ani_jax.attacks.discrete, as columns of recorded pairs."""
    return lambda x: {"z": np.asarray(client(jnp.asarray(x), jax.random.key(0)))}


def same(x: jax.Array) -> jax.Array:
    """The client that sends what it is given."""
    return x


RECORDED: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "float": lambda x: {"z": x},
    "int8": lambda x: {"z": np.round(127 * x / np.abs(x).max()).astype(np.int8)},
    "bit": lambda x: {"z": np.packbits(x > 0, axis=1), "z_bits": x.shape[1]},
    "bits4": few(bits(same, 4, -RANGE, RANGE)),
    "top32": few(topk(same, 32)),
    **{f"positions{k}": few(positions(same, k)) for k in (8, 32, 128)},
}
CLIENTS = ("float", "int8", "bit", "ani")
"""Those of --client=all, and of the figure."""


class Injector(nn.Module):
    """Adaptive noise on a vector: a shift, and for every number a deviation of its own, both chosen by the input.

    Args:
        width: of its two layers.

    Returns:
        Mean and deviation of what is sent, each of x's shape. At first x is sent almost as it is.
    """

    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The distribution of z given x."""
        hidden = nn.relu(nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(x))))
        zeros, quiet = nn.initializers.zeros, nn.initializers.constant(-3.0)
        shift = nn.Dense(x.shape[1], kernel_init=zeros)(hidden)
        rho = nn.Dense(x.shape[1], kernel_init=zeros, bias_init=quiet)(hidden)
        return x + shift, 0.01 + 10 * nn.sigmoid(rho)


class Provider(nn.Module):
    """What the topic is read with."""

    classes: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Logits."""
        return nn.Dense(self.classes)(nn.relu(nn.Dense(128)(z)))


INJECTOR = Injector()


def given(variables: Any, x: jax.Array, unit: jax.Array) -> jax.Array:
    """What is sent of x with standard normal noise."""
    mean, stddev = INJECTOR.apply(variables, x)
    return mean + stddev * unit


def drawn(variables: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    """What is sent of x: noise is drawn anew whenever it is asked."""
    return given(variables, x, jax.random.normal(key, x.shape))


def location(variables: Any, x: jax.Array) -> jax.Array:
    """Its mean."""
    return INJECTOR.apply(variables, x)[0]


def deviation(variables: Any, x: jax.Array) -> jax.Array:
    """Its deviation."""
    return INJECTOR.apply(variables, x)[1]


def log_density(variables: Any, z: jax.Array, x: jax.Array) -> jax.Array:
    """How likely x makes z, in nats."""
    return norm.logpdf(z, *INJECTOR.apply(variables, x)).sum(1)


def trained(
    x: np.ndarray, topic: np.ndarray, classes: int, weight: float, steps: int, seed: int = 0
) -> tuple[ani_jax.Release, jax.tree_util.Partial]:
    """Trains injector and provider together; of what is to be hidden they are told nothing.

        min   CE(provider(z), y) + weight * R,      R >= I(x; z | y)

    where R, in nats, is the most that the noise lets through of x beside its topic (:func:`ani_jax.losses.noise.gaussian_rate`).
    """
    provider, key = Provider(classes), jax.random.key(seed)
    params = {"client": INJECTOR.init(key, x[:1]), "server": provider.init(key, x[:1])}
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def loss(params: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        mean, stddev = INJECTOR.apply(params["client"], x)
        z = mean + stddev * jax.random.normal(key, x.shape)
        rate = gaussian_rate(mean, stddev, y, classes)
        return cross_entropy(provider.apply(params["server"], z), y).mean() + weight * rate

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        rows, noise = jax.random.split(key)
        index = jax.random.randint(rows, (BATCH,), 0, len(x))
        change, state = optimizer.update(jax.grad(loss)(params, x[index], y[index], noise), state, params)
        return optax.apply_updates(params, change), state

    state, own = optimizer.init(params), (jnp.asarray(x), jnp.asarray(topic))
    for number in range(steps):
        params, state = step(params, state, jax.random.fold_in(key, number), *own)
    release = ani_jax.Release(
        params["client"], drawn, True, mean=location, log_prob=log_density, stddev=deviation, given=given
    )
    return release, jax.tree_util.Partial(provider.apply, params["server"])


def affordable(scene: Scene, steps: int = STEPS) -> tuple[ani_jax.Release, jax.tree_util.Partial]:
    """The loudest noise behind which the provider still tells the topic of validation messages, but for ``LOST`` of them."""
    own, held = scene.split == 3, scene.split == 1
    for weight in WEIGHTS:
        release, predict = trained(scene.x[own], scene.topic[own], len(np.unique(scene.topic)), weight, steps)
        sent = release(jnp.asarray(scene.x[held]), jax.random.key(1))
        right = float((predict(sent).argmax(1) == scene.topic[held]).mean())
        say(f"ani: weight {weight:g} tells the topic of {right:.1%}")
        if right >= 1 - LOST:
            break
    return release, predict


def audited(scene: Scene, client: str, level: str, output: pathlib.Path) -> Evidence:
    """What a client gives away, read or found out."""
    folder = output / f"{client}-{level}"
    kept = folder / "evidence.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun, options = time.monotonic(), {"level": level, "subject": client, "common": Parts(output / "common")}
        with Progress(folder, client) as progress:
            options |= {"on_event": progress, "store": Parts(folder / "parts")}
            if client == "ani":
                size, (release, predict) = level_named(level), affordable(scene)
                data, _ = scene.recorded({"z": scene.x}, "text").data(size.sample, size.validation, size.test)
                # It is asked, as often as an attacker likes: what is recorded of it would be one draw of its noise a row.
                evidence = ani_jax.audit(release, data, predict, **options)
            else:
                evidence = ani_jax.audit(scene.recorded(RECORDED[client](scene.x), "text"), **options)
        say(f"{client}: audited in {(time.monotonic() - begun) / 60:.1f} minutes")
        ani_jax.save(evidence, folder / "report.html")
        write(kept, to_json(evidence))
    return from_json(Evidence, kept.read_text())


def of_words(scene: Scene, kept: pathlib.Path) -> dict[str, float]:
    """What a logistic regression reads off the words themselves: balanced accuracy of each attribute, accuracy of the topic."""
    if not kept.exists():
        counts = CountVectorizer(binary=True).fit_transform(scene.corpus.text)
        own, test, found = scene.split == 0, scene.split == 2, {}
        for name, truth in {"topic": scene.corpus.topic, **scene.corpus.hidden}.items():
            guess = LogisticRegression(max_iter=2000).fit(counts[own], truth[own]).predict(counts[test])
            score = accuracy_score if name == "topic" else balanced_accuracy_score
            found[name] = float(score(truth[test], guess))
        write(kept, json.dumps(found))
    return json.loads(kept.read_text())


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of what is read.
        found: client -> what was found.
        ends: what the words tell, and what whoever knows nothing reaches; None where that means nothing.
    """

    name: str
    found: Mapping[str, Estimate]
    ends: tuple[float | None, float | None]


def rows_of(scene: Scene, found: Mapping[str, Evidence], words: Mapping[str, float]) -> list[Row]:
    """What each client gives away to its strongest attacker; a client with noise stands there a second time, asked once."""
    test = scene.split == 2
    majority = float(np.bincount(scene.topic[test]).max() / test.sum())
    rows = [Row("topic", {name: one.utility["accuracy"] for name, one in found.items()}, (words["topic"], majority))]
    for name, metric in [*((name, "balanced_accuracy") for name in scene.corpus.hidden), ("vector", "r2_mean")]:
        scores = {}
        for client, evidence in found.items():
            best = evidence.strongest(evidence.words(name))
            once = evidence.strongest(evidence.words(name), lambda result: result.queries == 1)
            scores[client] = best.scores[metric]
            if any(result.queries > 1 for result in evidence.attacks):
                scores[f"{client}, once"] = once.scores[metric]
        known = name in words
        ends = (words[name], 1 / len(np.unique(scene.corpus.hidden[name]))) if known else (None, 0.0)
        rows.append(Row(name, scores, ends))
    return rows


def table(rows: list[Row]) -> str:
    """The same in markdown."""
    clients = list(rows[1].found)
    lines = [["", *clients, "bag of words", "floor"], ["---"] * (len(clients) + 3)]
    for row in rows:
        write = "{:.2f}".format if row.ends[0] is None else "{:.1%}".format
        told = (row.found.get(client) for client in clients)
        shown = ["" if one is None else f"{write(one.value)} [{write(one.low)}, {write(one.high)}]" for one in told]
        lines.append([row.name, *shown, *("" if end is None else write(end) for end in row.ends)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture(rows: list[Row]) -> Figure:
    """Bars of what each client gives away, the words together as their mean; lines at ceiling and floor."""
    clients = [client for client in rows[1].found if client.split(",")[0] in CLIENTS] or list(rows[1].found)
    groups = {
        "topic (to keep)": rows[:1],
        **{row.name: [row] for row in rows if row.name in ("sex", "city", "diagnosis")},
    }
    words = [row for row in rows if row.name.startswith("word_")]
    groups[f"{len(words)} words, mean"] = words
    figure = Figure((7.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(clients)
    for place, client in enumerate(clients):
        # What is asked once is no other provider's.
        shown = [
            [row.found.get(client, row.found.get(client.split(",")[0])).value for row in group]
            for group in groups.values()
        ]
        at = np.arange(len(groups)) - 0.4 + width * (place + 0.5)
        axes.bar(at, list(map(np.mean, shown)), 0.9 * width, color=COLOURS[place], label=client)
    for end, (style, label) in enumerate((("-", "bag of words"), (":", "majority"))):
        values = [np.mean([row.ends[end] for row in group]) for group in groups.values()]
        left = np.arange(len(groups)) - 0.42
        axes.hlines(values, left, left + 0.84, INK, style, linewidth=1, label=label)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(ylim=(0, 1.02), ylabel="accuracy / balanced accuracy")
    figure.legend(loc="outside right upper")
    return figure


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default="standard", choices=("preview", "standard", "thorough"))
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--client", default="all", choices=("all", *RECORDED, "ani"))
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    keep_programs(asked.output / "programs")
    scene = Scene.of(corpus(ROWS), embedded)
    for client in CLIENTS if asked.client == "all" else (asked.client,):
        audited(scene, client, asked.level, asked.output)
    done = [one for one in (*RECORDED, "ani") if (asked.output / f"{one}-{asked.level}" / "evidence.json").exists()]
    found = {client: audited(scene, client, asked.level, asked.output) for client in done}
    rows = rows_of(scene, found, of_words(scene, asked.output / "words.json"))
    write(asked.output / "table.md", table(rows))
    with rc_context(STYLE):
        picture(rows).savefig(asked.output / "text.svg", metadata={"Date": None})
    print(table(rows))


if __name__ == "__main__":
    main()
