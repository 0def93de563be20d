import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ani_jax.attacks.base import Standardiser
from ani_jax.attacks.views import VIEWS, Contrast, Decorrelated, Joined, Pooled, Ranked, Sorted


@pytest.fixture(scope="module")
def z():
    keys = jax.random.split(jax.random.key(0), 2)
    mixed = jax.random.normal(keys[0], (500, 18)) @ jax.random.normal(keys[1], (18, 18))
    return mixed.reshape(500, 3, 3, 2)


def test_ranks_are_normal_whatever_the_features_are(z):
    scores = np.asarray(Ranked.of(z)(z))
    np.testing.assert_allclose(Ranked.of(jnp.exp(3 * z))(jnp.exp(3 * z)), scores, atol=0.4)
    for column in scores.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert np.array_equal(np.argsort(scores[:, 0]), np.argsort(np.asarray(z).reshape(500, -1)[:, 0]))


def test_a_feature_that_is_mostly_zero_has_one_score_for_it():
    rare = jnp.where(jnp.arange(200) < 190, 0.0, jnp.arange(200) - 180.0)[:, None]
    scores = np.asarray(Ranked.of(rare)(rare))[:, 0]
    assert len(np.unique(scores[:190])) == 1
    assert (np.diff(scores[190:]) > 0).all()
    assert scores[190] > scores[0] + 1
    assert np.isfinite(np.asarray(Ranked.of(jnp.ones((9, 1)))(jnp.array([[0.0], [1.0], [2.0]])))).all()


def test_decorrelated_features_are_white_and_a_constant_stays_silent(z):
    view = np.asarray(Decorrelated.of(z)(z))
    np.testing.assert_allclose(np.cov(view.T), np.eye(18), atol=0.02)
    twice = jnp.concatenate([z, z, jnp.ones_like(z)], axis=-1)
    copied = np.asarray(Decorrelated.of(twice)(twice))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(copied.T))[-18:], 1, atol=0.02)
    assert np.abs(np.linalg.eigvalsh(np.cov(copied.T))[:-18]).max() < 1e-3


def test_decorrelated_is_the_same_view_where_features_outnumber_rows():
    z = jax.random.normal(jax.random.key(3), (20, 50)) * jnp.linspace(0.1, 3, 50)[None]
    own = np.asarray(Standardiser.of(z)(z), np.float64)
    values, vectors = np.linalg.eigh(own.T @ own / 20)
    rate = np.where(values > 1e-7 * values.max(), 1 / np.sqrt(np.maximum(values, 0) + 1e-6 * values.mean()), 0)
    np.testing.assert_allclose(Decorrelated.of(z)(z), own @ (vectors * rate) @ vectors.T, atol=2e-4)


def test_contrasts_do_not_hear_what_neighbours_share():
    keys = jax.random.split(jax.random.key(0), 2)
    z = jax.random.normal(keys[0], (200, 8, 12, 2))
    noise = 100.0 * jnp.repeat(jnp.repeat(jax.random.normal(keys[1], (200, 2, 3, 2)), 4, 1), 4, 2)
    view = Contrast.of(z)
    assert view(z).shape == (200, 192)
    np.testing.assert_allclose(view(z + noise), view(z), atol=1e-3)
    np.testing.assert_allclose(view(z).std(0), 1, rtol=1e-4)
    # Sides that have no squares of four are one square.
    whole = np.asarray(z[:, :6, :5])
    found = np.asarray(Contrast.of(whole)(whole))
    expected = whole - whole.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(found, Standardiser.of(expected)(expected).reshape(200, -1), atol=1e-4)
    vector = z.reshape(200, -1)
    np.testing.assert_allclose(Contrast.of(vector)(vector), Standardiser.of(vector)(vector), atol=1e-5)


def test_order_over_positions_does_not_matter_to_what_is_sorted_or_pooled(z):
    moved = z[:, ::-1, ::-1]
    for kind in (Sorted, Pooled):
        np.testing.assert_allclose(kind.of(z)(moved), kind.of(z)(z), atol=1e-6)
    channel = np.asarray(z).reshape(500, 9, 2)
    odd = jnp.array([3.0, -0.5, 0.0, -jnp.inf, 1e-30, -2e8, jnp.inf, -1e-30])[None]
    np.testing.assert_array_equal(Sorted()(odd), np.sort(odd))
    np.testing.assert_array_equal(Sorted()(z), np.sort(channel, axis=1).reshape(500, -1))
    np.testing.assert_allclose(Pooled.of(z)(z)[:, :2], channel.mean(1), atol=1e-6)
    np.testing.assert_allclose(Pooled.of(z)(z)[:, -2:], channel.max(1), atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 5), (40, 2, 2, 3)])
def test_joined_views_lie_beside_each_other(shape):
    z = jax.random.normal(jax.random.key(1), shape)
    view, alone = Joined.of(z, tuple(VIEWS)), [VIEWS[name](z)(z) for name in VIEWS]
    np.testing.assert_allclose(view.rows(z), np.concatenate(alone, axis=1), atol=2e-5)
    assert view.rows(z).shape[0] == 40


def test_the_providers_logits_stand_beside_a_view(z):
    standardised = VIEWS["standardised"](z)
    view = Joined.of(z, ("standardised",), jax.tree_util.Partial(lambda z: 1e3 + 5 * z.reshape(len(z), -1)[:, :2]))
    told = np.asarray(view(z))
    np.testing.assert_array_equal(told[:, :-2], standardised(z))
    np.testing.assert_allclose(told[:, -2:], told[:, :2], atol=1e-3)
