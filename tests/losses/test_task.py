import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from ani_jax.losses import task

LABELS = jnp.array([0, 3, 2, 2, 1, 0, 3, 1])


def logits(seed=0, scale=3.0):
    return scale * jax.random.normal(jax.random.key(seed), (8, 4))


def test_cross_entropy_is_pytorchs():
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(np.array(logits())), torch.tensor(np.array(LABELS)).long(), reduction="none"
    )
    np.testing.assert_allclose(task.cross_entropy(logits(), LABELS), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.25, 0.35])
def test_smoothed_kl_is_the_releases(smoothing):
    values = torch.tensor(np.array(logits()))
    target = torch.full((8, 4), smoothing / 3)
    target[torch.arange(8), torch.tensor(np.array(LABELS)).long()] = 1 - smoothing
    expected = torch.nn.functional.kl_div(torch.log_softmax(values, 1), target, reduction="batchmean")
    np.testing.assert_allclose(task.smoothed_kl(logits(), LABELS, smoothing).mean(), expected, rtol=1e-5)


def test_no_smoothing_is_cross_entropy_even_with_an_excluded_class():
    excluded = logits().at[:, 3].set(-jnp.inf)
    labels = jnp.minimum(LABELS, 2)
    np.testing.assert_array_equal(task.smoothed_kl(excluded, labels, 0.0), task.cross_entropy(excluded, labels))
    gradient = jax.grad(lambda x: task.smoothed_kl(x, LABELS, 0.0).sum())(1e4 * logits())
    assert jnp.isfinite(gradient).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.01, 50), shift=st.floats(-20, 20))
def test_smoothed_kl_properties(seed, scale, shift):
    x = logits(seed, scale)
    value = task.smoothed_kl(x, LABELS, 0.25)
    assert (value >= -1e-5).all()
    np.testing.assert_allclose(task.smoothed_kl(x + shift, LABELS, 0.25), value, rtol=1e-3, atol=1e-4)


def test_gradients():
    check_grads(lambda x: task.cross_entropy(x, LABELS), (logits(scale=1.0),), order=1, atol=1e-2, rtol=1e-2)
    check_grads(lambda x: task.smoothed_kl(x, LABELS, 0.3), (logits(scale=1.0),), order=1, atol=1e-2, rtol=1e-2)


def test_accuracies_are_scikit_learns():
    x = np.array(logits(3, 1.0))
    predictions = x.argmax(1)
    assert 0 < (predictions == LABELS).mean() < 1
    np.testing.assert_allclose(task.accuracy(jnp.array(x), LABELS), predictions == np.array(LABELS))
    for k in (1, 2, 4):
        expected = top_k_accuracy_score(np.array(LABELS), x, k=k, labels=range(4)) if k < 4 else 1.0
        np.testing.assert_allclose(task.top_k_accuracy(jnp.array(x), LABELS, k).mean(), expected)
    expected = balanced_accuracy_score(np.array(LABELS), predictions)
    np.testing.assert_allclose(task.balanced_accuracy(jnp.array(predictions), LABELS, 4), expected, rtol=1e-6)


def test_balanced_accuracy_leaves_absent_classes_out():
    labels, predictions = jnp.array([0, 0, 0, 2]), jnp.array([0, 0, 1, 2])
    np.testing.assert_allclose(task.balanced_accuracy(predictions, labels, 5), (2 / 3 + 1) / 2, rtol=1e-6)


def test_a_label_out_of_range_is_loud():
    assert jnp.isnan(task.cross_entropy(jnp.zeros((1, 4)), jnp.array([4]))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: task.cross_entropy(jnp.ones(3), LABELS), "logits.shape=.3,.: must be of rank 2"),
        (lambda: task.cross_entropy(jnp.ones((3, 4)), LABELS), "labels.shape=.8,.: must be .3,."),
        (lambda: task.cross_entropy(logits(), LABELS * 1.0), "labels.dtype=float32"),
        (lambda: task.smoothed_kl(logits(), LABELS, 1.0), r"smoothing=1.0: must be in \[0, 1\)"),
        (lambda: task.smoothed_kl(jnp.ones((8, 1)), LABELS, 0.1), "k of 2 or more"),
        (lambda: task.top_k_accuracy(logits(), LABELS, 5), "k=5: must be from 1 to 4"),
        (lambda: task.balanced_accuracy(LABELS[:2], LABELS, 4), "predictions.shape="),
        (lambda: task.balanced_accuracy(LABELS, LABELS, 0), "classes=0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
