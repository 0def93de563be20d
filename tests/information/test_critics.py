"""One critic of each kind reads known information; batches repeat nothing; what goes wrong is None with its reason."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.information import critics as under_test
from ani_jax.information.critics import ESTIMATORS, Critics, Pairs
from ani_jax.losses import information
from ani_jax.losses.estimates import correlated_gaussian_information

FAST = Critics("nwj", 1, steps=300, width=32, learning_rate=1e-2)
COUNTS = (2000, 1000, 1000)
# Every fast test here trains on these shapes, so each estimator compiles once.


def gaussians(rho, counts=COUNTS, seed=3):
    """Two pairs of standard normal elements with correlation rho, in three sets."""
    generator = np.random.default_rng(seed)
    sets = [generator.standard_normal((2, count, 2)).astype(np.float32) for count in counts]
    return [Pairs(*map(jnp.asarray, (x, rho * x + math.sqrt(1 - rho**2) * other))) for x, other in sets]


@functools.cache
def read(rho, estimator, noise=0.0):
    critics = Critics(
        estimator, *(getattr(FAST, name) for name in ("seeds", "steps", "width", "batch", "learning_rate"))
    )
    return under_test.train_and_read(jax.random.key(0), critics, *gaussians(rho), noise=noise)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_reads_what_is_there(estimator):
    none, some, much = (read(rho, estimator) for rho in (0.0, 0.5, 0.8))
    assert -0.05 < none.value < 0.05
    assert none.value < some.value < much.value
    truth = [float(correlated_gaussian_information(rho, 2)) for rho in (0.5, 0.8)]
    if estimator == "club":
        truth = [2 * rho**2 / (1 - rho**2) for rho in (0.5, 0.8)]
    assert some.value == pytest.approx(truth[0], abs=0.1)
    assert much.value == pytest.approx(truth[1], rel=0.15)
    assert min(some.kept, much.kept) > 0


def test_independent_pairs_keep_the_start_and_show_the_last():
    reading = read(0.0, "nwj")
    assert (reading.kept, reading.value) == (0, pytest.approx(0.0, abs=1e-6))
    # What selection hides: on other pairs the trained critic reads below 0.
    assert -0.2 < reading.last < -0.01


def test_noise_is_added_to_z():
    # Standard normal x through a channel of variance 1: log(1 + 1 / noise^2) / 2 an element.
    train, selection, test = (Pairs(pair.x, pair.x) for pair in gaussians(0.0))
    reading = under_test.train_and_read(jax.random.key(0), FAST, train, selection, test, noise=1.0)
    assert reading.value == pytest.approx(math.log(2), abs=0.1)


def test_not_finite_is_none_with_a_reason():
    train, selection, test = gaussians(0.5)
    run = functools.partial(under_test.train_and_read, jax.random.key(0), FAST)

    def spoilt(pairs):
        return Pairs(pairs.x, pairs.z.at[0, 0].set(jnp.nan))

    found = run(spoilt(train), selection, test)
    assert found.value is None
    assert found.reason.startswith("the loss is not finite at step")
    found = run(train, spoilt(selection), test)
    assert found == (None, None, None, "the value on the selection pairs is not finite")
    found = run(train, selection, spoilt(test))
    assert (found.value, found.last) == (None, None)
    assert "test pairs" in found.reason


@pytest.mark.parametrize("order", ["given", "sorted"])
def test_club_with_a_known_conditional_has_its_closed_form(order):
    rho = 0.8
    pairs = gaussians(rho, (2, 2, 5000))[2]
    if order == "sorted":
        # Blocks of neighbours would pass alike pairs off as independent ones, and read far less.
        rows = jnp.argsort(pairs.x[:, 0])
        pairs = Pairs(pairs.x[rows], pairs.z[rows])

    def conditional(x, z):
        return jax.scipy.stats.norm.logpdf(z[None], rho * x[:, None], math.sqrt(1 - rho**2)).sum(-1)

    found = under_test.read_conditional(jax.random.key(0), conditional, pairs)
    assert found.value == pytest.approx(2 * rho**2 / (1 - rho**2), rel=0.05)
    assert found.kept is None
    broken = under_test.read_conditional(jax.random.key(0), lambda x, z: jnp.nan * conditional(x, z), pairs)
    assert broken.value is None
    assert "not finite" in broken.reason


def test_a_batch_repeats_no_row_and_reaches_every_row():
    draw = jax.jit(under_test.distinct_rows, static_argnums=(1, 2))
    rows = np.stack([draw(jax.random.key(seed), 23, 7) for seed in range(400)])
    assert all(len(set(one)) == 7 for one in rows)
    # 400 * 7 / 23 = 122 expected; 5 standard deviations.
    counts = np.bincount(rows.ravel(), minlength=23)
    assert counts.size == 23
    assert np.abs(counts - 400 * 7 / 23).max() < 5 * math.sqrt(400 * 7 / 23)


def test_mine_trains_with_the_moving_average():
    train = gaussians(0.5, (40, 2, 2))[0]
    critics = Critics("mine", 1, width=8, batch=40)
    critic = jax.tree.map(lambda leaf: leaf + 0.05, jax.jit(critics.network.init)(jax.random.key(0), *train))
    params = {"critic": critic, "log_ema": jnp.asarray(0.7)}
    trained = jax.jit(jax.value_and_grad(under_test.Objective(critics)))
    value, gradient = trained(params, (train, train, jnp.asarray(0.0)), jax.random.key(1))

    @functools.partial(jax.value_and_grad, has_aux=True)
    def direct(critic):
        return information.mine(*information.split_scores(critics.network.apply(critic, *train)), 0.7)

    (expected, log_ema), slope = jax.jit(direct)(critic)
    assert float(value) == pytest.approx(-float(expected), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-4, atol=1e-4), gradient["critic"], slope)
    # One step of the optimiser sets the average to its new value.
    optimizer = under_test.optimizer(1e-3, 100)
    updates, _ = jax.jit(optimizer.update)(gradient, jax.jit(optimizer.init)(params), params)
    assert abs(float(log_ema) - 0.7) > 1e-3
    assert float(params["log_ema"] + updates["log_ema"]) == pytest.approx(float(log_ema), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "x"}, "estimator='x': must be one of mine"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 1}, "batch=1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Critics(**settings)
