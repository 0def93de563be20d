import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from ani_jax.attacks import base, decoder, query
from ani_jax.attacks.network import CONTAINED
from ani_jax.modules.adversaries import space_to_depth
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Source, fixed

SIDE = 4


def gaussian(key, count):
    """Images around 0.5 whose covariance falls off from direction to direction; hardly ever outside [0, 1]."""
    scales = 0.12 * 0.8 ** jnp.arange(SIDE * SIDE)
    return 0.5 + (jax.random.normal(key, (count, SIDE * SIDE)) * scales[None]).reshape(count, SIDE, SIDE, 1)


def batch(key, count):
    return Batch(gaussian(key, count), jnp.zeros(count, jnp.int32), {})


def asked_of(function, train=2000, held=500, queries=1):
    source = Source(batch(jax.random.key(1), train), fixed)
    knowledge = Knowledge(query.as_release(function))
    return base.prepare(
        jax.random.key(0), knowledge, source, batch(jax.random.key(2), held), count=train, queries=queries
    )


def test_ridge_reaches_the_wiener_bound(key, fit):
    variance = 0.05**2

    def release(x, key):
        return (x + 0.05 * jax.random.normal(key, x.shape)).reshape(len(x), -1)

    asked = asked_of(release, train=4000)
    found = fit(decoder.Ridge(Image()), key, asked).attacker
    fresh = batch(jax.random.key(3), 2000)
    z = query.query(asked.release, fresh.image, jax.random.key(4))
    error = float(jnp.square(found(key, z) - fresh.image).mean())
    power = (0.12 * 0.8 ** np.arange(SIDE * SIDE)) ** 2
    assert error == pytest.approx((power * variance / (power + variance)).mean(), rel=0.05)


@pytest.mark.parametrize("primal", [0, 12])
@pytest.mark.parametrize("count", [10, 300])
def test_ridge_agrees_with_sklearn_in_all_forms(key, count, primal, fit, monkeypatch):
    asked = asked_of(lambda x: x.reshape(len(x), -1) @ jnp.eye(16, 12), train=count)
    monkeypatch.setattr(decoder, "PRIMAL", primal)
    monkeypatch.setattr(base, "PART", 7)
    found = fit(decoder.Ridge(Image(), penalties=(0.1,)), key, asked).attacker
    dual = count < 12 and not primal
    assert (found.support is not None) == dual
    z, x = (np.asarray(query.flat(a)) for a in (asked.standardise(asked.sample_z), asked.sample.image))
    gram = z @ z.T if dual else z.T @ z
    reference = Ridge(alpha=0.1 * np.trace(gram) / len(gram)).fit(z, x)
    expected = reference.predict(np.asarray(query.flat(asked.standardise(asked.held_z)))).clip(0, 1)
    np.testing.assert_allclose(query.flat(found(key, asked.held)), expected, atol=1e-4)


def test_ridge_hears_directions_of_a_hundred_millionth_of_the_variance(key, fit):
    """All of the image is there, below twelve loud numbers that say nothing of it."""

    def release(x):
        pixels = x.reshape(len(x), -1) - 0.5
        loud = jnp.sin(1e3 * pixels @ jnp.cos(jnp.arange(16.0)[:, None] * jnp.arange(1, 13)[None]))
        return jnp.concatenate([loud, loud @ jnp.ones((12, 16)) + 1e-2 * pixels], axis=1)

    asked = asked_of(release)
    precise = error(fit(decoder.Ridge(Image()), key, asked), asked)
    assert precise < 0.02 * float(asked.validation.image.var(0).mean())


def mixed(x):
    """Every pixel beside the one to its left and the one above, in other numbers: a convolution that loses nothing."""
    wide = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    around = jnp.concatenate([x, wide[:, 1:, :-1], wide[:, :-1, 1:]], axis=3)
    return around @ jax.random.normal(jax.random.key(7), (3, 3)) + 2


def pixels(key, count, side):
    return Batch(jax.random.uniform(key, (count, side, side, 1)), jnp.zeros(count, jnp.int32), {})


def maps(function, side=12, train=20, queries=1):
    """Few pictures of many pixels without any structure: each must be sent, and where it is sent be found."""
    own, held = (pixels(jax.random.key(number), count, side) for number, count in enumerate((train, 30)))
    knowledge = Knowledge(query.as_release(function))
    return base.prepare(jax.random.key(0), knowledge, Source(own, fixed), held, count=train, queries=queries)


def cropped(x):
    """Without padding two positions are lost, one at each end."""
    return mixed(x)[:, 1:-1, 1:-1]


@pytest.mark.parametrize(
    ("release", "part"),
    [
        (mixed, slice(None)),
        (cropped, slice(2, -2)),
        (lambda x: space_to_depth(x), slice(None)),
        (lambda x: space_to_depth(x, 4)[..., ::-1] * 1e-3, slice(None)),
    ],
)
def test_what_a_convolution_made_is_undone_from_a_few_rows(key, release, part, fit):
    asked = maps(release)
    guess = fit(decoder.Local(Image()), key, asked).attacker(key, asked.held)
    np.testing.assert_allclose(guess[:, part, part], asked.validation.image[:, part, part], atol=1e-3)
    # Of more numbers than rows the linear decoder of all knows little.
    assert error(fit(decoder.Ridge(Image()), key, asked), asked) > 0.05


