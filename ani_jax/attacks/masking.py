"""Clients whose gradients lie about what they send (stopped, in part or whole, rounded, not finite), and what stands for them.

Masking is no privacy: what cannot be differentiated can be imitated from queries. The imitation's gradients, taken at what the
client itself answers (Athalye, Carlini & Wagner 2018, "Obfuscated gradients"), compete with the client's own in every audit,
so that no test of gradients need be right; one is made all the same, for what the report says.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import SAMPLE, Asked, Attack, Context, Fitted
from ani_jax.attacks.decoder import product, solve
from ani_jax.attacks.descent import Goal, feature_rates, sample_means
from ani_jax.attacks.query import ask, flat, query
from ani_jax.modules.imitation import Imitation
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.types import Features, Images, PRNGKey, Release, Source

NOTE = "the client's gradients deny what it sends, which is no privacy: those of a copy, fitted to queries, were followed as well"
"""What a report says of such a client."""
PROBES = 64
"""Pairs of images between which gradients are looked at."""
STRIDE, POINTS = 0.25, 8
"""Part of the way from one to the other, and at how many points of it gradients are asked: near enough for honest ones."""
DENIED = 0.05
"""Part of a change that gradients may leave unexplained, in the median over images: where all are absent it is 0.45, where a
quarter of the features has none 0.1; honest ones of a convolutional client, trained or not, leave 0.006 at most."""
NOTICEABLE = 1e-6
"""Part of the squared change of a whole image below which the change of a quarter of it is rounding."""
FAITHFUL = 0.999
"""Part of the variance that a linear copy must explain for no network to be trained."""
RIDGE = 1e-6
"""Penalty of a linear copy, in units of the mean eigenvalue."""
NOISE = 4096
"""Most images of noise that a linear copy is fitted on beside real ones."""


@dataclasses.dataclass(frozen=True)
class Forms(Attack):
    """All that a descent can follow in a client's place: itself, where it can be differentiated, and :func:`straight`.

    Registered nowhere: attacks that descend ask for it, and choose among what it finds on ``validation``.

    Attributes:
        steps: of the copy, where that is a network.
    """

    steps: int = 400

    family = "surrogate"

    def fit(self, context: Context) -> Fitted:
        """Gives a tuple of releases, and the note where the client's own gradients fail their test."""
        asked, (probe_key, copy_key) = context.asked, jax.random.split(context.key)
        able = differentiable(asked)
        note = "" if able and not masked(probe_key, asked) else NOTE
        copy = straight(asked.release, surrogate(copy_key, asked, self.steps))
        return Fitted((asked.release, copy) if able else (copy,), note=note)


def straight(release: Release, copy: Release) -> Release:
    """A release that answers as the client does and has the gradient of its copy.

    Declared densities are left out, whose gradients would be the client's own again.

    Args:
        release: the client.
        copy: what gives as many features of an image, and draws nothing from its key.

    Example:
        >>> from ani_jax.attacks.query import as_release
        >>> both = straight(as_release(jnp.round), as_release(lambda x: 3 * x))
        >>> jax.value_and_grad(lambda x: both(x, jax.random.key(0)).sum())(jnp.full((1, 1, 1, 1), 0.8))[1].item()
        3.0
    """
    mean = None if release.mean is None else _straight
    return Release((release, copy), _straight, release.stochastic, mean, memoised=release.memoised)


def _straight(variables: tuple[Release, Release], x: Images, key: PRNGKey | None = None) -> Features:
    """What is sent, or without a key its declared mean, with the copy's gradient."""
    (release, copy), still = variables, jax.lax.stop_gradient(x)
    sent = release.mean(release.variables, still) if key is None else release(still, key)  # type: ignore[misc]
    # No copy draws from its key.
    guess = copy(x, jax.random.key(0))
    # In this order what is added is exactly 0.
    return jax.lax.stop_gradient(sent) + (guess - jax.lax.stop_gradient(guess))


