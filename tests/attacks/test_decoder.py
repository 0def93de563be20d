import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from ani_jax.attacks import base, decoder, query
from ani_jax.modules.adversaries import ResidualDecoder
from ani_jax.types import Batch, Knowledge, Source, fixed

SIDE = 4


def gaussian(key, count):
    """Images around 0.5 whose covariance falls off from direction to direction; hardly ever outside [0, 1]."""
    scales = 0.12 * 0.8 ** jnp.arange(SIDE * SIDE)
    return 0.5 + (jax.random.normal(key, (count, SIDE * SIDE)) * scales[None]).reshape(count, SIDE, SIDE, 1)


def batch(key, count):
    return Batch(gaussian(key, count), jnp.zeros(count, jnp.int32), {})


def view_of(function, train=2000, held=500, queries=1):
    source = Source(batch(jax.random.key(1), train), fixed)
    knowledge = Knowledge(query.as_release(function))
    return base.prepare(
        jax.random.key(0), knowledge, source, batch(jax.random.key(2), held), count=train, queries=queries
    )


def test_ridge_reaches_the_wiener_bound(key):
    variance = 0.05**2

    def release(x, key):
        return (x + 0.05 * jax.random.normal(key, x.shape)).reshape(len(x), -1)

    view = view_of(release, train=4000)
    found = decoder.Ridge().fit(key, view).attacker
    fresh = batch(jax.random.key(3), 2000)
    z = query.query(view.release, fresh.image, jax.random.key(4))
    error = float(jnp.square(found(key, z) - fresh.image).mean())
    power = (0.12 * 0.8 ** np.arange(SIDE * SIDE)) ** 2
    assert error == pytest.approx((power * variance / (power + variance)).mean(), rel=0.05)


@pytest.mark.parametrize("count", [10, 300])
def test_ridge_agrees_with_sklearn_in_both_forms(key, count):
    view = view_of(lambda x: x.reshape(len(x), -1) @ jnp.eye(16, 12), train=count)
    found = decoder.Ridge(penalties=(0.1,)).fit(key, view).attacker
    assert (found.support is not None) == (count < 12)
    z, x = (np.asarray(query.flat(a)) for a in (view.whitener(view.sample_z), view.sample.image))
    gram = z @ z.T if count < 12 else z.T @ z
    reference = Ridge(alpha=0.1 * np.trace(gram) / len(gram)).fit(z, x)
    expected = reference.predict(np.asarray(query.flat(view.whitener(view.held_z)))).clip(0, 1)
    np.testing.assert_allclose(query.flat(found(key, view.held)), expected, atol=1e-4)


def test_kernel_agrees_with_sklearn(key):
    view = view_of(lambda x: x.reshape(len(x), -1), train=100)
    found = decoder.Kernel(penalties=(0.01,), bandwidths=(2.0,)).fit(key, view).attacker
    z, x = (np.asarray(query.flat(a)) for a in (view.whitener(view.sample_z), view.sample.image))
    reference = KernelRidge(alpha=0.01, kernel="rbf", gamma=1 / float(found.width)).fit(z, x - x.mean(0))
    expected = reference.predict(np.asarray(query.flat(view.whitener(view.held_z)))) + x.mean(0)
    np.testing.assert_allclose(query.flat(found(key, view.held)), expected.clip(0, 1), atol=1e-4)
    assert float(found.width) == pytest.approx(2.0 * np.square(z[:, None] - z[None]).sum(2).mean(), rel=1e-3)


def circle(key, count):
    """Images that a single angle decides, in the phases of its waves."""
    angle = jax.random.uniform(key, (count, 1), minval=-3, maxval=3)
    return (0.5 + 0.4 * jnp.sin(angle + jnp.linspace(0, 6, SIDE * SIDE)[None])).reshape(count, SIDE, SIDE, 1)