def test_local_agrees_with_sklearn(key, fit):
    asked = maps(lambda x, key: mixed(x) + 0.3 * jax.random.normal(key, (*x.shape[:3], 3)), train=60)
    found = fit(decoder.Local(Image(), penalties=(0.01,)), key, asked).attacker
    z, x, held = (np.asarray(one, np.float64) for one in (asked.sample_z, asked.sample.image, asked.held_z))
    centred = z - z.mean(0)
    scale = np.sqrt(np.square(centred).mean((0, 1, 2)))

    def around(u):
        wide = np.pad(u / scale, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return np.concatenate([wide[:, i : i + 12, j : j + 12] for i in range(3) for j in range(3)], 3)

    rows = around(centred).reshape(-1, 27)
    alpha = 0.01 * np.trace(rows.T @ rows) / 27
    reference = Ridge(alpha=alpha, fit_intercept=False).fit(rows, (x - x.mean(0)).reshape(-1, 1))
    expected = reference.predict(around(held - z.mean(0)).reshape(-1, 27)).reshape(30, 12, 12, 1) + x.mean(0)
    np.testing.assert_allclose(found(key, asked.held), expected.clip(0, 1), atol=1e-4)


def test_what_is_no_map_of_the_image_is_left_to_others(key, fit):
    for function in (lambda x: x.reshape(len(x), -1), lambda x: x[:, :1, :1], lambda x: x.repeat(500, 3)):
        assert fit(decoder.Local(Image()), key, maps(function)) == base.Fitted(None, ended=decoder.NO_MAP)
    found = fit(decoder.Local(Image()), key, maps(lambda x: jnp.full_like(x, jnp.nan)))
    assert found == base.Fitted(None, "no penalty gave a finite decoder")
    constant = maps(lambda x: jnp.ones_like(x))
    guess = fit(decoder.Local(Image()), key, constant).attacker(key, constant.held)
    np.testing.assert_allclose(guess, jnp.broadcast_to(constant.sample.image.mean(0), guess.shape), atol=1e-5)


def test_of_large_pictures_the_network_begins_with_what_lies_around(key):
    asked = maps(mixed)
    context = base.Context(key, asked, base.Fits(asked, lambda attack: key))
    assert isinstance(decoder.guessed(context).guess, decoder.Surrounded)


def test_kernel_agrees_with_sklearn(key, fit):
    asked = asked_of(lambda x: x.reshape(len(x), -1), train=100)
    found = fit(decoder.Kernel(Image(), penalties=(0.01,), bandwidths=(2.0,)), key, asked).attacker
    z, x = (np.asarray(query.flat(a)) for a in (asked.standardise(asked.sample_z), asked.sample.image))
    reference = KernelRidge(alpha=0.01, kernel="rbf", gamma=1 / float(found.width)).fit(z, x - x.mean(0))
    expected = reference.predict(np.asarray(query.flat(asked.standardise(asked.held_z)))) + x.mean(0)
    np.testing.assert_allclose(query.flat(found(key, asked.held)), expected.clip(0, 1), atol=1e-4)
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


def error(fitted, asked):
    return float(jnp.square(fitted.attacker(jax.random.key(0), asked.held) - asked.validation.image).mean())


def test_kernel_straightens_what_the_client_bends(key, curved, fit):
    kernel, ridge = (error(fit(kind(Image()), key, curved), curved) for kind in (decoder.Kernel, decoder.Ridge))
    assert kernel < 0.1 * ridge


def test_a_constant_client_gives_the_mean_image(key, fit):
    asked = asked_of(lambda x: jnp.full((len(x), 20), 0.7), train=100)
    mean = float(jnp.square(asked.sample.image.mean(0)[None] - asked.validation.image).mean())
    for kind in (decoder.Ridge, decoder.Kernel):
        fitted = fit(kind(Image()), key, asked)
        assert fitted.failed is None
        assert error(fitted, asked) == pytest.approx(mean, rel=0.01)


def test_features_that_are_not_finite_fail_and_say_so(key, fit):
    asked = asked_of(lambda x: jnp.full((len(x), 20), jnp.nan), train=100)
    assert fit(decoder.Ridge(Image()), key, asked) == base.Fitted(None, "no penalty gave a finite decoder")


def test_more_queries_help(key, fit):
    def release(x, key):
        return (x + 0.3 * jax.random.normal(key, x.shape)).reshape(len(x), -1)

    both = asked_of(release), asked_of(release, queries=16)
    once, often = (error(fit(decoder.Ridge(Image()), key, asked), asked) for asked in both)
    assert often < 0.6 * once


class Cliff(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        scale = self.param("scale", nn.initializers.ones, (1,))
        return 1 + jnp.log(scale)[0] + jnp.zeros((len(z), SIDE, SIDE, 1))


@dataclasses.dataclass(frozen=True)
class Falling(decoder.Residual):
    def module(self, asked):
        return Cliff()


def test_a_residual_decoder_learns_from_scratch(key, curved, fit):
    small = {"width": 16, "blocks": 1, "batch_size": 64}
    fitted = fit(decoder.Residual(Image(), steps=300, learning_rate=5e-3, **small), key, curved)
    assert fitted.failed is None
    mean = float(jnp.square(curved.sample.image.mean(0)[None] - curved.validation.image).mean())
    assert error(fitted, curved) < 0.2 * mean
    [[look]] = fitted.curves
    # One loss for training, selection and score.
    assert error(fitted, curved) == pytest.approx(look.loss, rel=0.01)
    assert look.strength == pytest.approx(-look.loss, rel=0.01)


def test_a_network_that_diverges_keeps_a_finite_guess(key, curved, fit):
    fitted = fit(Falling(Image(), steps=50, learning_rate=20.0), key, curved)
    assert fitted.failed is not None
    assert "not finite" in fitted.failed
    assert bool(jnp.isfinite(fitted.attacker(key, curved.held)).all())


def test_bounded_noise_is_read_off_its_range(fit):
    half, k = 0.5, 64
    release = query.as_release(lambda x, key: x + half * jax.random.uniform(key, x.shape, minval=-1, maxval=1))
    parts = [
        Batch(jax.random.uniform(jax.random.key(i), (n, 1, 1, 1)), jnp.zeros(n, int), {})
        for i, n in enumerate((3000, 500))
    ]
    test = jax.random.uniform(jax.random.key(2), (4000, 1, 1, 1))
    asked = base.prepare(
        jax.random.key(3), Knowledge(release), Source(parts[0], fixed), parts[1], count=3000, queries=k
    )
    z = query.query(release, test, jax.random.key(4), k)
    found, mean, middle = (
        float(jnp.square(guess - test).mean())
        for guess in (
            fit(decoder.Ridge(Image()), jax.random.key(5), asked).attacker(None, z),
            z.mean(0),
            (z.min(0) + z.max(0)) / 2,
        )
    )
    # The mean of k errs by w^2 / (3 k), the middle of their range by 2 w^2 / ((k + 1) (k + 2)): eleven times less at 64.
    assert mean == pytest.approx(half**2 / (3 * k), rel=0.1)
    assert middle == pytest.approx(2 * half**2 / ((k + 1) * (k + 2)), rel=0.15)
    assert found < 1.05 * middle < mean / 9


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 4, 1), (4, 4, 2)), ((2, 2, 4), (2, 2, 8)), ((16,), (4, 4, 1)), ((1, 16), (4, 4, 1))],
)
def test_a_linear_guess_is_seen_as_a_map_beside_what_was_sent(key, shape, expected, fit):
    asked = asked_of(lambda x: x.reshape(len(x), *shape), train=200)
    context = base.Context(key, asked, base.Fits(asked, lambda attack: key))
    seen = decoder.guessed(context)(asked.held_z)
    assert seen.shape == (500, *expected)
    guess = context.fitted(decoder.Ridge(Image())).attacker(key, asked.held) - 0.5
    # A 2x2 grid holds four pixels at each place.
    first = seen[..., : 16 // (expected[0] * expected[1])]
    np.testing.assert_allclose(np.sort(first.reshape(500, -1), 1), np.sort(guess.reshape(500, -1), 1), atol=1e-6)


def test_a_corrected_guess_beats_a_network_on_quiet_features(key, fit):
    def release(x):
        pixels = x.reshape(len(x), -1) - 0.5
        return jnp.concatenate([jnp.sin(40 * pixels), 1e-3 * pixels**2], axis=1)

    asked = asked_of(release)
    small = {"steps": 100, "batch_size": 64, "width": 16, "blocks": 1}
    plain, corrected = (
        error(fit(decoder.Residual(Image(), seen=seen, **small), key, asked), asked)
        for seen in ("standardised", "guessed")
    )
    assert corrected < plain


def test_where_there_is_no_guess_the_correction_says_so(key, fit):
    asked = asked_of(lambda x: jnp.full((len(x), 20), jnp.nan), train=100)
    found = base.Fits(asked, lambda attack: key)(decoder.Residual(Image(), steps=2, seen="guessed"))
    assert found.failed == "ValueError: no penalty gave a finite decoder"


def test_a_map_beside_its_guess_is_heard_once_and_alone_where_it_is_heard_again(key):
    asked = asked_of(lambda x: x, train=100, held=20)
    settings = {"Residual": {"steps": 2, "first": 0, "least": 0, "again": 2, "width": 8, "blocks": 1}}
    level = dataclasses.replace(base.LEVELS["standard"], settings=settings)
    plain, guessed = decoder.Residual.at(Image(), level)
    fits = base.Fits(asked, lambda attack: key)
    assert (fits(plain).attacker, fits(plain).ended) == (None, CONTAINED)
    assert fits(guessed).attacker is not None
    assert fits(plain.repeated()).attacker is not None
    assert guessed.repeated() is None
