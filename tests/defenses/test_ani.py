import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward, freeze
from ani_jax.modules.cloud import CnnCloud
from ani_jax.training.state import init
from ani_jax.training.step import make_step
from ani_jax.types import Batch

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    image = jax.random.uniform(KEY, (8, 16, 16, 3))
    return Batch(image, jnp.arange(8) % 5, {})


def small(**options):
    return registry.build("ani", 5, (16, 16, 3), width=4, **options)


def same(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_reward_is_the_mean_of_logs_not_the_log_of_the_mean(batch):
    amount = jnp.full(batch.image.shape, 0.1).at[:, 0, 0, 0].set(10.0)
    aux = {"amount": amount, "location": batch.image}
    terms = small().client_loss(Forward(batch.image, aux, jnp.zeros((8, 5)), {}), batch)
    assert float(terms["entropy"]) == pytest.approx(-float(jnp.log(amount).mean()), rel=1e-5)
    assert float(terms["entropy"]) > 1
    assert float(terms["task"]) == pytest.approx(np.log(5), rel=1e-5)


def test_the_labels_of_the_attribute_are_never_read(batch):
    """The whole step runs on a batch that holds no attribute at all."""
    assert batch.sensitive == {}
    defense = small()
    _, metrics = jax.jit(make_step(defense, defense.phases[1]))(init(defense, KEY), batch)
    assert np.isfinite([float(value) for value in metrics.values()]).all()


def test_frozen_server_stays_and_the_fine_tuned_one_moves(batch):
    for finetuned in (False, True):
        defense = small(finetuned=finetuned)
        state = init(defense, KEY)
        after, _ = jax.jit(make_step(defense, defense.phases[1]))(state, batch)
        assert same(after.params["server"], state.params["server"]) is not finetuned
        assert same(after.statistics["server"], state.statistics["server"]) is not finetuned
        assert not same(after.params["client"], state.params["client"])


def test_what_is_let_through_beside_the_label_is_paid_for_by_the_injector(batch):
    defense = small(entropy=0.0, excess=0.1)
    state, phase = init(defense, KEY), defense.phases[1]
    assert phase.objective == ("task", "excess")
    after, metrics = jax.jit(make_step(defense, dataclasses.replace(phase, objective=("excess",))))(state, batch)
    assert same(after.params["server"], state.params["server"])
    assert not same(after.params["client"], state.params["client"])
    # Noise that has just begun hides next to nothing: many nats.
    assert float(metrics["term/excess"]) > 100


def test_pretraining_leaves_the_injector_alone_and_almost_silent(batch):
    defense = small(stddev_max=1.0)
    state = init(defense, KEY)
    after, metrics = jax.jit(make_step(defense, defense.phases[0]))(state, batch)
    assert same(after.params["client"], state.params["client"])
    assert float(metrics["amount"]) < 0.005
    assert "term/entropy" not in metrics


@pytest.mark.parametrize("noise", ["additive", pytest.param("masking", marks=pytest.mark.slow)])
def test_the_noise_grows_with_the_weight(batch, noise):
    amounts = []
    for weight in (0.0, 0.1, 10.0):
        defense = small(noise=noise, learning_rate=0.03)
        step = jax.jit(make_step(defense, defense.phases[1]))
        state = init(defense, KEY)
        state = dataclasses.replace(state, weights={"entropy": jnp.float32(weight)})
        for _ in range(25):
            state, metrics = step(state, batch)
        amounts.append(-float(metrics["term/entropy"]))
    assert amounts[0] < amounts[1] < amounts[2]


def test_without_noise_weight_shift_or_noise_it_is_plain_training_of_the_server(batch):
    """METHODS 7: the privacy term removed, noise and shift off, one step equals plain cross-entropy training."""
    defense = small(entropy=0.0, shift="off", scale="global", stddev_max=0.01)
    assert defense.weights.active == ()
    assert defense.phases[1].objective == ("task",)
    state = init(defense, KEY)
    state.params["client"]["rho"] = jnp.full_like(state.params["client"]["rho"], -100.0)
    after, _ = jax.jit(make_step(defense, defense.phases[1]))(state, batch)

    @dataclasses.dataclass(frozen=True)
    class Plain(type(registry.build("none", 5, (16, 16, 3), width=4))):
        @property
        def client(self):
            return defense.client

        @property
        def server(self):
            return CnnCloud(5, 4, depth=0)

    plain = Plain(5, (16, 16, 3), width=4, steps=defense.steps, learning_rate=defense.learning_rate)
    other = dataclasses.replace(init(plain, KEY), params=state.params)
    expected, _ = jax.jit(make_step(plain, plain.phases[0]))(other, batch)
    assert same(after.params["server"], expected.params["server"])


def test_the_frozen_release_declares_its_noise(batch):
    defense = small()
    state = init(defense, KEY)
    release, _ = freeze(defense, state.params, state.statistics)
    assert release.stochastic
    z = release(batch.image, KEY)
    noise = (z - release.mean(release.variables, batch.image)) / release.stddev(release.variables, batch.image)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.05)
    assert release.log_prob(release.variables, z, batch.image).shape == (8,)
    uniform = small(noise="masking_uniform")
    state = init(uniform, KEY)
    assert freeze(uniform, state.params, state.statistics)[0].stddev is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "loud"}, "noise=loud: must be one of additive, masking, masking_uniform"),
        ({"shift_bound": 2.0}, r"shift_bound=2.0: must be in \(0, 1\]"),
        ({"stddev_max": 0.0}, r"stddev_max=0.0: must be in \[0.01, 100\]"),
        ({"repeats": "memoised", "noise": "masking"}, "repeats=memoised: must be fresh with noise=masking"),
        ({"repeats": "memoised", "stddev_max": 0.02}, "stddev_max=0.02: must be above 0.03125"),
        ({"pretraining_steps": -1}, "pretraining_steps=-1: must be 0 or more"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
