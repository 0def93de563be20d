import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ani_jax.optimize.fit import adam, fit, lbfgs

TRACES = []


def quadratic(params, data, key):
    TRACES.append(1)
    return jnp.sum((params - data + 0.01 * jax.random.normal(key, params.shape)) ** 2)


def distance(params, data):
    return jnp.sum((params - data) ** 2)


def explodes(params, data, key):
    return jnp.where(params[0] > 0.25, jnp.nan, -params.sum())


def root(params, data, key):
    # Finite loss, infinite gradient at 0.
    return jnp.sqrt(params[0] * 0.0) + params.sum()


def drifting(params, data, key):
    return -params.sum()


def test_finds_the_minimum_and_reports_every_look(key):
    events = []
    found = fit(
        key,
        jnp.zeros(3),
        quadratic,
        jnp.ones(3),
        steps=120,
        optimizer=adam(0.1),
        evaluate=distance,
        every=50,
        on_event=events.append,
    )
    np.testing.assert_allclose(found.params, 1.0, atol=0.05)
    assert [event["step"] for event in events] == [50, 100, 120]
    assert events == list(found.history)
    assert found.best == min(event["evaluation"] for event in events)
    assert found.failed is None


def test_compiles_once_for_equal_shapes(key):
    fit(key, jnp.zeros(3), quadratic, jnp.ones(3), steps=1, optimizer=adam(0.1))
    before = len(TRACES)
    fit(jax.random.key(1), jnp.ones(3), quadratic, jnp.zeros(3), steps=5, optimizer=adam(0.1))
    assert len(TRACES) == before


def test_same_key_same_result(key):
    runs = [fit(key, jnp.zeros(3), quadratic, jnp.ones(3), steps=20, optimizer=adam(0.1)) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].params, runs[1].params)
    other = fit(jax.random.key(1), jnp.zeros(3), quadratic, jnp.ones(3), steps=20, optimizer=adam(0.1))
    assert not np.array_equal(other.params, runs[0].params)


def noisy(data, key):
    return data - 0.01 * jax.random.normal(key, data.shape)


def towards(params, data, key):
    return distance(params, data)


def test_a_batch_that_is_drawn_apart_is_drawn_by_the_steps_own_key(key):
    own, apart = (
        fit(key, jnp.zeros(3), loss, jnp.ones(3), steps=30, optimizer=adam(0.1), draw=draw)
        for loss, draw in ((quadratic, None), (towards, noisy))
    )
    np.testing.assert_allclose(own.params, apart.params, atol=1e-6)
    assert own.history[-1]["loss"] == pytest.approx(apart.history[-1]["loss"], rel=1e-4)


def test_stops_early_and_keeps_the_best(key):
    often = {"steps": 100, "every": 5, "stop": lambda history: len(history) == 2}
    found = fit(key, jnp.ones(2), drifting, jnp.ones(2), optimizer=adam(0.1), evaluate=distance, **often)
    assert found.steps == 10
    assert found.best == 0.0  # The start was best: every step of this loss leads away.
    np.testing.assert_array_equal(found.params, jnp.ones(2))
    np.testing.assert_allclose(found.last, 2.0, atol=1e-4)  # Ten steps of 0.1 away from it.


def test_a_loss_that_is_not_finite_keeps_the_last_good_parameters(key):
    found = fit(key, jnp.zeros(2), explodes, None, steps=50, optimizer=adam(0.1), every=10)
    assert found.failed == "the loss is not finite at step 4"
    assert found.steps == 0
    np.testing.assert_allclose(found.params, 0.3, atol=1e-5)
    later = fit(key, jnp.zeros(2), explodes, None, steps=50, optimizer=adam(0.03), every=5)
    assert later.failed == "the loss is not finite at step 10"
    assert later.steps == 5
    assert len(later.history) == 1


def test_an_update_that_is_not_finite_changes_nothing(key):
    found = fit(key, jnp.zeros(1), root, None, steps=3, optimizer=adam(0.1))
    assert found.failed is not None
    assert "update" in found.failed
    np.testing.assert_array_equal(found.params, jnp.zeros(1))


@pytest.mark.parametrize(("wrong", "message"), [({"steps": -1}, "steps=-1"), ({"every": 0}, "every=0")])
def test_refuses(key, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(key, jnp.zeros(1), drifting, None, **{"steps": 1, "optimizer": adam(0.1), **wrong})


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("steps", [None, 1, 25])
def test_adam_is_optax_with_its_schedule(steps, clip):
    rate = 0.1
    if steps is not None:
        warmup = max(1, steps // 10)
        rate = optax.warmup_cosine_decay_schedule(0.01, 0.1, warmup, max(steps, warmup + 1))
    expected = optax.chain(*([] if clip is None else [optax.clip_by_global_norm(clip)]), optax.adam(rate))
    found, params = adam(0.1, steps, clip), jnp.zeros(3)
    states = [optimizer.init(params) for optimizer in (found, expected)]
    for key in jax.random.split(jax.random.key(0), 25):
        gradients = 3 * jax.random.normal(key, (3,))
        updates, states[0] = found.update(gradients, states[0], params)
        exact, states[1] = expected.update(gradients, states[1], params)
        np.testing.assert_allclose(updates, exact, rtol=1e-5, atol=1e-7)


def test_rates_and_lengths_share_their_compiled_step(key):
    assert adam(1e-3, 10, 1.0) is adam(1e-3, 10, 1.0)
    fit(key, jnp.zeros(5), quadratic, jnp.ones(5), steps=3, optimizer=adam(0.1, 3))
    before = len(TRACES)
    fit(key, jnp.zeros(5), quadratic, jnp.ones(5), steps=4, optimizer=adam(0.3, 4))
    assert len(TRACES) == before > 0


def rosenbrock(params, data):
    return (data - params[0]) ** 2 + 100 * (params[1] - params[0] ** 2) ** 2


def test_lbfgs_solves_rosenbrock():
    np.testing.assert_allclose(lbfgs(jnp.array([-1.2, 1.0]), rosenbrock, 1.0, steps=100), [1.0, 1.0], atol=1e-3)
