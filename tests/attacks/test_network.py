"""Networks learn from fresh draws; short trials decide what is trained to the end, and every one of them is on record."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import attribute, base, network, query
from ani_jax.attacks.attribute import AttributeNetwork
from ani_jax.attacks.base import LEVELS, Context, Fits, Fitted, Level
from ani_jax.attacks.decoder import Mirror
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.base import Target
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Release, Source, fixed


def noisy(x, key):
    return x + jax.random.normal(key, x.shape)


def images(count):
    return jnp.linspace(0, 1, count * 4).reshape(count, 2, 2, 1)


class Halved(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(2, name="pixels")(z.reshape(len(z), -1))


def squares(output, batch, aim):
    return jnp.square(output - batch.image.reshape(len(output), -1)[:, :2] - aim).mean(1)


@dataclasses.dataclass(frozen=True)
class Half(Target):
    """The upper half of an image, one too bright."""

    loss = staticmethod(squares)
    selection = staticmethod(squares)

    def aim(self, batch):
        return jnp.asarray(1.0)


@dataclasses.dataclass(frozen=True)
class Halving(network.Trained):
    def fit(self, context):
        return network.fit_network(context.key, Halved(), self, context)


def test_a_network_learns_from_fresh_draws_and_keeps_the_best(key, fit):
    batch = Batch(jax.random.uniform(key, (8, 2, 2, 1)), jnp.arange(8), {})
    release = Release((), lambda v, x, key: noisy(x, key), stochastic=True)
    asked = base.prepare(key, Knowledge(release), Source(batch, fixed), batch, count=64)
    attack = Halving(Half("half"), steps=200, batch_size=16, learning_rate=0.02)
    found = fit(attack, key, asked)
    guess = found.attacker(key, asked.held)
    assert found.failed is None
    assert guess.shape == (8, 2)
    np.testing.assert_allclose(guess.mean(), 1.5, atol=0.1)
    np.testing.assert_array_equal(guess, fit(attack, key, asked).attacker(key, asked.held))


class Middle(NamedTuple):
    def on(self, z):
        return jnp.full((len(z), 2), 0.25)


def test_a_correction_starts_at_its_base(key):
    batch = Batch(images(4), jnp.arange(4), {})
    asked = base.prepare(key, Knowledge(query.as_release(lambda x: x)), Source(batch, fixed), batch, count=8)

    class Squashed(Halved):
        def __call__(self, z, *, train):
            return jax.nn.sigmoid(super().__call__(z, train=train))

    untrained, context = Halving(Half("half"), steps=0), Context(key, asked, lambda attack: Fitted(None))
    corrected = network.fit_network(key, Squashed(), untrained, context, Middle()).attacker
    np.testing.assert_allclose(corrected.on(asked.held_z), 0.25, atol=1e-6)


SIDE = Attribute("side", 2)


def halves(key, count):
    """Images of which one half is lit; the side says which."""
    side_key, noise_key = jax.random.split(key)
    side = jax.random.randint(side_key, (count,), 0, 2)
    lit = (jnp.arange(8)[None, None, :, None] < 4) == (side[:, None, None, None] == 0)
    image = 0.1 * jax.random.uniform(noise_key, (count, 8, 8, 1)) + 0.4 * lit
    return Batch(image, jnp.zeros(count, jnp.int32), {"side": side})


@pytest.fixture(scope="module")
def asked():
    own, validation = halves(jax.random.key(2), 256), halves(jax.random.key(3), 128)
    knowledge = Knowledge(query.as_release(lambda x: x.reshape(len(x), -1)))
    return base.prepare(jax.random.key(0), knowledge, Source(own, fixed), validation, count=64)


def trying(**settings):
    return Level("trying", 64, (1,), settings={"AttributeNetwork": settings, "Mirror": settings})


def scores(asked, sharp):
    """An attacker that is right with this confidence, negative: wrong."""
    return Fitted(lambda key, z: sharp * jax.nn.one_hot(asked.validation.sensitive["side"], 2))


@pytest.fixture
def trained(monkeypatch):
    """What was trained, instead of training it: the attack and the width of its network."""
    found = []

    def remember(key, module, attack, context, base=None):
        found.append((attack, module.width))
        return Fitted(None)

    monkeypatch.setattr(attribute, "fit_network", remember)
    return found


def test_the_form_with_the_best_trial_is_trained(key, asked, trained):
    *trials, final = AttributeNetwork.at(SIDE, trying(steps=7, width=8, trial_steps=2))
    for best in trials:
        known = {trial: scores(asked, 1.0 if trial is best else -1.0) for trial in trials}
        final.fit(Context(key, asked, known.__getitem__))
        attack, width = trained[-1]
        assert (attack.learning_rate, attack.width) == (best.learning_rate, best.width)
        assert width == 4 * best.width
    assert len({(attack.learning_rate, attack.width) for attack, _ in trained}) == len(network.GRID) == len(trials)
    assert {attack.steps for attack, _ in trained} == {7}
    assert {trial.steps for trial in trials} == {2}


def test_failed_trials_never_win(key, asked, trained):
    *trials, final = AttributeNetwork.at(SIDE, trying(steps=7, trial_steps=2))
    perfect = scores(asked, 50.0)
    dead = [Fitted(None, "gone"), Fitted(perfect.attacker, "diverged"), scores(asked, jnp.nan), Fitted(None, "gone")]
    final.fit(Context(key, asked, dict(zip(trials, dead, strict=True)).__getitem__))
    [(attack, _)] = trained
    usual = AttributeNetwork(SIDE)
    assert (attack.learning_rate, attack.width) == (usual.learning_rate, usual.width)


def test_a_grid_is_really_tried(key, asked):
    attacks = Mirror.at(Image(), trying(steps=6, batch_size=16, width=8, trial_steps=2))
    fits = Fits(asked, lambda attack: key)
    # The last one asks for the others by itself.
    last = fits(attacks[-1])
    assert set(attacks) <= set(fits.done)
    found = [fits(attack) for attack in attacks]
    assert found[-1] is last
    assert [attack.steps for attack in attacks] == [2, 2, 2, 2, 6]
    assert {fitted.attacker.module.width for fitted in found[:4]} == {4, 8}
    assert all(fitted.failed is None for fitted in found)
    assert attacks[-1].name == "mirror"


def test_without_steps_nothing_is_tried():
    assert AttributeNetwork.at(SIDE, trying(steps=7)) == (AttributeNetwork(SIDE, steps=7),)


def test_trials_are_shared_by_all_seeds_and_come_first():
    attacks = AttributeNetwork.at(SIDE, trying(steps=7, trial_steps=2, seeds=3))
    trials, finals = attacks[: len(network.GRID)], attacks[len(network.GRID) :]
    assert [attack.name for attack in finals] == ["network-0", "network-1", "network-2"]
    assert {attack.trials for attack in finals} == {trials}
    assert trials[1].name == "network-0, rate x3, width x1"
    assert len({attack.name for attack in attacks}) == len(attacks)


def test_standard_tunes_and_quick_does_not():
    for target, kind in ((SIDE, AttributeNetwork), (Image(), Mirror)):
        assert all(attack.trials for attack in kind.at(target, LEVELS["standard"]) if not attack.cell)
        assert any(attack.cell for attack in kind.at(target, LEVELS["standard"]))
        assert not any(attack.cell or attack.trials for attack in kind.at(target, LEVELS["quick"]))
