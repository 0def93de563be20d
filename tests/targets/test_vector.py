import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.records import Look
from ani_jax.targets.base import Answers, Known
from ani_jax.targets.metrics import Bootstrap
from ani_jax.targets.vector import Vector, vector_mse
from ani_jax.types import Batch


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    x = rng.normal(size=(60, 5)) + 4 * label[:, None] + 2
    return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(label), {})


def judged(guess, batch):
    answers = Answers(np.asarray(batch.label), np.asarray(batch.label), 2)
    return Vector().judge(guess, Known(batch, batch, answers, Bootstrap.of(None, 60)))


def test_scores_are_those_of_numpy(batch):
    truth = np.asarray(batch.image, np.float64)
    guess = truth + np.random.default_rng(1).normal(size=truth.shape)
    found = judged(guess, batch)
    error = ((guess - truth) ** 2).mean()
    assert found.scores["r2_mean"].value == pytest.approx(1 - error / truth.var(0).mean(), abs=1e-6)
    within = np.mean([truth[k::2].var(0).mean() for k in (0, 1)])
    assert found.scores["r2_class_mean"].value == pytest.approx(1 - error / within, abs=1e-6)
    similar = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(guess, truth, strict=True)]
    assert found.scores["cosine"].value == pytest.approx(np.mean(similar), abs=1e-6)
    np.testing.assert_allclose(vector_mse(jnp.asarray(guess), batch), ((guess - truth) ** 2).mean(1), rtol=1e-4)


def test_the_mean_is_worth_nothing_and_the_truth_everything(batch):
    truth = np.asarray(batch.image)
    mean, whole = judged(np.broadcast_to(truth.mean(0), truth.shape), batch), judged(truth, batch)
    assert mean.scores["r2_mean"].value == pytest.approx(0, abs=1e-6)
    assert mean.scores["cosine"].value == pytest.approx(mean.references["cosine_mean"])
    assert [whole.scores[name].value for name in ("r2_mean", "retrieval")] == pytest.approx([1, 1])
    target = Vector()
    assert target.advantage(target.strength(truth, batch), batch) == pytest.approx(1)
    assert target.answered(target.strength(truth, batch))
    assert target.strength(truth, batch._replace(image=jnp.zeros_like(batch.image))) == 0


def test_a_plateau_is_less_than_two_percent():
    looks = [Look(1, loss, 0.0) for loss in (1.0, 0.99, 0.97)]
    assert [Vector().gained(looks[0], look) for look in looks[1:]] == [False, True]
