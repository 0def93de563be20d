import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ani_jax.attacks import attribute, base, query
from ani_jax.attacks.network import CONTAINED
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch, Knowledge, Source, fixed


def examples(key, count, features, classes=3):
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.randint(label_key, (count,), 0, classes)
    return jax.nn.one_hot(labels, features) * 1.5 + jax.random.normal(noise_key, (count, features)), labels


@pytest.mark.parametrize("l2", [1.0, 1e-2])
def test_logistic_regression_agrees_with_sklearn(key, l2):
    x, labels = examples(key, 200, 8)
    weights, bias = attribute.logistic_path((x, labels), (x, labels), 3, iterations=100, grid=(l2,))
    # scikit-learn minimises the sum of cross-entropies plus |W|^2 / (2 C).
    reference = LogisticRegression(C=1 / (l2 * 200), tol=1e-8, max_iter=1000).fit(np.asarray(x), np.asarray(labels))
    np.testing.assert_allclose(
        jax.nn.softmax(x @ weights + bias[None]), reference.predict_proba(np.asarray(x)), atol=2e-3
    )


def test_more_features_than_examples_gives_the_same_classifier(key):
    x, labels = examples(key, 60, 8)
    padded = jnp.concatenate([x, jnp.zeros((60, 100))], axis=1)
    narrow = attribute.logistic_path((x, labels), (x, labels), 3, iterations=100, grid=(1e-1,))
    wide = attribute.logistic_path((padded, labels), (padded, labels), 3, iterations=100, grid=(1e-1,))
    np.testing.assert_allclose(x @ narrow[0] + narrow[1][None], padded @ wide[0] + wide[1][None], atol=1e-2)


def test_the_penalty_is_chosen_on_held_out_examples(key):
    x, labels = examples(key, 40, 30)
    held = examples(jax.random.key(1), 200, 30)
    chosen = attribute.logistic_path((x, labels), held, 3)
    losses = [
        float(attribute.logistic_objective(attribute.logistic_path((x, labels), held, 3, grid=(l2,)), (*held, 0.0)))
        for l2 in attribute.L2_GRID
    ]
    assert float(attribute.logistic_objective(chosen, (*held, 0.0))) == pytest.approx(min(losses), rel=0.05)
    assert losses[0] != pytest.approx(losses[-1], rel=0.05)


def test_features_that_are_not_finite_give_no_probe():
    x, labels = jnp.full((4, 2), jnp.nan), jnp.array([0, 1, 0, 1])
    assert attribute.logistic_path((x, labels), (x, labels), 2) is None


def parity(x):
    # The attribute is in the product of two features, where no linear probe sees it.
    return x.reshape(len(x), -1)


def batch(key, count):
    signs = jax.random.rademacher(key, (count, 2)).astype(jnp.float32)
    image = (signs + 0.1 * jax.random.normal(key, (count, 2))).reshape(count, 2, 1, 1)
    hidden = (signs.prod(1) > 0).astype(jnp.int32)
    return Batch(image, jnp.zeros(count, jnp.int32), {"hidden": hidden, "open": (signs[:, 0] > 0).astype(jnp.int32)})


HIDDEN, OPEN = Attribute("hidden", 2), Attribute("open", 2)