def masked(key: PRNGKey, asked: Asked) -> bool:
    """Whether the client's gradients deny a considerable part of what it sends.

    From an image a towards another one, as a whole or in one of its quarters, to an image b nearby, the client's answer changes
    by ``D = release(b) - release(a)``, and its gradients say that it changes by P, the mean of ``J (b - a)`` on the way. With
    random signs v, ``<v, D - P>^2`` has the expectation ``|D - P|^2``, in which no part of the features can make good for
    another. Where its ratio to ``|D|^2`` exceeds ``DENIED`` in the median over images, the gradients have failed. So one that
    is wrong counts like one that is absent; a client that sends a constant has nothing to predict.

    Args:
        key: of the client's noise, the same for a, b and between, and of the signs.
        asked: of the client.
    """
    noise_key, sign_key = jax.random.split(key)
    images = asked.sample.image[: 2 * PROBES]
    half = len(images) // 2
    a, towards = images[:half], STRIDE * (images[half : 2 * half] - images[:half])
    goal = Goal(asked.release, feature_rates(sample_means(asked)))
    start, least = _sent(goal, a, noise_key), 0.0
    upper, left = (np.arange(side) < side // 2 for side in a.shape[1:3])
    quarters = [rows[:, None] & columns[None] for rows in (upper, ~upper) for columns in (left, ~left)]
    for index, part in enumerate([np.ones(a.shape[1:3]), *quarters]):
        step = towards * part.astype(np.float32)[None, :, :, None]
        change = flat(_sent(goal, a + step, noise_key) - start)
        signs = jax.random.rademacher(jax.random.fold_in(sign_key, index), start.shape, start.dtype)
        said = sum(_slope(goal, a + (point + 0.5) / POINTS * step, step, signs, noise_key) for point in range(POINTS))
        size, error = jnp.square(change).sum(1), jnp.square((change * flat(signs)).sum(1) - said / POINTS)
        # Of the whole image, which comes first.
        least = least or NOTICEABLE * float(size.mean())
        # What is not finite is no prediction.
        ratio = np.asarray(jnp.where(jnp.isfinite(error), error / size, 1))[np.asarray(size > least)]
        if len(ratio) and np.median(ratio) > DENIED:
            return True
    return False


@jax.jit
def _sent(goal: Goal, x: Images, key: PRNGKey) -> Features:
    return goal.expected(x, key)[0] * goal.rate[None]


@jax.jit
def _slope(goal: Goal, x: Images, step: Images, signs: Features, key: PRNGKey) -> Float[Array, " n"]:
    """``<signs, J step>`` at each x; backwards, since custom rules have no other way."""
    return flat(jax.vjp(lambda x: _sent(goal, x, key), x)[1](signs)[0] * step).sum(1)


def differentiable(asked: Asked) -> bool:
    """Whether the client can be traced backwards at all; a callback into another framework cannot."""

    def total(x: Images) -> Array:
        return asked.release(x, jax.random.key(0)).sum()

    try:
        # Tracing is enough to learn it, and runs nothing.
        jax.eval_shape(jax.grad(total), asked.sample.image[:1])
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def surrogate(key: PRNGKey, asked: Asked, steps: int) -> Release:
    """A differentiable copy of the client, fitted to queries: linear where that is faithful, else the better of it and a network.

    Args:
        key: of images, noise and the network.
        asked: of the client.
        steps: of the network.

    Returns:
        A deterministic release that gives the client's mean features.
    """
    linear_key, network_key, held_key = jax.random.split(key, 3)
    rate, held = feature_rates(sample_means(asked)), asked.validation.image
    sent = query(asked.release, held, held_key).mean(0)

    def explained(copy: Release) -> float:
        error = jnp.square((copy(held, held_key) - sent) * rate[None]).mean()
        return 1 - float(error / jnp.square((sent - sent.mean(0)[None]) * rate[None]).mean())

    copies = [_linear(linear_key, asked)]
    # Written so that a copy whose answers are not finite is not faithful.
    if not explained(copies[0]) > FAITHFUL:
        init_key, fit_key = jax.random.split(network_key)
        mean = sample_means(asked).mean(0)
        module = Imitation(mean.shape)
        params = initialise(module, init_key, asked.sample.image[:1])["params"]
        data = (asked.auxiliary, asked.release, mean, rate)
        found = fit(fit_key, params, _Copying(module), data, steps=steps, optimizer=adam(2e-3, steps, 1.0))
        copies.append(Release((found.params, mean, scale_of(rate)), NetworkApply(module)))
    # max would keep a leading NaN, with which nothing compares.
    scores = [score if score == score else -jnp.inf for score in map(explained, copies)]
    return copies[scores.index(max(scores))]


def _linear(key: PRNGKey, asked: Asked) -> Release:
    """The linear map with the least squared error on real images and on noise."""
    image_key, query_key = jax.random.split(key)
    shape = asked.sample.image.shape[1:]
    count = min(NOISE, 2 * asked.sample.image[0].size)
    # Noise also moves what real images never do.
    images = jnp.concatenate([asked.sample.image[:SAMPLE], jax.random.uniform(image_key, (count, *shape))])
    z = query(asked.release, images, query_key)[0]
    return Release((images.mean(0), z.mean(0), _solved(images, z)), _LinearApply())


@jax.jit
def _solved(images: Images, z: Features) -> Float[Array, "p d"]:
    x, y = flat(images - images.mean(0)[None]), flat(z - z.mean(0)[None])
    if x.shape[1] > x.shape[0]:
        return product(x.T, solve(product(x, x.T), y, RIDGE))
    return solve(product(x.T, x), product(x.T, y), RIDGE)


# A class and no closure: equal for all copies, so that attacks on them compile once.
@dataclasses.dataclass(frozen=True)
class _LinearApply:
    """``apply`` of a linear copy: ``z = z_mean + (x - x_mean) W``."""

    def __call__(self, variables: Any, x: Images, key: PRNGKey) -> Features:
        del key
        x_mean, z_mean, weights = variables
        return z_mean[None] + (flat(x - x_mean[None]) @ weights).reshape(-1, *z_mean.shape)


@dataclasses.dataclass(frozen=True)
class NetworkApply:
    """``apply`` of a network that gives standardised features: ``z = mean + network(x) / rate``."""

    module: nn.Module

    def __call__(self, variables: Any, x: Images, key: PRNGKey) -> Features:
        """Runs the network."""
        del key
        params, mean, scale = variables
        return mean[None] + self.module.apply({"params": params}, x, train=False) * scale[None]  # type: ignore[operator]


@dataclasses.dataclass(frozen=True)
class _Copying:
    """Squared error of a network's standardised features on fresh images."""

    module: nn.Module
    batch_size: int = 64

    def __call__(self, params: Any, data: tuple[Source, Release, Features, Features], key: PRNGKey) -> Float[Array, ""]:
        source, release, mean, rate = data
        draw_key, noise_key = jax.random.split(key)
        x = source.draw(draw_key, self.batch_size).image
        z = jax.lax.stop_gradient((ask(release, x, noise_key)[0] - mean[None]) * rate[None])
        return jnp.square(self.module.apply({"params": params}, x, train=True) - z).mean()  # type: ignore[operator]


def scale_of(rate: Features) -> Features:
    """1 / rate, 0 where that is 0."""
    return jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1), 0)
