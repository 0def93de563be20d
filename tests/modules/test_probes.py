"""What adversaries hear, and the classifiers that vote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.probes import (
    ChannelVotes,
    Heard,
    LinearClassifier,
    LocalDecoder,
    PositionVotes,
    decorrelate,
    standardise,
)


def mixed(key, scale=1e-2):
    """Four channels that nearly agree: what tells them apart is a hundredth of what they share."""
    shared, own = jax.random.normal(key, (64, 3, 3, 1)), jax.random.normal(jax.random.fold_in(key, 1), (64, 3, 3, 4))
    return 5 + 0.1 * (shared + scale * own)


def test_standardise_gives_unit_variance_and_leaves_dead_features_dead(key):
    z = jax.random.normal(key, (64, 5)) * jnp.array([[1.0, 1.0, 2.0, 0.5, 0.0]]) + 3
    scaled = standardise(z)
    np.testing.assert_allclose(scaled.std(0)[:4], 1, atol=0.01)
    assert (scaled[:, 4] == 0).all()


def test_decorrelate_gives_uncorrelated_channels_of_unit_variance(key):
    u = np.asarray(decorrelate(mixed(key), ridge=1e-6)).reshape(-1, 4)
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(4), atol=0.05)
    plain = np.asarray(standardise(mixed(key))).reshape(-1, 4)
    assert (np.corrcoef(plain.T) > 0.99).all()


def test_decorrelate_is_the_symmetric_root_of_the_inverse_covariance(key):
    z = jax.random.normal(key, (128, 2, 2, 3)) @ jnp.array([[1.0, 0.4, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    u = np.asarray(standardise(z), np.float64).reshape(-1, 3)
    values, vectors = np.linalg.eigh(u.T @ u / len(u) + 1e-4 * np.eye(3))
    expected = u @ (vectors / np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(np.asarray(decorrelate(z)).reshape(-1, 3), expected, atol=2e-3)


def test_directions_below_the_ridge_stay_small(key):
    quiet = decorrelate(mixed(key, scale=1e-4), ridge=1e-2).reshape(-1, 4)
    values = np.linalg.eigvalsh(np.cov(np.asarray(quiet).T))
    assert (values[:3] < 0.01).all()
    assert values[3] > 0.8


@pytest.mark.parametrize("shape", [(8, 3, 3, 4), (8, 6)])
@pytest.mark.parametrize("listen", [standardise, decorrelate])
def test_gradients_are_finite_where_nothing_varies(listen, shape):
    gradient = jax.grad(lambda z: (listen(z) ** 3).sum())(jnp.ones(shape))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("decorrelated", [False, True])
def test_what_is_heard_does_not_depend_on_scale_or_offset(decorrelated, key):
    z = mixed(key, scale=1.0)
    module = Heard(PositionVotes(3, 4), decorrelated)
    variables = module.init(key, z)
    assert set(variables) == {"params"}
    loud, quiet = module.apply(variables, z), module.apply(variables, 1e-2 * (z - 5))
    np.testing.assert_allclose(loud, quiet, atol=2e-2 * float(jnp.abs(loud).max()))


@pytest.mark.parametrize("decorrelated", [False, True])
def test_batches_over_an_axis_count_as_one(decorrelated, key):
    z = mixed(key, scale=1.0)
    one = Heard(LinearClassifier(2), decorrelated)
    many = Heard(LinearClassifier(2), decorrelated, "devices")
    variables = jax.tree.map(lambda p: p + 0.1, one.init(key, z))
    halves = jax.vmap(lambda z: many.apply(variables, z), axis_name="devices")(z.reshape(2, 32, 3, 3, 4))
    np.testing.assert_allclose(halves.reshape(64, 2), one.apply(variables, z), atol=1e-3)


def test_a_position_hears_itself_alone(key):
    z = jax.random.normal(key, (2, 3, 3, 5))
    module = PositionVotes(4, 8)
    variables = module.init(key, z)
    before, after = (module.apply(variables, x) for x in (z, z.at[:, 0, 1].add(1.0)))
    changed = jnp.abs(before - after).max((0, 2)) > 1e-6
    assert changed.tolist() == [False, True] + [False] * 7


def test_a_channel_hears_itself_alone(key):
    z = jax.random.normal(key, (2, 3, 3, 5))
    module = ChannelVotes(4)
    variables = jax.tree.map(lambda p: p + 0.1, module.init(key, z))
    before, after = (module.apply(variables, x) for x in (z, z.at[..., 3].add(1.0)))
    changed = jnp.abs(before - after).max((0, 2)) > 1e-6
    assert changed.tolist() == [False, False, False, True, False]
    assert set(jax.tree.map(jnp.shape, variables)["params"]) == {"kernel", "bias"}


@pytest.mark.parametrize(
    ("module", "voters"), [(PositionVotes(4, 8), (1,)), (ChannelVotes(4), (6,)), (LinearClassifier(4), ())]
)
def test_flat_features(module, voters, key):
    assert jax.eval_shape(module.init_with_output, key, jnp.ones((2, 6)))[0].shape == (2, *voters, 4)


def test_features_of_another_rank_are_refused(key):
    with pytest.raises(ValueError, match="z: shape"):
        PositionVotes(4).init(key, jnp.ones((2, 3, 4)))


def test_a_local_decoder_paints_from_its_surroundings(key):
    decoder, z = LocalDecoder((16, 16, 3), 8), jax.random.normal(key, (2, 4, 4, 5))
    y, variables = decoder.init_with_output(key, z)
    np.testing.assert_array_equal(y, 0.5)
    loud = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), variables)
    moved = jnp.abs(decoder.apply(loud, z.at[:, 0, 0].add(1)) - decoder.apply(loud, z)).max((0, 3))
    assert float(moved[:8, :8].min()) > 0
    np.testing.assert_array_equal(moved[8:], 0)
    np.testing.assert_array_equal(moved[:, 8:], 0)


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 4, 3, 3), (2, 12)])
def test_a_local_decoder_needs_a_grid_that_divides_the_image(shape, key):
    with pytest.raises(ValueError, match="must be"):
        LocalDecoder((16, 16, 3)).init(key, jnp.zeros(shape))
