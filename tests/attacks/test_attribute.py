import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ani_jax.attacks import attribute, base, query
from ani_jax.optimize import fit as fit_module
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
    return attribute.AttributeNetwork(target, steps=150, width=8, learning_rate=1e-2)


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


def test_attributes_share_a_network_s_compiled_code(key, asked, fit):
    fit(network(HIDDEN), key, asked)
    before = fit_module.step._cache_size()
    assert accuracy(fit(network(OPEN), key, asked), asked, OPEN) > 0.95
    assert fit_module.step._cache_size() == before


def test_seeds_are_attackers_that_differ_in_nothing_else(key, asked, fit):
    first, second = (attribute.AttributeNetwork(HIDDEN, steps=3, width=8, seed=seed) for seed in (0, 1))
    assert [one.name for one in (first, second)] == ["network-0", "network-1"]
    guesses = [fit(one, key, asked).attacker(key, asked.held) for one in (first, second, first)]
    np.testing.assert_array_equal(guesses[0], guesses[2])
    assert not np.array_equal(guesses[0], guesses[1])


def test_architecture_follows_the_features():
    assert type(attribute.network(4, 2, 8)).__name__ == "ConvClassifier"
    assert attribute.network(2, 2, 8).width == 32
    assert attribute.network(2, 2, 8) is attribute.network(2, 2, 8)
