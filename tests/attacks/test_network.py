"""Networks learn from what was asked, double while validation gains, and only the leaders of a family do."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, network
from ani_jax.attacks.attribute import Joint, Reader
from ani_jax.attacks.base import Context, Fits, Fitted
from ani_jax.attacks.query import as_release
from ani_jax.attacks.views import Sight
from ani_jax.records import Look
from ani_jax.targets.attribute import Attribute, Heads
from ani_jax.targets.base import Target
from ani_jax.types import Batch, Knowledge, Release, Source, fixed


def noisy(x, key):
    return x + jax.random.normal(key, x.shape)


class Halved(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(2)(z.reshape(len(z), -1))


def squares(output, batch, aim):
    return jnp.square(output - batch.image.reshape(len(output), -1)[:, :2] - aim).mean(1)


@dataclasses.dataclass(frozen=True)
class Half(Target):
    """The upper half of an image, one too bright."""

    loss = staticmethod(squares)
    selection = staticmethod(squares)

    def aim(self, batch):
        return jnp.asarray(1.0)

    def strength(self, guess, batch):
        return -float(squares(guess, batch, 1.0).mean())

    def gained(self, before, after):
        return after.loss < 0.9 * before.loss


@dataclasses.dataclass(frozen=True)
class Halving(network.Trained):
    form: str = ""

    @property
    def architecture(self):
        return self.form

    def module(self, asked):
        return Halved()


@pytest.fixture(scope="module")
def asked():
    batch = Batch(jax.random.uniform(jax.random.key(1), (8, 2, 2, 1)), jnp.arange(8), {})
    release = Release((), lambda v, x, key: noisy(x, key), stochastic=True)
    return base.prepare(jax.random.key(0), Knowledge(release), Source(batch, fixed), batch, count=512)


def test_a_network_learns_and_keeps_the_best(key, asked, fit):
    attack = Halving(Half("half"), steps=200, batch_size=16, learning_rate=0.02)
    found = fit(attack, key, asked)
    guess = found.attacker(key, asked.held)
    assert (found.failed, found.ended) == (None, "")
    assert guess.shape == (8, 2)
    np.testing.assert_allclose(guess.mean(), 1.5, atol=0.1)
    np.testing.assert_array_equal(guess, fit(attack, key, asked).attacker(key, asked.held))
    [[look]] = found.curves
    np.testing.assert_allclose(look.loss, -look.strength, rtol=1e-4)


def test_steps_double_until_nothing_is_gained(key, asked, fit):
    small = {"batch_size": 16, "learning_rate": 0.02, "first": 25}
    found = fit(Halving(Half("half"), steps=3200, least=100, **small), key, asked)
    [curve] = found.curves
    steps = [look.steps for look in curve]
    # At once to where a plateau may be called, and doublings from there on.
    assert steps == [25] + [100 * 2**index for index in range(len(steps) - 1)]
    assert found.ended == network.REACHED
    assert 3 <= len(steps) < 7
    losses = [look.loss for look in curve]
    assert losses == sorted(losses, reverse=True)
    assert all(after > 0.9 * before for before, after in zip(losses[-3:], losses[-2:]))
    # No plateau is called before ``least``, nor a rising end a plateau.
    late = fit(Halving(Half("half"), steps=3200, least=2 * steps[-1], **small), key, asked)
    assert late.curves[0][-1].steps >= 2 * steps[-1]
    short = fit(Halving(Half("half"), steps=60, **small), key, asked)
    assert (short.ended, [look.steps for look in short.curves[0]]) == (network.RISING, [25, 50, 60])


def test_features_that_never_vary_are_not_listened_to(key, fit):
    batch = Batch(jax.random.uniform(jax.random.key(1), (8, 2, 2, 1)), jnp.arange(8), {})
    release = Release((), lambda v, x, key: jnp.ones((len(x), 3)), stochastic=False)
    asked = base.prepare(key, Knowledge(release), Source(batch, fixed), batch, count=64)
    rivals = tuple(Halving(Half("half"), steps=400, first=10, batch_size=size) for size in (4, 8))
    for rival in rivals:
        found = fit(dataclasses.replace(rival, rivals=rivals), key, asked)
        assert (found.ended, found.attacker, found.failed) == (network.SILENT, None, None)


def test_a_plateau_is_two_doublings_in_a_row():
    attribute = Attribute("ink", 4)
    flat, up = Look(1, 1.0, 0.5), Look(2, 1.0, 0.52)
    for curve, expected in (
        ([flat, flat], False),
        ([flat] * 3, True),
        ([flat, up, up], False),
        ([flat, up, up, up], True),
        ([Look(1, 0.1, 0.998)], True),
    ):
        assert network.settled([curve], attribute) == expected
    # A gain in nats keeps a network in training as a gain in points does; one of both alone decides nothing for another part.
    heads = Heads("both", (attribute, Attribute("pen", 4)))
    falling = [Look(1, 1.0, 0.5), Look(2, 0.99, 0.5), Look(4, 0.98, 0.5)]
    assert not network.settled([[flat] * 3, falling], heads)


def curves(*losses):
    return tuple((Look(1, loss, 0.5),) for loss in losses)


def leaders(rivals, context):
    """Who leads, by place among the rivals, whoever of them is asked."""
    [found] = {tuple(dataclasses.replace(one, rivals=rivals)._standing(context)[0]) for one in rivals}
    return [rivals.index(dataclasses.replace(one, rivals=())) for one in found]


def test_only_leaders_are_trained_on(key, asked):
    forms = enumerate(("flat", "flat", "round", "round", "odd"))
    rivals = tuple(Halving(Half("half"), steps=40, first=5, batch_size=2 + i, form=form) for i, form in forms)
    known = {
        rivals[0].start: Fitted("a", None, "", curves(3.0)),
        rivals[1].start: Fitted("b", "diverged"),
        rivals[2].start: Fitted("c", None, "", curves(1.0)),
        rivals[3].start: Fitted("d", None, "", curves(2.0)),
        rivals[4].start: Fitted("e", None, "", curves(4.0)),
    }
    context = Context(key, asked, known.__getitem__)
    # Two architectures, each by its best view: the second of "round" would find much the same as the first.
    assert leaders(rivals, context) == [2, 0]
    # However few lead, one that is far weaker than another does not.
    weak = {**known, rivals[0].start: Fitted("a", None, "", ((Look(1, 3.0, 0.5 - 2 * network.FAR),),))}
    context = Context(key, asked, weak.__getitem__)
    assert leaders(rivals, context) == [2, 4]
    pruned = dataclasses.replace(rivals[3], rivals=rivals).fit(Context(key, asked, known.__getitem__))
    assert (pruned.attacker, pruned.ended, pruned.curves) == (None, network.PRUNED, curves(2.0))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        # Each question has a best network: both lead, and no second.
        ([(1.0, 3.0), (2.0, 1.0), (3.0, 2.0)], [0, 1]),
        # One is best for both: the second for either leads beside it.
        ([(1.0, 1.0), (2.0, 3.0), (3.0, 2.0)], [0, 1, 2]),
        ([(2.0, 2.0), (1.0, 1.0), (3.0, 3.0)], [1, 0]),
    ],
)
def test_the_best_for_each_question_leads(key, asked, losses, expected):
    both = Heads("both", (Attribute("side", 2), Attribute("top", 3)))
    rivals = tuple(Halving(both, steps=40, first=5, batch_size=2 + i, form=str(i)) for i in range(len(losses)))
    known = {one.start: Fitted("a", None, "", curves(*own)) for one, own in zip(rivals, losses, strict=True)}
    assert leaders(rivals, Context(key, asked, known.__getitem__)) == expected


def test_a_leader_that_stays_behind_is_trained_no_longer(key, asked, fit):
    ahead = Fitted(None, curves=((Look(25, 1.0, 0.0), Look(50, 1.0, 0.0)),))
    attack = Halving(Half("half"), steps=3200, batch_size=16, learning_rate=0.02, first=25)
    context = Context(key, asked, lambda other: network.train(other, context))
    begun = network.train(attack.start, context)
    stopped = network.train(attack, context, begun, (ahead,))
    assert (stopped.ended, [look.steps for look in stopped.curves[0]]) == (network.BEHIND, [25, 50])
    # One that is hardly ahead stops it before the last stage, which takes as many steps as all before.
    whole = network.train(dataclasses.replace(attack, steps=200), context, begun)
    [*_, half, end] = whole.curves[0]
    near = Fitted(None, curves=((Look(25, 9.0, -9.0), dataclasses.replace(half, strength=half.strength + 0.01)),))
    stopped = network.train(dataclasses.replace(attack, steps=200), context, begun, (near,))
    assert (end.steps, stopped.ended, stopped.curves[0][-1]) == (200, network.BEHIND, half)
    # One that was no stronger by then stops nobody, whatever became of it later.
    late = Fitted(None, curves=((Look(25, 9.0, -9.0), Look(6400, 0.0, 0.0)),))
    assert network.train(attack, context, begun, (late,)).ended == network.REACHED


def test_a_leader_that_lags_in_the_midst_of_a_stage_is_stopped_there(key, asked, fit, monkeypatch):
    monkeypatch.setattr(network, "APART", 10)
    attack = Halving(Half("half"), steps=800, batch_size=16, learning_rate=0.02, first=25, least=400)
    context = Context(key, asked, lambda other: network.train(other, context))
    begun = network.train(attack.start, context)
    whole = network.train(attack, context, begun)
    looks = [look["evaluation"] for look in whole.last.history]
    assert [look["step"] for look in whole.last.history] == [94, 188, 282, 375, *(100 * i for i in range(1, 5))]
    # Of two that are ahead of it at some look, one alone is so by enough.
    for least, expected in ((0.95, [25, 400, 800]), (0.5, [25, 25 + 188])):
        history = [{"evaluation": value * (least if place == 1 else 1)} for place, value in enumerate(looks)]
        ahead = Fitted(None, last=whole.last._replace(history=tuple(history)))
        found = network.train(attack, context, begun, (ahead,))
        assert [look.steps for look in found.curves[0]] == expected
    assert found.ended == network.BEHIND


def test_lagging_is_for_every_question():
    def looks(*values):
        return [{"evaluation": value} for value in values]

    for own, others, expected in (
        ([1.0], [[0.5]], True),
        ([1.0], [[0.95]], False),
        ([1.0], [], False),
        ([1.0, 1.0], [[0.5]], False),
        ([], [[0.5]], False),
        ([[1.0, 1.0]], [[[0.5, 1.0]]], False),
        ([[1.0, 1.0]], [[[0.5, 1.0]], [[1.0, 0.5]]], True),
        ([float("nan")], [[0.5]], False),
    ):
        assert network.lagging(looks(*own), [looks(*other) for other in others]) == expected


SIDE, TOP = Attribute("side", 2), Attribute("top", 3)


def halves(key, count):
    """Images of which one half is lit, and a row of three: two attributes in one place."""
    side_key, top_key, noise_key = jax.random.split(key, 3)
    side, top = jax.random.randint(side_key, (count,), 0, 2), jax.random.randint(top_key, (count,), 0, 3)
    lit = (jnp.arange(6)[None, None, :, None] < 3) == (side[:, None, None, None] == 0)
    row = jnp.arange(6)[None, :, None, None] // 2 == top[:, None, None, None]
    image = 0.1 * jax.random.uniform(noise_key, (count, 6, 6, 1)) + 0.4 * lit + 0.4 * row
    return Batch(image, jnp.zeros(count, jnp.int32), {"side": side, "top": top})


@pytest.fixture(scope="module")
def seen():
    own, validation = halves(jax.random.key(2), 256), halves(jax.random.key(3), 128)
    knowledge = Knowledge(as_release(lambda x: x.reshape(len(x), -1)))
    return base.prepare(
        jax.random.key(0), knowledge, Source(own, fixed), validation, count=512, attributes=(("side", 2), ("top", 3))
    )


def test_one_network_is_trained_for_all_attributes(key, seen):
    readers = [Reader(target, steps=60, batch_size=32) for target in (SIDE, TOP)]
    trained = []

    def remember(attack):
        trained.append(attack)
        return key

    fits = Fits(seen, remember)
    found = [fits(reader) for reader in readers]
    assert [type(attack) for attack in trained] == [Reader, Joint, Sight, Reader]
    for reader, one in zip(readers, found, strict=True):
        guess = one.attacker(key, seen.held)
        assert guess.shape == (128, reader.target.classes)
        assert (guess.argmax(1) == seen.validation.sensitive[reader.target.name]).mean() > 0.95
    # The joint network answers both, each from the parameters that were best for it.
    [joint] = [one for attack, one in fits.done.items() if isinstance(attack, Joint)]
    both = joint.attacker(key, seen.held)
    np.testing.assert_array_equal(both, np.concatenate([one.attacker(key, seen.held) for one in found], axis=1))


def test_a_question_that_a_start_has_answered_keeps_nobody_in_training(key, seen):
    rivals = tuple(Joint(Heads("one", (SIDE,)), steps=40, first=5, form=form) for form in ("perceptron", "additive"))
    losses = zip(rivals, (0.2, 0.1), strict=True)
    starts = {one.start: Fitted("a", None, "", ((Look(1, loss, 0.999),),)) for one, loss in losses}
    found = [dataclasses.replace(one, rivals=rivals).fit(Context(key, seen, starts.__getitem__)) for one in rivals]
    # The one that answers best guesses as it is.
    assert [(one.attacker, one.ended) for one in found] == [(None, network.PRUNED), ("a", network.REACHED)]


def test_who_leaves_less_than_a_point_to_find_is_followed_by_nobody(key, seen):
    rivals = tuple(Joint(Heads("one", (SIDE,)), steps=40, first=5, form=form) for form in ("perceptron", "additive"))
    losses = zip(rivals, (0.1, 0.2), strict=True)
    known = {one.start: Fitted("a", None, "", ((Look(5, loss, 0.7),),)) for one, loss in losses}
    best, second = (dataclasses.replace(one, rivals=rivals) for one in rivals)
    known[best] = Fitted("b", None, "", ((Look(40, 0.01, 0.991),),))
    found = second.fit(Context(key, seen, known.__getitem__))
    assert (found.attacker, found.ended) == (None, network.BEHIND)


def declaring(mean=lambda v, x: x, stddev=lambda v, x: 0.5 + 0 * x):
    def client(variables, x, key):
        return x + 0.5 * jax.random.normal(key, x.shape)

    return Release((), client, stochastic=True, mean=mean, stddev=stddev)


def answered(release, queries=1):
    batch = Batch(jax.random.uniform(jax.random.key(1), (64, 4, 4, 1)), jnp.arange(64), {})
    knowledge = Knowledge(release)
    return base.prepare(
        jax.random.key(0), knowledge, Source(batch, fixed), batch, count=4096, library=2048, queries=queries
    )


def test_noise_is_drawn_as_it_is_declared_where_that_is_borne_out(key):
    asked = answered(declaring())
    mean, stddev = network.moments(asked)
    assert mean.shape == stddev.shape == (2048, 4, 4, 1)
    told = network.Told(asked.release, lambda z: z, None, (mean, stddev))
    index = jnp.arange(512)
    drawn = [told(one, index, asked.owned)[0] - mean[:512] for one in jax.random.split(key)]
    assert not np.array_equal(*drawn)
    np.testing.assert_allclose(np.std(drawn[0]), 0.5, rtol=0.05)
    assert network.moments(answered(declaring(), queries=4)) is None


def twice(z):
    return jnp.concatenate([z, z], axis=3)


class Twice(Halving):
    def view(self, context):
        return jax.tree_util.Partial(twice)


def test_wide_views_are_kept_in_half_precision_and_learnt_from_alike(key, asked, fit, monkeypatch):
    kept = network.seen(jax.tree_util.Partial(lambda z: 1e6 * z), asked.sample_z, half=True)
    assert kept.dtype == jnp.float16
    np.testing.assert_allclose(kept, (1e6 * asked.sample_z).clip(-network.LARGEST, network.LARGEST), rtol=1e-3)
    release = Release((), lambda v, x, key: x, stochastic=False)
    still = base.prepare(key, Knowledge(release), asked.auxiliary, asked.validation, count=512)
    options = {"steps": 200, "batch_size": 16, "learning_rate": 0.02}
    half = fit(Twice(Half("half"), **options), key, still)
    monkeypatch.setattr(network, "WIDE", 3.0)
    whole = fit(Twice(Half("half"), **options), key, still)
    np.testing.assert_allclose(half.attacker(key, still.held), whole.attacker(key, still.held), atol=0.01)


@pytest.mark.parametrize(
    "lie",
    [
        {"stddev": lambda v, x: 0.45 + 0 * x},
        {"stddev": lambda v, x: (0.5 + 0 * x).at[:, 1, 2].set(1.0)},
        {"mean": lambda v, x: x.at[:, 0, 3].add(0.2)},
        {"mean": lambda v, x: 0 * x},
    ],
)
def test_what_is_declared_wrongly_is_asked_for(lie):
    assert network.moments(answered(declaring(**lie))) is None