def angle(x):
    waves = x.reshape(len(x), -1) - 0.5
    phases = jnp.linspace(0, 6, SIDE * SIDE)[None]
    basis = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)])
    sine, cosine = jnp.linalg.lstsq(basis.T, waves.T)[0]
    return jnp.repeat(jnp.arctan2(cosine, sine)[:, None], 20, axis=1)


@pytest.fixture(scope="module")
def curved():
    """A client that sends the angle: no linear decoder gets far."""
    splits = [Batch(circle(jax.random.key(i), 300), jnp.zeros(300, jnp.int32), {}) for i in range(2)]
    knowledge = Knowledge(query.as_release(angle))
    return base.prepare(jax.random.key(0), knowledge, Source(splits[0], fixed), splits[1], count=300)


def error(fitted, view):
    return float(jnp.square(fitted.attacker(jax.random.key(0), view.held) - view.validation.image).mean())


def test_kernel_straightens_what_the_client_bends(key, curved):
    assert error(decoder.Kernel().fit(key, curved), curved) < 0.1 * error(decoder.Ridge().fit(key, curved), curved)


def test_a_constant_client_gives_the_mean_image(key):
    view = view_of(lambda x: jnp.full((len(x), 20), 0.7), train=100)
    mean = float(jnp.square(view.sample.image.mean(0)[None] - view.validation.image).mean())
    for member in (decoder.Ridge(), decoder.Kernel()):
        fitted = member.fit(key, view)
        assert fitted.failed is None
        assert error(fitted, view) == pytest.approx(mean, rel=0.01)


def test_features_that_are_not_finite_fail_and_say_so(key):
    view = view_of(lambda x: jnp.full((len(x), 20), jnp.nan), train=100)
    assert decoder.Ridge().fit(key, view) == base.Fitted(None, "no penalty gave a finite decoder")


def test_more_queries_help(key):
    def release(x, key):
        return (x + 0.3 * jax.random.normal(key, x.shape)).reshape(len(x), -1)

    once, often = (
        error(decoder.Ridge().fit(key, view), view) for view in (view_of(release), view_of(release, queries=16))
    )
    assert often < 0.6 * once


class Cliff(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        scale = self.param("scale", nn.initializers.ones, (1,))
        return 1 + jnp.log(scale)[0] + jnp.zeros((len(z), SIDE, SIDE, 1))


def test_a_network_improves_on_the_closed_form_it_starts_from(key, curved):
    earlier = (decoder.Ridge().fit(key, curved), decoder.Kernel(bandwidths=(100.0,), penalties=(1.0,)).fit(key, curved))
    start = min(error(fitted, curved) for fitted in earlier)
    module = ResidualDecoder((SIDE, SIDE, 1), 16, 1)
    fitted = decoder.Net(module, "residual", steps=100, learning_rate=5e-3).fit(key, curved, earlier=earlier)
    assert fitted.failed is None
    assert error(fitted, curved) < 0.5 * start
    hopeless = decoder.Net(module, "residual", steps=1, learning_rate=10.0).fit(key, curved, earlier=earlier)
    assert error(hopeless, curved) <= 1.0001 * start


def test_a_network_that_diverges_keeps_a_finite_guess(key, curved):
    fitted = decoder.Net(Cliff(), "cliff", steps=50, learning_rate=20.0).fit(key, curved)
    assert fitted.failed is not None
    assert "not finite" in fitted.failed
    assert bool(jnp.isfinite(fitted.attacker(key, curved.held)).all())


def test_ssim_counts_in_the_loss_from_eleven_pixels_on():
    guess, large = jnp.zeros((1, 16, 16, 1)), Batch(jnp.ones((1, 16, 16, 1)), jnp.zeros(1), {})
    small = Batch(jnp.ones((1, 4, 4, 1)), jnp.zeros(1), {})
    assert decoder.image_loss(guess, large)[0] > decoder.image_mse(guess, large)[0]
    assert decoder.image_loss(guess[:, :4, :4], small)[0] == decoder.image_mse(guess[:, :4, :4], small)[0]
