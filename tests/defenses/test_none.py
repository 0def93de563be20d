import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward
from ani_jax.training.state import init
from ani_jax.types import Batch


def test_loss_is_cross_entropy():
    defense = registry.build("none", 3, (16, 16, 3))
    forward = Forward(jnp.zeros((2, 4)), {}, jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])), {})
    batch = Batch(jnp.zeros((2, 16, 16, 3)), jnp.array([0, 2]), {})
    loss = defense.client_loss(forward, batch)
    assert list(loss) == ["task"]
    assert float(loss["task"]) == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, rel=1e-5)


def test_client_has_the_published_size_at_64_pixels():
    params = init(registry.build("none", 10, (64, 64, 3)), jax.random.key(0)).params["client"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 76_032
