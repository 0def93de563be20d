"""Components are the leading ones, and pairs of a class are drawn together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses.base import Forward
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.sender import CLEAN
from ani_jax.training.state import init
from ani_jax.types import Batch
from tests.defenses import baselines


@pytest.mark.slow
def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("siamese", options)
        for options in ({"contrastive": 1e-3, "components": 6}, {"contrastive": 30.0, "components": 6})
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("siamese", "contrastive") == {"client/encoder"}


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("siamese")


def test_pairs_of_a_class_are_drawn_together_and_others_apart():
    defense = baselines.built("siamese", components=2)
    batch = Batch(jnp.zeros((3, 8, 8, 3)), jnp.array([0, 0, 1]), {})
    clean = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    terms = defense.client_loss(Forward(clean, {CLEAN: clean}, jnp.zeros((3, 2)), {}, {}), batch)
    # Distances are 1 within the class and 1/2 twice beyond it, each pair counted from both ends.
    assert float(terms["contrastive"]) == pytest.approx((2 * 1 + 4 * 0.25) / 6, rel=1e-4)
    assert float(terms["task"]) == pytest.approx(float(cross_entropy(jnp.zeros((3, 2)), batch.label).mean()))


def test_components_are_the_leading_ones_and_the_server_begins_with_their_inverse():
    defense = baselines.built("siamese", components=4)
    state = defense.prepare(init(defense, jax.random.key(0)), baselines.data())
    features = np.asarray(defense.features(state, baselines.pictures().image)).reshape(baselines.ROWS, -1)
    drawn = np.asarray(state.statistics["client"]["directions"])
    kernel = np.asarray(state.params["server"]["expand"]["kernel"])
    np.testing.assert_allclose(drawn.T @ kernel.T, np.eye(4), atol=1e-4)
    back = (features - features.mean(0)) @ drawn @ kernel
    values = np.linalg.svd(features - features.mean(0))[1] ** 2
    lost = np.square(features - features.mean(0) - back).sum() / values.sum()
    assert lost == pytest.approx(values[4:].sum() / values.sum(), abs=0.02)
