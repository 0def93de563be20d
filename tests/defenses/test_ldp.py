"""What is proved is what the mechanism's theorem says, and holds for every image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ani_jax.defenses import registry
from ani_jax.defenses.base import freeze
from ani_jax.defenses.ldp import accuracy_cap
from ani_jax.training.state import init
from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (baselines.told("ldp", options) for options in ({"epsilon": 1000.0}, {"epsilon": 1.0}))
    assert strong < weak - 0.01


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("ldp")


def test_proved_numbers_are_those_of_the_mechanism():
    defense = baselines.built("ldp", epsilon=2.0, delta=1e-3)
    # Balle and Wang, theorem 8, at the deviation in units of the sensitivity.
    scale = defense.stddev / 2

    def delta(epsilon, scale):
        tail = stats.norm.cdf(0.5 / scale - epsilon * scale)
        return tail - np.exp(epsilon) * stats.norm.cdf(-0.5 / scale - epsilon * scale)

    assert delta(2.0, scale) == pytest.approx(1e-3, rel=1e-3)
    (said,) = defense.proved
    often = float(said.split("one image (")[1].split(",")[0])
    assert delta(often, scale / 8) == pytest.approx(1e-3, rel=0.02)
    assert f"{accuracy_cap(2.0, 1e-3, 2):.1%}" in said
    # Randomised response of K answers keeps the truth with this probability, and attains the cap.
    for epsilon, classes in ((0.5, 2), (1.0, 4), (3.0, 10)):
        kept = np.exp(epsilon) / (np.exp(epsilon) + classes - 1)
        assert accuracy_cap(epsilon, 0.0, classes) == pytest.approx(kept)
    assert accuracy_cap(1000.0, 1e-5, 10) == 1.0


def test_clipped_features_are_within_the_ball_whatever_the_image():
    defense = baselines.built("ldp")
    state = init(defense, jax.random.key(0))
    release, _ = freeze(defense, state.params, state.statistics)
    extremes = jnp.concatenate([baselines.pictures().image, 100 * baselines.pictures().image, jnp.zeros((1, 8, 8, 3))])
    norms = jnp.linalg.norm(release.mean(release.variables, extremes).reshape(len(extremes), -1), axis=1)
    assert float(norms.max()) <= 1 + 1e-5


def test_what_it_needs_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"defense=ldp: must be with dp_accounting: pip install 'ani-jax\[dp\]'"):
        registry.build("ldp")
