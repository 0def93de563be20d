"""The criterion reads known features, ignores their scale, says what is undefined, and orders clients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.base import prepare
from ani_jax.attacks.query import as_release
from ani_jax.data import digits
from ani_jax.information import criterion as under_test
from ani_jax.information.criterion import criterion
from ani_jax.information.critics import Critics
from ani_jax.records import Criterion, from_json, to_json
from ani_jax.types import Batch, Data, Knowledge, Source, Task, fixed

# The shapes of test_critics.py, so that all three compile once.
FAST = Critics("nwj", 1, steps=300, width=32, learning_rate=1e-2)
SAMPLE = 2000


@functools.cache
def data(counts=(2000, 1000, 1000)):
    """Images of two standard normal pixels, so that everything has a closed form."""
    generator = np.random.default_rng(3)
    own, validation, test = (
        Batch(jnp.asarray(generator.standard_normal((n, 1, 2, 1)), jnp.float32), jnp.arange(n) % 2, {}) for n in counts
    )
    own = Source(own, fixed)
    return Data(own, validation, own, validation, test, "normal", Task("none", ("a", "b")), ())


def multiplied(scale, x):
    return scale * x


def scaled(scale):
    return jax.tree_util.Partial(multiplied, scale)


@functools.cache
def measured(scale=1.0, noise=0.5, threshold=1.0):
    return criterion(
        jax.random.key(0), scaled(scale), data(), FAST, noise=noise, threshold=threshold, sample=SAMPLE, self_test=()
    )


def test_known_features():
    found = measured()
    # Two normal elements through a channel of variance 1/4; 31.73% of a normal lies beyond one standard deviation.
    assert found.information.value == pytest.approx(math.log(1 + 1 / 0.25), rel=0.15)
    assert found.information.noise == 0.5
    assert found.volume == pytest.approx(2 * 0.3173, abs=0.08)
    assert found.volume_ratio == found.volume / 2
    assert found.mean_abs == pytest.approx(math.sqrt(2 / math.pi), abs=0.06)
    entropy = math.log(2 * math.pi * math.e * 1.25)
    assert found.entropy_gaussian == pytest.approx(entropy, abs=0.15)
    assert found.entropy_knn == pytest.approx(entropy, abs=0.2)
    assert "not bounds" in found.caveats[0]
    assert from_json(Criterion, to_json(found)) == found


@functools.cache
def without_critics(release, **options):
    """The quantities alone: critics have nothing to do with them."""
    known = measured().information
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "estimate_information", lambda *args, **options: known)
        return criterion(jax.random.key(0), release, data(), FAST, noise=0.5, sample=SAMPLE, **options).quantities


def both(x):
    return jnp.concatenate([x[:, :, :1], x[:, :, :1]], 2)


def test_quantities_of_a_known_channel():
    """Both pixels, heard through half of their own size; and one of them, said twice."""
    found = {name: one.value for name, one in without_critics(scaled(7.0)).items()}
    assert found["tangent"] == pytest.approx(1 / 1.25, abs=0.01)
    assert found["tangent_bound"] == pytest.approx(found["tangent"], abs=1e-5)
    assert found["tangent_nats"] == pytest.approx(math.log(5), abs=0.05)
    assert found["ceiling"] == pytest.approx(math.log(5), abs=0.05)
    assert found["ceiling_told"] == pytest.approx(found["ceiling"], abs=0.02)
    half = {name: one.value for name, one in without_critics(both).items()}
    assert half["tangent"] == pytest.approx(0.5 * 2 / 2.25, abs=0.02)
    assert half["ceiling"] == pytest.approx(math.log(9) / 2, abs=0.05)


def elsewhere(x):
    return jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@jax.custom_vjp
def backwards_alone(x):
    return 2 * x


backwards_alone.defvjp(lambda x: (2 * x, None), lambda _, out: (2 * out,))


@pytest.mark.parametrize("client", [elsewhere, backwards_alone])
def test_what_cannot_be_differentiated_has_no_tangent(client):
    assert {*without_critics(client)} == {*without_critics(both)} - {"tangent", "tangent_bound", "tangent_nats"}


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_scaling_z_changes_mean_abs_alone(scale):
    one, other = measured(), measured(scale)
    assert other.volume == pytest.approx(one.volume, abs=2e-3)
    assert other.entropy_gaussian == pytest.approx(one.entropy_gaussian, abs=1e-3)
    assert other.entropy_knn == pytest.approx(one.entropy_knn, abs=1e-3)
    assert other.information.value == pytest.approx(one.information.value, abs=1e-2)
    assert other.mean_abs == pytest.approx(scale * one.mean_abs, rel=1e-4)
    assert other.scale == pytest.approx(scale * one.scale, rel=1e-4)
    for name, number in one.quantities.items():
        assert other.quantities[name].value == pytest.approx(number.value, abs=1e-3)


def test_more_noise_leaves_less_and_a_higher_threshold_less_volume():
    other = measured(noise=3.0, threshold=2.0)
    assert other.information.value == pytest.approx(math.log(1 + 1 / 9), abs=0.06)
    assert other.volume == pytest.approx(2 * 0.0455, abs=0.03)


def test_images_are_those_that_a_client_was_asked_about():
    knowledge = Knowledge(as_release(scaled(2.0)))
    asked = prepare(jax.random.key(5), knowledge, data().auxiliary, data().validation, count=SAMPLE)
    found = criterion(jax.random.key(0), asked, data(), FAST, noise=0.5, threshold=1.0, self_test=())
    assert found.scale == pytest.approx(float(jnp.sqrt(jnp.square(asked.sample_z).mean())), rel=1e-5)
    assert found.information.value == pytest.approx(measured().information.value, abs=0.15)
    often = prepare(jax.random.key(5), knowledge, data().auxiliary, data().validation, count=10, queries=2)
    with pytest.raises(ValueError, match=r"release\.queries=2: must be 1"):
        criterion(jax.random.key(0), often, data(), FAST)


def test_a_client_that_sends_nothing():
    found = criterion(jax.random.key(0), scaled(0.0), data(), FAST, sample=SAMPLE, self_test=())
    assert (found.volume, found.volume_ratio, found.entropy_gaussian, found.entropy_knn) == (None, None, None, None)
    assert found.information.value == pytest.approx(0.0, abs=0.05)
    assert found.mean_abs == found.scale == 0
    assert "z is 0" in found.caveats[-1]


def rounded(x):
    return jnp.round(x.clip(0, 1)) + 0.5


def tripled(x):
    return jnp.tile(x, (1, 1, 3, 1))


def test_undefined_entropies_are_none_with_a_reason(monkeypatch):
    # Critics have nothing to do with this, and every new shape costs a compilation.
    monkeypatch.setattr(under_test, "estimate_information", lambda *args, **options: measured().information)
    run = functools.partial(criterion, jax.random.key(0), critics=FAST, sample=SAMPLE)
    found = run(rounded, data(), noise=0.0)
    assert found.entropy_knn is None
    assert "duplicates" in found.caveats[-1]
    assert found.volume == 2
    wide = run(tripled, data((2000, 1000, 4)), noise=0.1)
    assert wide.entropy_gaussian is None
    assert "4 examples for 6 dimensions" in wide.caveats[-1]
    assert "NaN" not in to_json(found) + to_json(wide)


def test_refuses():
    with pytest.raises(ValueError, match=r"threshold=-1\.0"):
        criterion(jax.random.key(0), scaled(1.0), data(), FAST, threshold=-1.0)


def tiny(x):
    return x.reshape(x.shape[0], 2, x.shape[1] // 2, 2, x.shape[2] // 2, 3).mean((2, 4, 5))[..., None]


@pytest.mark.slow
def test_orders_clients_on_digits():
    small = digits.load(image_size=16)
    critics = Critics("infonce", 1, steps=500)
    run = functools.partial(criterion, jax.random.key(0), data=small, critics=critics, noise=1.0, self_test=())
    image, four, nothing = (run(release) for release in (lambda x: x, tiny, lambda x: 0 * x[:, :2, :2, :1]))
    assert image.information.value > 4
    assert "saturated" in " ".join(image.information.caveats)
    # What four numbers can carry through the noise, whatever they say: the capacity of four Gaussian channels.
    assert 0.3 < four.information.value < 2 * math.log(2) + 0.05
    assert abs(nothing.information.value) < 0.05
    assert image.volume_ratio > 0.9
    assert four.volume_ratio < 4 / 768 + 1e-6
