"""Clients whose gradients say nothing (stopped, rounded, not finite): detected, and answered by a differentiable copy.

Masking is no privacy: what cannot be differentiated can be imitated from queries, and the imitation inverted.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ani_jax.attacks.base import SAMPLE, Asked
from ani_jax.attacks.decoder import product, solve
from ani_jax.attacks.descent import Goal, feature_rates, sample_means
from ani_jax.attacks.query import ask, flat, query
from ani_jax.modules.imitation import Imitation
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.types import Features, Images, PRNGKey, Release, Source

NOTE = "the client's gradients say nothing, which is no privacy: white box inverted a copy of it, fitted to queries, as well"
"""What a report says of such a client."""
PROBES = 32
"""Images whose gradients are looked at."""
AGREEMENT = 0.1
"""Part of the observed change that a gradient must predict."""
FAITHFUL = 0.999
"""Part of the variance that a linear copy must explain for no network to be trained."""
RIDGE = 1e-6
"""Penalty of a linear copy, in units of the mean eigenvalue."""
NOISE = 4096
"""Most images of noise that a linear copy is fitted on beside real ones."""


def masked(key: PRNGKey, asked: Asked) -> bool:
    """Whether the client's gradients fail for most images.

    Between two images a and b the client's answer changes by ``D = release(b) - release(a)``. To second order
    ``|D|^2 = <J^T D, b - a>`` with the Jacobian J halfway; a gradient that predicts less than ``AGREEMENT`` of it, or is not
    finite, has failed. So a gradient that is wrong counts like one that is absent; a client that sends a constant has
    nothing to predict.

    Args:
        key: of the client's noise, the same for a, b and between.
        asked: of the client.
    """
    images = asked.sample.image[: 2 * PROBES]
    half = len(images) // 2
    goal = Goal(asked.release, feature_rates(sample_means(asked)))
    return bool(_failed(goal, images[:half], images[half : 2 * half], key).mean() > 0.5)


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


@jax.jit
def _failed(goal: Goal, a: Images, b: Images, key: PRNGKey) -> Bool[Array, " n"]:
    def send(x: Images) -> Features:
        return goal.expected(x, key)[0] * goal.rate[None]

    change = send(b) - send(a)
    pulled = jax.vjp(send, (a + b) / 2)[1](change)[0]
    size, predicted = jnp.square(flat(change)).sum(1), flat(pulled * (b - a)).sum(1)
    # Written so that what is not finite has failed.
    return (size > 0) & ~(jnp.isfinite(flat(pulled)).all(1) & (predicted > AGREEMENT * size))


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
