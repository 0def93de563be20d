"""What is left out is left out, what is sent is sent unchanged."""

import jax
import numpy as np
import pytest

from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("dropout", options) for options in ({"keep_probability": 1.0}, {"keep_probability": 0.1})
    )
    assert strong < weak - 0.01


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("dropout")


def test_it_sends_what_it_sends_unchanged_and_k_queries_say_all():
    release, x = baselines.untrained(baselines.built("dropout", keep_probability=0.25)), baselines.pictures().image[:4]
    mean = release.mean(release.variables, x)
    draws = np.stack([release(x, jax.random.key(k)) for k in range(40)])
    union = np.abs(draws).max(0) * np.sign(draws.sum(0))
    np.testing.assert_allclose(union, mean / 0.25, rtol=1e-5, atol=1e-6)
    sent = (draws != 0)[:, np.asarray(mean) != 0].mean()
    assert sent == pytest.approx(0.25, abs=0.03)