def network(target):
    return attribute.Reader(target, steps=150, batch_size=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def asked():
    source = Source(batch(jax.random.key(1), 300), fixed)
    return base.prepare(
        jax.random.key(0), Knowledge(query.as_release(parity)), source, batch(jax.random.key(2), 100), count=300
    )


def accuracy(fitted, asked, target):
    guess = fitted.attacker(jax.random.key(0), asked.held)
    return float((guess.argmax(1) == asked.validation.sensitive[target.name]).mean())


def test_networks_see_what_the_probe_cannot(key, asked, fit):
    assert accuracy(fit(attribute.Probe(HIDDEN), key, asked), asked, HIDDEN) < 0.7
    assert accuracy(fit(network(HIDDEN), key, asked), asked, HIDDEN) > 0.95
    assert accuracy(fit(attribute.Probe(OPEN), key, asked), asked, OPEN) == 1.0


@pytest.mark.parametrize(("form", "seen"), attribute.BANK)
def test_every_network_of_the_bank_runs_on_its_view(key, form, seen, fit):
    # The maps hold the attribute in the sign of every other column of one channel; the others are noise.
    def maps(key, count):
        sign = jax.random.rademacher(key, (count,))
        noise = jax.random.normal(jax.random.fold_in(key, 1), (count, 4, 4, 2))
        image = noise.at[:, :, ::2, 0].add(4.0 * sign[:, None, None])
        return Batch(image, jnp.zeros(count, jnp.int32), {"open": (sign > 0).astype(jnp.int32)})

    own, held = maps(jax.random.key(1), 200), maps(jax.random.key(2), 100)
    asked = base.prepare(key, Knowledge(query.as_release(lambda x: x)), Source(own, fixed), held, count=200)
    reader = attribute.Reader(OPEN, steps=30, form=form, seen=seen, bank=((form, seen),), batch_size=32)
    assert accuracy(fit(reader, key, asked), asked, OPEN) > 0.9
    assert reader.name == f"{form}, {seen}"


@dataclasses.dataclass(frozen=True)
class Said(base.Attack):
    """Says the same of everybody: log odds for the second class."""

    odds: tuple[float, ...] = ()

    def fit(self, context):
        logits = jnp.stack([-jnp.array(self.odds), jnp.array(self.odds)], axis=1)
        return base.Fitted(lambda key, z: logits)


def test_a_vote_is_of_the_leaders_whose_mean_is_best(key):
    # Each is right about two of three and sure of it; together they are right about all.
    truth = jnp.array([1, 1, 1])
    batch = Batch(jnp.zeros((3, 1, 1, 1)), truth, {"open": truth})
    asked = base.prepare(key, Knowledge(query.as_release(lambda x: x)), Source(batch, fixed), batch, count=3)
    members = [Said(OPEN, odds=tuple(-0.5 if i == wrong else 2.0 for i in range(3))) for wrong in range(3)]
    liar = Said(OPEN, odds=(-9.0, -9.0, -9.0))
    vote, fits = attribute.Voting(OPEN), base.Fits(asked, lambda attack: key)
    found = fits(vote, (liar, *members, vote)).attacker
    assert len(found.members) == 3
    assert (found(key, asked.held).argmax(1) == truth).all()
    assert base.Fits(asked, lambda attack: key)(vote, (liar, vote)).failed is not None


def test_several_releases_are_heard_by_fewer_networks_for_fewer_steps():
    noisy = Knowledge(query.as_release(lambda x, key: x + jax.random.normal(key, x.shape)))
    found = base.families((Attribute("ink", 4),), base.LEVELS["standard"], noisy)
    once, often, burst = (
        [one for one in family.attacks if isinstance(one, attribute.Reader)]
        for family in found
        if family.name == "attribute"
    )
    assert [(one.form, one.seen) for one in once] == list(attribute.BANK)
    assert [(one.form, one.seen) for one in often] == list(attribute.AGAIN)
    assert often == burst
    assert {(one.bank, one.leaders, one.steps) for one in often} == {(attribute.AGAIN, 1, 2496)}
    assert {(one.bank, one.leaders, one.steps) for one in once} == {(attribute.BANK, 2, 4992)}
    # At a level that names none, all hear them.
    one = attribute.Reader(Attribute("ink", 4))
    assert one.repeated() == one


def test_a_vector_has_no_contrast_within_squares(key, fit):
    batch = Batch(
        jnp.ones((8, 2, 2, 1)) * jnp.arange(8.0)[:, None, None, None], jnp.arange(8) % 2, {"open": jnp.arange(8) % 2}
    )
    vector = Knowledge(query.as_release(lambda x: x.reshape(len(x), -1)))
    asked = base.prepare(key, vector, Source(batch, fixed), batch, count=8)
    reader = attribute.Reader(OPEN, steps=2, form="local", seen="contrast", bank=(("local", "contrast"),))
    found = fit(reader, key, asked)
    assert (found.attacker, found.failed, found.ended) == (None, None, CONTAINED)
