"""A toy problem that audits take a second for: two shades, on one of two sides, half of the pixels noise."""

import jax
import jax.numpy as jnp
import pytest

from ani_jax.types import Batch, Data, Source, Task, fixed


def toy_batch(key, count, side=8):
    keys = jax.random.split(key, 3)
    label, where = (jax.random.randint(one, (count,), 0, 2) for one in keys[:2])
    image = 0.1 * jax.random.uniform(keys[2], (count, side, side, 1)) + 0.4 * label[:, None, None, None]
    half = jnp.arange(side)[None, None, :, None] < side // 2
    lit = jnp.where(where[:, None, None, None] == 1, half, ~half)
    return Batch(image + 0.4 * lit, label, {"side": where})


@pytest.fixture(scope="session")
def toy():
    parts = [toy_batch(jax.random.key(i), count) for i, count in enumerate((200, 64, 256, 128, 200))]
    defend, holdout, auxiliary, validation, test = parts
    tasks = Task("shade", ("dark", "light")), (Task("side", ("left", "right")),)
    return Data(Source(defend, fixed), holdout, Source(auxiliary, fixed), validation, test, "toy", *tasks)


@pytest.fixture(scope="session")
def answer():
    """The provider's network for a client that sends the image."""

    def predict(z):
        light = z.reshape(len(z), -1).mean(1) > 0.45
        return jnp.stack([1 - light, light], axis=1).astype(jnp.float32)

    return predict
