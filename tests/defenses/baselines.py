"""What the tests of the baselines share: small pictures, small clients, and an attacker in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward, freeze
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.state import init
from ani_jax.types import Batch, Data, Source, Task, fixed

SHORT = {
    "steps": 24,
    "pretraining_steps": 8,
    "finishing_steps": 4,
    "rounds": 2,
    "width": 2,
    "depth": 2,
    "learning_rate": 0.02,
}
"""Options of every baseline here, where it has them."""
HEARD = {"steps": 150, "adversary_width": 8, "adversary_rate": 0.02}
"""Adversaries that are small and learn fast."""
ROWS = 1024
"""Images."""


def built(name, **options):
    """A small one."""
    short = {option: value for option, value in SHORT.items() if option in registry.options(name)}
    return registry.build(name, 2, (8, 8, 3), attributes=(("ink", 3),), **{**short, **options})


@functools.cache
def pictures():
    """Images whose label is which half is bright, and whose ink is a colour."""
    label, ink, key = jnp.arange(ROWS) % 2, jnp.arange(ROWS) // 2 % 3, jax.random.key(3)
    bright = (jnp.arange(8)[None, :, None, None] // 4 == label[:, None, None, None]).astype(jnp.float32)
    colour = jax.nn.one_hot(ink, 3)[:, None, None]
    image = 0.3 * bright + 0.3 * colour + 0.4 * jax.random.uniform(key, (ROWS, 8, 8, 3))
    return Batch(image, label, {"ink": ink}, jnp.arange(ROWS))


@functools.cache
def data():
    """They in the role of every split."""
    batch, inks = pictures(), Task("ink", ("r", "g", "b"))
    source = Source(batch, fixed)
    return Data(source, batch, source, batch, batch, "toy", Task("label", ("a", "b")), (inks,))


def fresh(defense):
    """A state before training whose phases have prepared what they need."""
    state = init(defense, jax.random.key(0))
    for phase in defense.phases:
        state = state if phase.prepare is None else phase.prepare(state, data())
    return state


def untrained(defense):
    """Its client before training."""
    state = fresh(defense)
    return freeze(defense, state.params, state.statistics)[0]


def trained(defense):
    """State and client after training."""
    state = train(defense, data(), TrainConfig(batch_size=64))
    return state, freeze(defense, state.params, state.statistics)[0]


def ridge(z, target):
    """What least squares make of one half of what was sent, on the other: guess and truth."""
    z = np.asarray(z, float).reshape(len(z), -1)
    z = np.c_[(z - z.mean(0)) / (z.std(0) + 1e-6), np.ones(len(z))]
    fit, rest = slice(0, ROWS // 2), slice(ROWS // 2, None)
    weights = np.linalg.solve(z[fit].T @ z[fit] + 10 * np.eye(z.shape[1]), z[fit].T @ target[fit])
    return z[rest] @ weights, target[rest]


def told(name, options):
    """What a line reads of ink, of a defence that is told of it, or of images beside their label: R squared."""
    defense, batch = built(name, **options), pictures()
    # What has no weight protects before anything is learned.
    release = trained(defense)[1] if defense.weights.privacy else untrained(defense)
    z = release(batch.image, jax.random.key(5))
    if "attribute" in options:
        guess, truth = ridge(z, np.eye(3)[np.asarray(batch.sensitive["ink"])])
    else:
        image, label = np.asarray(batch.image).reshape(ROWS, -1), np.asarray(batch.label)
        guess, truth = ridge(z, image - np.stack([image[label == k].mean(0) for k in (0, 1)])[label])
    return 1 - np.square(guess - truth).mean() / np.square(truth - truth.mean(0)).mean()


def reached(name, term):
    """The parameters of the two parties that the gradient of a term reaches, two names deep for the client."""
    defense, batch = built(name), jax.tree.map(lambda leaf: leaf[:64], pictures())
    state = fresh(defense)

    def lost(params):
        def run(module, party, *args):
            statistics = state.statistics[party]
            own = {"params": params[party]} | ({"batch_stats": statistics} if statistics else {})
            return module.apply(own, *args, train=True, mutable=["batch_stats"])[0]

        sent = run(defense.client, "client", batch.image, jax.random.key(1))
        heard = {
            one.name: one.module.apply({"params": params["adversaries"][one.name]}, sent.z, train=False)
            for one in defense.adversaries
        }
        forward = Forward(sent.z, sent.aux, run(defense.server, "server", sent.z), heard, state.extra)
        return defense.client_loss(forward, batch)[term]

    value, slopes = jax.value_and_grad(lost)(state.params)
    assert jnp.isfinite(value)
    return {
        "/".join(str(part.key) for part in path[: 2 if party == "client" else 1])
        for party in ("client", "server")
        for path, leaf in jax.tree_util.tree_leaves_with_path({party: slopes[party]})
        if float(jnp.abs(leaf).max()) > 1e-9
    }


def varies(name):
    """Whether each image of a batch, and each query, has noise of its own; nothing that is sent may be anything but finite."""
    release, x = untrained(built(name)), jnp.repeat(pictures().image[:1], 64, 0)
    z, again = (release(x, jax.random.key(seed)) for seed in (1, 2))
    assert jnp.isfinite(z).all()
    found = bool((z != z[:1]).any())
    assert found == bool((z != again).any())
    return found
