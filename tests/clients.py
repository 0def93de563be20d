"""Five clients of whom it is known by analysis how well a secret can be told from what they send; and a way to attack them.

    python -m tests.clients votes --draws=FILE.npz     what the audit finds, and what the client sends, for anybody's own tools

Each hides its secret where some attackers do not look. Pictures are 8x8 mixtures of ten smooth waves; the secret is the first
pixel, which no client sends as it is.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ani_jax.attacks.base import families, level_named
from ani_jax.attacks.query import as_release
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.draws import draws
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch, Data, Knowledge, Source, Task

SIDE, WAVES, TIMES = 8, 10, 16
SECRET = Attribute("secret", 2)
VOTES, AGREE = 2000, 0.505
TRUE = 0.9
"""How often a parity is the secret."""
SPIKED = 0.6
SPREAD, HEARD = 1.1, 128
"""Deviation of a secret's 1, and of how many features."""


def data(originals: int = 384) -> Data:
    """Splits of so many originals; of ``validation`` and ``test`` each is drawn 16 times."""
    keys = jax.random.split(jax.random.key(100), 10)
    parts = [_originals(key, originals) for key in keys[:5]]
    fixed = [
        _render(key, jax.tree.map(lambda leaf: jnp.repeat(leaf, TIMES, 0), one)) for key, one in zip(keys[5:], parts)
    ]
    tasks = Task("tilt", ("left", "right")), (Task("secret", ("no", "yes")),)
    defend, auxiliary = Source(parts[0], _render), Source(parts[2], _render)
    return Data(defend, fixed[1], auxiliary, fixed[3], fixed[4], "known", *tasks)


def _originals(key, count):
    return {"wave": jax.random.normal(key, (count, WAVES)), "group": jnp.arange(count)}


def _render(key, rows):
    shake_key, secret_key = jax.random.split(key)
    wave = rows["wave"] + 0.3 * jax.random.normal(shake_key, rows["wave"].shape)
    grid = (jnp.arange(SIDE) + 0.5) / SIDE
    waves = [jnp.outer(jnp.cos(jnp.pi * i * grid), jnp.cos(jnp.pi * j * grid)) for i in range(4) for j in range(4 - i)]
    image = 0.5 + 0.04 * jnp.tensordot(wave, jnp.stack(waves)[:WAVES], 1)
    secret = jax.random.bernoulli(secret_key, 0.5, (len(wave),)).astype(jnp.int32)
    image = image.at[:, 0, 0].set(0.25 + 0.5 * secret)
    return Batch(image[..., None], (wave[:, 1] > 0).astype(jnp.int32), {"secret": secret}, rows["group"])


def told(x):
    """The secret, as a client reads it."""
    return (x[:, 0, 0, 0] > 0.5).astype(jnp.int32)


def votes(x, key):
    """Two thousand votes, each hardly better than a coin."""
    right = jax.random.bernoulli(key, AGREE, (len(x), VOTES))
    return jnp.where(right, 1.0, -1.0) * (2 * told(x)[:, None] - 1)


def parity(x, key):
    """Two of sixteen quiet bits agree or not, under loud noise a million times as large."""
    loud_key, bit_key, lie_key = jax.random.split(key, 3)
    bits = jax.random.bernoulli(bit_key, 0.5, (len(x), 16)).astype(jnp.int32)
    said = told(x) ^ jax.random.bernoulli(lie_key, 1 - TRUE, (len(x),)).astype(jnp.int32)
    bits = bits.at[:, 11].set(bits[:, 4] ^ said)
    return jnp.concatenate([1e3 * jax.random.normal(loud_key, (len(x), 48)), 1e-3 * (2.0 * bits - 1)], axis=1)


def spikes(x, key):
    """One feature of those that speak for the secret is large, in some images."""
    noise_key, rare_key, where_key = jax.random.split(key, 3)
    z = jax.random.normal(noise_key, (len(x), 512))
    where = jax.random.randint(where_key, (len(x),), 0, 256) + 256 * told(x)
    return z.at[jnp.arange(len(x)), where].add(12.0 * jax.random.bernoulli(rare_key, SPIKED, (len(x),)))


def variance(x, key):
    """Noise alone; the secret makes it a little wider."""
    noise = jax.random.normal(key, (len(x), HEARD))
    return noise * jnp.where(told(x) == 1, SPREAD, 1.0)[:, None]


def mark(x):
    """The picture without its first pixel, under a pattern of 1e-4 whose sign is the secret."""
    pattern = 1.0 - 2 * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape[1:])
    return x.at[:, 0, 0].set(x[:, 0, 1]) + 1e-4 * pattern[None] * (2.0 * told(x) - 1)[:, None, None, None]


def _wider():
    # The likelihood ratio is a threshold of the sum of squares.
    cut = HEARD * np.log(SPREAD**2) / (1 - 1 / SPREAD**2)
    return (scipy.stats.chi2.cdf(cut, HEARD) + scipy.stats.chi2.sf(cut / SPREAD**2, HEARD)) / 2


BEST = {
    "votes": float(scipy.stats.binom.sf(VOTES / 2, VOTES, AGREE) + scipy.stats.binom.pmf(VOTES / 2, VOTES, AGREE) / 2),
    "parity": TRUE,
    "spikes": (1 + SPIKED) / 2,
    "variance": float(_wider()),
    "mark": 1.0,
}
"""Name -> the best accuracy that anybody can have from one release; for spikes as if they were seen for certain."""
CLIENTS = {client.__name__: client for client in (votes, parity, spikes, variance, mark)}


def attacked(name: str, level: str = "standard", **options):
    """The evidence of one client at one release."""
    own = level_named(level)
    client, known = CLIENTS[name], data()
    chosen = families((SECRET,), own, Knowledge(as_release(client)))
    return audit(client, known, level=own, attacks=[one for one in chosen if one.queries == 1], subject=name, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--level", default="standard")
    parser.add_argument("--draws")
    args = parser.parse_args()
    if args.draws:
        np.savez(args.draws, **draws(CLIENTS[args.client], data()))
    begun, best = time.time(), BEST[args.client]
    [result] = attacked(args.client, args.level).attacks
    for one in result.attackers:
        print(f"{one.name}: {one.test if one.test is None else round(one.test, 3)} {one.ended}")
    score = result.scores["balanced_accuracy"].value
    share = (score - 0.5) / (best - 0.5)
    print(
        f"{args.client}: {score:.3f} of {best:.3f}, {share:.0%} of what is known, by {result.chosen}; {time.time() - begun:.0f} s"
    )
