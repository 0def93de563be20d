"""Inversion with a generative prior: seek a code whose picture explains the release, then a layer near it (METHODS 5.5).

GLASS (2023) searches the layers of a StyleGAN; [reconstruction] at these sizes a variational autoencoder trained on
``auxiliary`` takes its place.
"""

import dataclasses
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ani_jax.attacks.base import Asked, Context, Fitted, OnEvent, register
from ani_jax.attacks.descent import Goal, Setting, descend, drift, goal_of
from ani_jax.attacks.masking import Forms
from ani_jax.attacks.query import Observed
from ani_jax.attacks.whitebox import Starting, by_parts, settings, shared, tune
from ani_jax.modules.adversaries import ConvClassifier, MirrorDecoder
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Images, PRNGKey, Source

PIXEL_STDDEV = 0.1
"""How far a painted pixel may be from the true one, in the autoencoder's likelihood."""


class Coded(NamedTuple):
    """What the autoencoder makes of images.

    Attributes:
        mean: of the code's posterior.
        log_stddev: of it.
        image: painted from one draw of the code.
    """

    mean: Float[Array, "b d"]
    log_stddev: Float[Array, "b d"]
    image: Images


class Autoencoder(nn.Module):
    """A code of standard normal numbers, a coarse layer that a dense layer makes of it, and a picture of that.

    The halves of the painter are methods of their own, because an attack searches the codes first and then the layer
    between (METHODS 5.5).

    Args:
        image_shape: ``(height, width, channels)``.
        size: numbers in a code.
        width: channels, as of `MirrorDecoder`.

    Returns:
        :class:`Coded`.

    Example:
        >>> import functools
        >>> module, x, key = Autoencoder((16, 16, 3), 8, 4), jnp.ones((2, 16, 16, 3)), jax.random.key(0)
        >>> found = jax.eval_shape(functools.partial(module.init_with_output, train=False), key, x, key)[0]
        >>> found.mean.shape, found.image.shape
        ((2, 8), (2, 16, 16, 3))
    """

    image_shape: tuple[int, int, int]
    size: int = 64
    width: int = 32

    def setup(self):
        """Makes the three networks."""
        height, width, _ = self.image_shape
        # Halved only where it comes out even: the painter's doublings must meet the image's sides again.
        times = 0
        while min(height, width) >> times >= 8 and (height >> times) % 2 == (width >> times) % 2 == 0:
            times += 1
        self.grid = (height >> times, width >> times, 2 * self.width)
        self.encoder = ConvClassifier(2 * self.size, self.width)
        self.first = nn.Dense(self.grid[0] * self.grid[1] * self.grid[2])
        self.painter = MirrorDecoder(self.image_shape, self.width)

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Coded:
        """Codes images and paints them again from one draw."""
        del train
        mean, log_stddev = jnp.split(self.encoder(x), 2, axis=1)
        # Unbounded, one overflowing exponential would end the training.
        log_stddev = log_stddev.clip(-6, 2)
        code = mean + jnp.exp(log_stddev) * jax.random.normal(key, mean.shape)
        return Coded(mean, log_stddev, self.paint(self.layer(code)))

    def code(self, x: Images) -> Float[Array, "b d"]:
        """The likeliest code of each image."""
        return jnp.split(self.encoder(x), 2, axis=1)[0]

    def layer(self, code: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """The coarse layer of a code."""
        return nn.relu(self.first(code)).reshape(-1, *self.grid)

    def paint(self, layer: Float[Array, "b h w c"]) -> Images:
        """The picture of a coarse layer."""
        return self.painter(layer)


@register(Image)
@dataclasses.dataclass(frozen=True)
class Prior(Starting):
    """Trains an autoencoder on ``auxiliary`` and inverts within what it can paint.

        min over w of  misfit(paint(layer(w)), z) + variation * TV + energy * mean(w^2),        then
        min over l of  misfit(paint(l), z) + variation * TV + energy * mean((l - layer(w))^2)

    Attributes:
        steps: of Adam, half for the codes and half for the layer.
        restarts: codes to start from: that of a decoder's guess, 0, then random ones.
        prior_steps: of the autoencoder's training.
        size: numbers in a code.
        width: of the autoencoder.
        rates: grid of step sizes.
        variations: grid of weights of the total variation.
        energies: grid of weights of the codes' and layers' own penalties.
        tuned_on: validation images that the grid is tried on.
        batch_size: images a step of the autoencoder's training.
        learning_rate: Adam's peak rate there.
        surrogate_steps: of the network whose gradients compete with the client's own, as of `WhiteBox`.
    """

    steps: int = 1000
    restarts: int = 4
    prior_steps: int = 2000
    size: int = 64
    width: int = 32
    rates: tuple[float, ...] = (0.03, 0.1)
    variations: tuple[float, ...] = (0.0,)
    energies: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    tuned_on: int = 16
    batch_size: int = 64
    learning_rate: float = 2e-3
    surrogate_steps: int = 400

    family = "prior"
    levels = MappingProxyType(
        {"thorough": {"steps": 2000, "prior_steps": 4000, "images": 256, "surrogate_steps": 2000}}
    )

    def fit(self, context: Context) -> Fitted:
        """Trains the autoencoder, then chooses whose gradients are followed, and the setting, on ``validation``."""
        asked = context.asked
        train_key, start_key, tune_key = jax.random.split(context.key, 3)
        height, width, channels = asked.sample.image.shape[1:]
        module = Autoencoder((height, width, channels), self.size, self.width)
        params, failed = self.train(train_key, module, asked, context.emit)
        guess = context.best(self.starters)
        count = max(1, self.restarts - (guess is not None))
        codes = jax.random.normal(start_key, (count, self.size)).at[0].set(0)
        begin = _painted(module, params, codes[:1])
        images = jnp.broadcast_to(begin, (min(self.tuned_on, asked.held.shape[1]), *begin.shape[1:]))
        forms = context.fitted(Forms(self.target, steps=self.surrogate_steps))
        searchers = [
            Searcher(
                goal=goal_of(asked, release, images),
                params=params,
                guess=guess,
                codes=codes,
                setting=Setting(self.rates[0]),
                steps=self.steps,
                module=module,
            )
            for release in forms.attacker or (asked.release,)
        ]
        grid = settings(self.rates, self.variations, self.energies)
        fitted = tune(tune_key, asked, searchers, grid, self.tuned_on, context.emit)
        # What an unfinished autoencoder finds is kept, but on record as failed.
        return fitted._replace(failed=failed or forms.failed or fitted.failed, note=forms.note)

    def train(
        self, key: PRNGKey, module: Autoencoder, asked: Asked, on_event: OnEvent | None = None
    ) -> tuple[Any, str | None]:
        """The autoencoder's parameters, and why its training failed, if it did."""
        init_key, fit_key = jax.random.split(key)
        # The second use draws the code of an image that only shapes are taken from.
        params = initialise(module, init_key, asked.sample.image[:1], init_key)["params"]
        found = fit(
            fit_key,
            params,
            _Coding(module, self.batch_size),
            (asked.auxiliary, asked.validation),
            steps=self.prior_steps,
            optimizer=adam(self.learning_rate, self.prior_steps, 1.0),
            evaluate=_Coded(module),
            on_event=on_event,
        )
        return found.params, found.failed


@dataclasses.dataclass(frozen=True)
class _Coding:
    """Minus the evidence lower bound an element, on fresh images (Kingma & Welling 2014)."""

    module: Autoencoder
    batch_size: int

    def __call__(self, params: Any, data: tuple[Source, Batch], key: PRNGKey) -> Float[Array, ""]:
        draw_key, code_key = jax.random.split(key)
        return _bound(self.module, params, data[0].draw(draw_key, self.batch_size).image, code_key)


@dataclasses.dataclass(frozen=True)
class _Coded:
    """The same on ``validation``."""

    module: Autoencoder

    def __call__(self, params: Any, data: tuple[Source, Batch]) -> Float[Array, ""]:
        # The same draw at every look: they differ by the parameters alone.
        return _bound(self.module, params, data[1].image, jax.random.key(0))


def _bound(module: Autoencoder, params: Any, images: Images, key: PRNGKey) -> Float[Array, ""]:
    coded: Any = module.apply({"params": params}, images, key, train=True)
    error = jnp.square(coded.image - images).mean() / (2 * PIXEL_STDDEV**2)
    log_variance = 2 * coded.log_stddev
    divergence = 0.5 * (jnp.exp(log_variance) + coded.mean**2 - 1 - log_variance).sum(1).mean()
    # The error is a mean over elements, so the divergence counts by element too.
    return error + divergence / math.prod(images.shape[1:])


@dataclasses.dataclass(frozen=True)
class Codes:
    """Unknown codes of an autoencoder."""

    module: Autoencoder

    def paint(self, variables: Any, unknown: Float[Array, "n d"]) -> Images:
        """The picture of each code."""
        return _paint(self.module, variables, self.layer(variables, unknown))

    def layer(self, variables: Any, unknown: Float[Array, "n d"]) -> Float[Array, "n h w c"]:
        """The coarse layer of each code."""
        return self.module.apply({"params": variables}, unknown, method="layer")  # type: ignore[return-value]

    def allowed(self, unknown: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Any code."""
        return unknown

    def energy(self, unknown: Float[Array, "n d"], start: Float[Array, "n d"]) -> Float[Array, " n"]:
        """mean(w^2)."""
        del start
        return jnp.square(unknown).mean(1)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Unknown coarse layers of an autoencoder."""

    module: Autoencoder

    def paint(self, variables: Any, unknown: Float[Array, "n h w c"]) -> Images:
        """The picture of each layer."""
        return _paint(self.module, variables, unknown)

    def allowed(self, unknown: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Any layer."""
        return unknown

    def energy(self, unknown: Float[Array, "n h w c"], start: Float[Array, "n h w c"]) -> Float[Array, " n"]:
        """mean((l - start)^2)."""
        return drift(unknown, start)


def _paint(module: Autoencoder, params: Any, layer: Array) -> Images:
    return module.apply({"params": params}, layer, method="paint")  # type: ignore[return-value]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Searcher:
    """An attacker with a generative prior.

    Attributes:
        goal: the client, or what stands for it.
        params: of the autoencoder.
        guess: a fitted decoder whose guess, coded, is the first start; None for none.
        codes: (r, d), the other starts, the same for every image.
        setting: of both descents; numbers, or one number an image.
        steps: of Adam, half for each descent (static).
        module: the autoencoder (static).
    """

    goal: Goal
    params: Any
    guess: Any
    codes: Float[Array, "r d"]
    setting: Setting
    steps: int = dataclasses.field(metadata={"static": True})
    module: Autoencoder = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Images:
        """Reconstructions (n, h, w, c)."""
        return self.solve(key, z)[0]

    def solve(self, key: PRNGKey, z: Observed) -> tuple[Images, Bool[Array, " n"]]:
        """Reconstructions, and for which of them the objective stayed finite."""
        first = None if self.guess is None else _coded(self.module, self.params, self.guess(key, z))
        starts = shared(self.codes, z.shape[1], first)
        code_key, layer_key = jax.random.split(key)

        def one(starts: Array, z: Observed, setting: Setting) -> tuple[Images, Bool[Array, " n"]]:
            canvas, half = Codes(self.module), self.steps // 2
            coarse = descend(self.goal, canvas, self.params, starts, z, setting, half, code_key)
            layer = _layered(canvas, self.params, coarse.unknown)[None]
            fine = descend(self.goal, Layers(self.module), self.params, layer, z, setting, half, layer_key)
            return _drawn(self.module, self.params, fine.unknown), coarse.finite & fine.finite

        return by_parts(one, starts, z, self.setting)


# Out here and by module, not by attacker: fits that differ in their parameters share these programs.
_coded = jax.jit(lambda module, params, x: module.apply({"params": params}, x, method="code"), static_argnums=0)
_layered = jax.jit(lambda canvas, params, code: canvas.layer(params, code), static_argnums=0)
_drawn = jax.jit(_paint, static_argnums=0)
_painted = jax.jit(lambda module, params, code: Codes(module).paint(params, code), static_argnums=0)
