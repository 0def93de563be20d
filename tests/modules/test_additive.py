"""Noise beside images and features: of which size, and beside which size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.additive import FAMILIES, Additive
from ani_jax.modules.edge import SplitEdge


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_sent_with_noise_of_the_deviation_asked_for(family):
    x = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3))
    module = Additive(None, 0.3, family)
    z = module.apply({}, x, jax.random.key(1), train=False).z
    assert float((z - x).std()) == pytest.approx(0.3, rel=0.03)
    assert "stddev" not in module.declares or family == "gaussian"


def test_features_are_at_unit_variance_or_within_a_ball_however_loud_they_are():
    x = 50 * jax.random.uniform(jax.random.key(0), (256, 8, 8, 3))
    for bounded in (False, True):
        module = Additive(SplitEdge(2), 0.5, bounded=bounded)
        (sent, _), variables = module.init_with_output(jax.random.key(0), x, jax.random.key(1), train=True)
        clean, _ = module.apply(variables, x, train=True, method="clean", mutable=["batch_stats"])
        flat = np.asarray(clean).reshape(256, -1)
        if bounded:
            norms = np.linalg.norm(flat, axis=1)
            assert norms.max() == pytest.approx(1, abs=1e-5)
        else:
            alive = flat.std(0) > 1e-3
            np.testing.assert_allclose(flat.std(0)[alive], 1, atol=0.02)
        assert float((sent - clean).std()) == pytest.approx(0.5, rel=0.05)


def test_what_is_certain_needs_a_range():
    ball, image = Additive(SplitEdge(2), 0.5, bounded=True), Additive(None, 0.5)
    assert all("capacity" in one.declares for one in (ball, image))
    # Features of unit variance may lie anywhere; Laplace noise has another capacity.
    assert not any("capacity" in one.declares for one in (Additive(SplitEdge(2), 0.5), Additive(None, 0.5, "laplace")))
    # However many elements share it, a ball has no more power than 1.
    assert ball.capacity(10**6) == pytest.approx(1 / (2 * 0.25), rel=1e-4)
    assert image.capacity(3) == pytest.approx(1.5 * np.log(2))


def test_a_gradient_at_silent_features_is_finite():
    x, module = jnp.zeros((2, 8, 8, 3)), Additive(SplitEdge(2), 0.5, bounded=True)
    variables = module.init(jax.random.key(0), x, jax.random.key(1), train=False)
    slope = jax.grad(lambda x: module.apply(variables, x, train=False, method="clean").sum())(x)
    assert jnp.isfinite(slope).all()
