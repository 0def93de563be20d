import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.defenses.ani import GAIN, NETWORKS, NOISES, QUIET, SCALES, SHIFTS, NoiseInjector

X = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
KEY = jax.random.key(1)


def injector(rho=0.0, shift=0.0, **options):
    """An injector whose maps are learned constants, so that its noise is known."""
    module = NoiseInjector(shift="global", scale="global", **{"stddev_max": 2.0, **options})
    full = jnp.full(X.shape[1:], 1.0)
    return module, {"params": {"rho": (rho - QUIET) / GAIN * full, "shift": shift / GAIN * full}}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("noise", NOISES)
def test_starts_as_an_almost_clean_image(network, noise):
    module = NoiseInjector(network=network, noise=noise, stddev_max=1.0)
    variables = module.init(KEY, X, KEY, train=False)
    z = module.apply(variables, X, KEY, train=False).z
    assert z.shape == X.shape
    assert float(jnp.abs(z - X).max()) < 0.02


@pytest.mark.parametrize("noise", NOISES)
def test_the_scale_of_the_noise_is_the_declared_one_in_both_directions(noise):
    module, variables = injector(noise=noise)
    x = jnp.full((1, 8, 8, 3), 0.5)
    z = jax.vmap(lambda key: module.apply(variables, x, key, train=False).z)(jax.random.split(KEY, 60)).ravel()
    declared = module.apply(variables, x, train=False, method="describe").scale.mean()
    spread = float(declared) / (12**0.5 if noise == "masking_uniform" else 1)
    # 11,520 draws: the stddev's own relative error is below 1%.
    assert float(z.std()) == pytest.approx(spread, rel=0.03)
    assert float(z.std()) != pytest.approx(spread * 2 / 3, rel=0.2)
    assert float(z.std()) != pytest.approx(spread * 3 / 2, rel=0.2)
    assert float(z.mean()) == pytest.approx(0.5, abs=0.05)


def test_closed_forms_of_the_three_kinds():
    centre = np.clip(np.asarray(X) + np.tanh(0.3), 0, 1)
    share = 1 / (1 + np.exp(-0.4))
    for noise, location, scale in (
        ("additive", centre, 1e-3 + (2 - 1e-3) * share),
        ("masking", (1 - share) * centre + share / 2, 2 * share),
        ("masking_uniform", (1 - share) * centre + share / 2, share),
    ):
        module, variables = injector(0.4, 0.3, noise=noise)
        found = module.apply(variables, X, train=False, method="describe")
        np.testing.assert_allclose(found.location, location, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.scale, np.full(X.shape, scale), rtol=1e-5)
        np.testing.assert_allclose(module.apply(variables, X, method="mean"), location, rtol=1e-5, atol=1e-6)


def test_every_element_of_every_image_has_noise_of_its_own():
    module, variables = injector()
    same = jnp.broadcast_to(X[:1], X.shape)
    z = module.apply(variables, same, KEY, train=False).z
    assert len(np.unique(np.asarray(z))) == z.size


@pytest.mark.parametrize("noise", NOISES)
def test_the_released_range_is_kept_whatever_comes_in(noise):
    module, variables = injector(50.0, 50.0, noise=noise)
    wild = jnp.full((64, 8, 8, 3), 1e6)
    low, high = module.released_range
    z = module.apply(variables, wild, KEY, train=False).z
    assert float(z.min()) >= low
    assert float(z.max()) <= high
    assert (low, high) == ((0, 1) if noise == "masking_uniform" else (-8, 9))


def test_log_prob_is_the_gaussian_density():
    module, variables = injector(0.4, 0.1)
    z = module.apply(variables, X, KEY, train=False).z
    noise = module.apply(variables, X, train=False, method="describe")
    expected = scipy.stats.norm.logpdf(np.asarray(z), noise.location, noise.scale).reshape(len(z), -1).sum(1)
    np.testing.assert_allclose(module.apply(variables, z, X, method="log_prob"), expected, rtol=1e-4)


