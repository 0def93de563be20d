import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward
from ani_jax.training.state import init
from ani_jax.training.step import make_step
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


NARROW = {"expansion": 4, "channels": 2, "dependence": "corrected"}


@pytest.mark.parametrize(
    ("defence", "options"),
    [
        pytest.param("none", {"backbone": "resnet", "depth": 3}, marks=pytest.mark.slow),
        ("none", {"backbone": "vgg"}),
        ("none", {"depth": 3}),
        *(pytest.param("funnel", {"backbone": name, **NARROW}, marks=pytest.mark.slow) for name in ("resnet", "vgg")),
    ],
)
def test_every_backbone_takes_a_finite_step(defence, options):
    defense = registry.build(defence, 3, (16, 16, 3), width=2, **options)
    state = init(defense, jax.random.key(0))
    batch = Batch(jax.random.uniform(jax.random.key(1), (4, 16, 16, 3)), jnp.array([0, 1, 2, 0]), {})
    after, metrics = jax.jit(make_step(defense, defense.phases[0]))(state, batch)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, metrics)))
    for party in ("client", "server"):
        # Not all: of an attention's one or two hidden units some start dead.
        moved = jax.tree.map(lambda a, b: float((a != b).any()), state.params[party], after.params[party])
        assert np.mean(jax.tree.leaves(moved)) > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "mlp"}, "backbone=mlp: must be one of cnn, resnet, vgg"),
        ({"depth": 4}, "depth=4: must be 1 to 3 for cnn"),
        ({"depth": 0}, "depth=0: must be 1 to 3 for cnn"),
        (
            {"backbone": "vgg", "depth": 4, "image_shape": (24, 24, 3)},
            "depth=4: must be less, for images whose sides 16",
        ),
    ],
)
def test_cuts_that_are_not_there_are_refused(options, message):
    shape = options.pop("image_shape", (32, 32, 3))
    with pytest.raises(ValueError, match=message):
        registry.build("none", 3, shape, **options)
