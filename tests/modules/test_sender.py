"""What a sender sends: unit variance, its noise, its grid, and a density that is what it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

from ani_jax.modules.edge import SplitEdge
from ani_jax.modules.sender import EDGE, Sender, sent_log_prob
from ani_jax.types import Sent

X = jax.random.uniform(jax.random.key(0), (256, 8, 8, 3))


def sender(noise=0.0, bits=0):
    module = Sender(SplitEdge(2), noise, bits)
    variables = module.init(jax.random.key(1), X, jax.random.key(2), train=True)
    # Running statistics from many looks at the same images.
    for _ in range(120):
        _, found = module.apply(variables, X, jax.random.key(3), train=True, mutable=["batch_stats"])
        variables = {**variables, **found}
    return module, variables


def test_every_feature_has_unit_variance_and_the_noise_adds_to_it():
    module, variables = sender(noise=0.5)
    mean = module.apply(variables, X, method="mean")
    alive = np.asarray(mean).std(0) > 0
    np.testing.assert_allclose(np.asarray(mean).std(0)[alive], 1, atol=0.03)
    np.testing.assert_allclose(np.asarray(mean).mean(0), 0, atol=0.03)
    noise = module.apply(variables, X, jax.random.key(4), train=False).z - mean
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    # Every image has noise of its own.
    assert abs(np.corrcoef(np.asarray(noise).reshape(len(X), -1)[:2])[0, 1]) < 0.9
    np.testing.assert_array_equal(module.apply(variables, X, method="stddev"), 0.5)


def test_scaling_the_encoder_buys_nothing():
    module, variables = sender(noise=0.5)
    kernel = variables["params"]["encoder"]["block_1"]["norm"]
    louder = jax.tree.map(lambda leaf: leaf, variables)
    louder["params"]["encoder"]["block_1"]["norm"] = jax.tree.map(lambda leaf: 1e3 * leaf, kernel)
    options = {"train": True, "mutable": ["batch_stats"]}
    (one, _), (other, _) = (module.apply(some, X, jax.random.key(5), **options) for some in (variables, louder))
    np.testing.assert_allclose(one.z, other.z, atol=2e-3)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_grid_has_so_many_values_and_hides_no_gradient(noise):
    module, variables = sender(noise, bits=3)
    z = module.apply(variables, X, jax.random.key(4), train=False).z
    values = np.unique(np.asarray(z).round(4))
    assert len(values) <= 8
    assert abs(values).max() <= module.edge + 1e-4
    np.testing.assert_allclose(
        (values + module.edge) / module.step, np.round((values + module.edge) / module.step), atol=1e-3
    )

    gradient = jax.grad(lambda x: module.apply(variables, x, jax.random.key(4), train=False).z.sum())(X)
    plain = jax.grad(lambda x: Sender(SplitEdge(2), noise).apply(variables, x, jax.random.key(4), train=False).z.sum())(
        X
    )
    np.testing.assert_allclose(gradient, plain, atol=1e-5)


def test_the_declared_density_is_that_of_what_is_sent():
    module, variables = sender(noise=0.7)
    mean = module.apply(variables, X, method="mean")
    z = module.apply(variables, X, jax.random.key(6), train=False).z
    expected = scipy.stats.norm.logpdf(np.asarray(z, np.float64), np.asarray(mean), 0.7).reshape(len(X), -1).sum(1)
    inside = (abs(np.asarray(z)) < module.edge).reshape(len(X), -1).all(1)
    found = np.asarray(module.apply(variables, z, X, method="log_prob"))
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-4, atol=1e-3)


class One(nn.Module):
    """Sends its input."""

    @nn.compact
    def __call__(self, x, key, *, train):
        return Sent(x, {})


@pytest.mark.parametrize(("noise", "bits"), [(0.5, 2), (0.05, 4), (2.0, 3)])
@pytest.mark.parametrize("value", [-3.0, 0.3, 1.7])
def test_values_of_the_grid_come_as_often_as_declared(noise, bits, value):
    module, many = Sender(One(), noise, bits), 20_000
    grid = jnp.linspace(-module.edge, module.edge, 2**bits).reshape(-1, 1, 1, 1)
    variables = module.init(jax.random.key(0), grid, jax.random.key(1), train=False)
    mass = np.exp(module.apply(variables, grid, jnp.full_like(grid, value), method="log_prob"))
    drawn = module.apply(variables, jnp.full((many, 1, 1, 1), value), jax.random.key(2), train=False).z
    share = (jnp.abs(drawn.reshape(-1, 1) - grid.reshape(1, -1)) < 1e-3).mean(0)
    assert mass.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(share, mass, atol=4 / np.sqrt(many))


@pytest.mark.parametrize("stddev", [0.002, 0.03, 0.0313, 1.0, 10.0, 1000.0])
def test_the_mass_of_values_is_right_however_fine_the_grid(stddev):
    step, random = 1 / 256, np.random.default_rng(0)
    mean = random.random(3072).astype(np.float32)
    z = (np.round((mean + stddev * random.standard_normal(3072)) / step) * step).astype(np.float32)
    low, high = ((z.astype(np.float64) - mean + offset) / stddev for offset in (-step / 2, step / 2))
    # In whichever tail both ends lie.
    expected = np.log(
        np.where(
            low > 0,
            scipy.stats.norm.sf(low) - scipy.stats.norm.sf(high),
            np.diff(scipy.stats.norm.cdf([low, high]), axis=0)[0],
        )
    )
    found = np.asarray(sent_log_prob(jnp.asarray(z), jnp.asarray(mean), stddev, step, (-1e6, 1e6)), np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found.sum() == pytest.approx(expected.sum(), abs=0.05)


def test_what_is_declared_follows_from_what_is_done():
    assert Sender(SplitEdge(2)).declares == ()
    assert Sender(SplitEdge(2), bits=4).declares == ("capacity",)
    assert Sender(SplitEdge(2), 0.5, 4).declares == ("given", "mean", "log_prob", "capacity")
    assert Sender(SplitEdge(2), 0.5).declares == ("given", "mean", "log_prob", "capacity", "stddev")
    # Noise on a fine grid is as good as Gaussian.
    assert Sender(SplitEdge(2), 0.5, 8).declares == ("given", "mean", "log_prob", "capacity", "stddev")


def test_what_is_certain_holds_however_loud_an_image_is():
    assert Sender(One(), bits=3).capacity(10) == pytest.approx(10 * np.log(8))
    assert Sender(One(), 2.0, 8).capacity(10) == pytest.approx(5 * np.log(1 + EDGE**2 / 4))
    assert Sender(One(), 0.5, 1).capacity(10) == pytest.approx(10 * np.log(2))
    loud = jnp.array([-1e6, -1.0, 1e6]).reshape(3, 1, 1, 1)
    variables = Sender(One(), 1.0).init(jax.random.key(0), loud, jax.random.key(1), train=False)
    known = np.clip(loud / np.sqrt(1 + 1e-5), -EDGE, EDGE)
    np.testing.assert_allclose(Sender(One(), 1.0).apply(variables, loud, method="mean"), known, rtol=1e-5)
    # Without noise nothing is certain of what is clipped, so nothing is.
    assert (
        float(jnp.abs(Sender(One()).apply(variables, loud, jax.random.key(1), train=False).z).max())
        == Sender(One()).edge
    )


def test_memoised_noise_is_the_images_own_out_of_training():
    module, variables = sender(0.5, 8)
    module = module.clone(memoised=True)
    key, other = jax.random.key(4), jax.random.key(5)
    z = module.apply(variables, X, key, train=False).z
    np.testing.assert_array_equal(module.apply(variables, X[7:9], key, train=False).z, z[7:9])
    noise, elsewhere = (
        module.apply(variables, X, one, train=False).z - module.apply(variables, X, method="mean")
        for one in (key, other)
    )
    # As much of it as of the noise that is drawn anew, and another device's is another.
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert abs(np.corrcoef(np.ravel(noise), np.ravel(elsewhere))[0, 1]) < 0.05
    same = jnp.repeat(X[:1], len(X), 0)
    assert len(np.unique(np.asarray(module.apply(variables, same, key, train=False).z), axis=0)) == 1
    trained, _ = module.apply(variables, same, key, train=True, mutable=["batch_stats"])
    assert len(np.unique(np.asarray(trained.z), axis=0)) > 1