def test_log_prob_of_a_clipped_element_is_the_mass_beyond_the_bound():
    module, variables = injector(50.0)
    low, _ = module.released_range
    x = jnp.full((1, 8, 8, 3), 0.5)
    found = module.apply(variables, jnp.full(x.shape, low), x, method="log_prob")
    assert float(found[0]) / x.size == pytest.approx(scipy.stats.norm.logcdf((low - 0.5) / 2.0), rel=1e-3)


def test_log_prob_of_uniform_noise_is_minus_its_log_width_inside_and_impossible_outside():
    module, variables = injector(0.0, noise="masking_uniform")
    z = module.apply(variables, X, KEY, train=False).z
    inside = module.apply(variables, z, X, method="log_prob")
    np.testing.assert_allclose(inside, np.full(4, -np.log(0.5) * X[0].size), rtol=1e-5)
    assert float(module.apply(variables, jnp.ones_like(X), jnp.zeros_like(X), method="log_prob")[0]) == -np.inf


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("scale", SCALES)
def test_a_switch_decides_what_depends_on_the_input(shift, scale):
    module = NoiseInjector(shift=shift, scale=scale)
    variables = module.init(KEY, X, KEY, train=False)
    # The heads start at zero; give every parameter a value so that dependence shows.
    leaves, tree = jax.tree.flatten(variables["params"])
    leaves = [0.3 * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape) for i, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(tree, leaves)
    found = module.apply({**variables, "params": params}, X, train=False, method="describe")
    moved = np.asarray(found.location - X)
    assert bool(np.ptp(np.asarray(found.scale), axis=0).max() > 0) is (scale == "input")
    assert bool(np.abs(moved).max() > 0) is (shift != "off")


def test_the_noise_share_gets_a_gradient_from_the_start():
    module = NoiseInjector()
    variables = module.init(KEY, X, KEY, train=False)

    def reward(params):
        return jnp.log(module.apply({**variables, "params": params}, X, KEY, train=False).aux["amount"]).mean()

    gradient = jax.grad(reward)(variables["params"])["rho"]["bias"]
    assert float(jnp.abs(gradient).min()) > 0


@pytest.mark.parametrize("name", ["network", "noise", "shift", "scale"])
def test_an_unknown_mode_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: 'loud'; allowed: "):
        NoiseInjector(**{name: "loud"}).init(KEY, X, KEY, train=False)


def test_memoised_noise_is_the_images_own_on_a_fine_grid():
    module, variables = injector(memoised=True)
    x = jnp.repeat(X[:1], 8, 0).at[0, 0, 0, 0].add(0.1)
    z = module.apply(variables, x, KEY, train=False).z
    assert len(np.unique(np.asarray(z), axis=0)) == 2
    np.testing.assert_array_equal(np.asarray(z) * 256, np.round(np.asarray(z) * 256))
    # In training every image of a batch has other noise, and so it has on another device.
    assert len(np.unique(np.asarray(module.apply(variables, x, KEY, train=True).z), axis=0)) == 8
    other = module.apply(variables, x, jax.random.key(2), train=False).z
    assert float((other == z).mean()) < 0.05
    declared = module.apply(variables, X, train=False, method="describe")
    quiet = module.apply(injector(-50.0, memoised=True)[1], X, train=False, method="describe").scale
    np.testing.assert_allclose(quiet, 1 / 32, rtol=1e-5)
    # The density is the mass of the grid's values, a 256th of the Gaussian density where the noise is wide.
    z = module.apply(variables, X, KEY, train=False).z
    expected = scipy.stats.norm.logpdf(z, declared.location, declared.scale) - np.log(256)
    found = module.apply(variables, z, X, method="log_prob")
    np.testing.assert_allclose(found, expected.reshape(len(X), -1).sum(1), rtol=1e-4)
