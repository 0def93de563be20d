"""Members of a frontier, trained together, against the same members trained one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.data import digits
from ani_jax.data.loader import draw_batch
from ani_jax.defenses import registry
from ani_jax.defenses.funnel import Funnel
from ani_jax.frontier import sweep
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.phases import enter, schedule
from ani_jax.training.state import init
from ani_jax.training.step import Work, advance


def members_of(defense, count):
    return [dataclasses.replace(defense, **sweep.scaled(defense, m)) for m in sweep.multipliers(count)]


def log_of(record):
    """An ``on_event`` that keeps every logged loss: member -> step -> loss."""

    def on_event(member, event):
        if event["kind"] == "metrics":
            record.setdefault(member, {})[event["step"]] = event["metrics"]["loss"]

    return on_event


@functools.partial(jax.jit, static_argnames="work")
def one_step(state, source, data_key, work):
    return advance(work, state, lambda step: draw_batch(source, data_key, step, work.batch_size))


def alone(defense, data, config, perturbation=0.0, steps=None):
    """The plain single run from first principles, its start moved by a relative ``perturbation``."""
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    state = init(defense, init_key)
    state = dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf * (1 + perturbation), state.params))
    losses = {}
    for index, (phase, end) in enumerate(schedule(defense)):
        state = enter(state, index, phase, data)
        work = Work(defense, phase, config.batch_size)
        for step in range(int(state.step), end if steps is None else steps):
            state, outcome = one_step(state, data.defend, data_key, work)
            losses[step + 1] = float(outcome.metrics["loss"])
    return state, losses


def apart(one, other):
    """Largest difference between two trees."""
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def check_equality(defense, data, count):
    """First-step gradients to 1e-5, losses of 10 steps to 1e-4, and 50 steps as close as a run moved by 1e-7 is.

    The first two in the arithmetic of 64 bits: in 32, rounding decides a gradient at the kink of a ReLU, and a run moved by 1e-7
    is as far (the funnel at this seed: 8e-3, and 5e-4 in the tenth loss). Losses of tens, which the largest weights have, are
    compared in units of themselves.
    """
    config = TrainConfig(seed=3, batch_size=16, log_every=1)
    members = members_of(defense, count)
    with jax.enable_x64(True):
        short, record = [dataclasses.replace(member, steps=10) for member in members], {}
        sweep.train_together(short, data, config, count, log_of(record))
        for place, (member, first) in enumerate(zip(short, first_steps(short, data, config), strict=True)):
            together, own = gradients(first), gradients(alone(member, data, config, steps=1)[0])
            assert apart(together, own) <= 1e-5 * max(1.0, *(float(jnp.abs(g).max()) for g in own))
            assert record[place] == pytest.approx(alone(member, data, config)[1], rel=1e-4, abs=1e-4)
    ends = sweep.train_together(members, data, config, count, log_of(record := {}))
    for place, member in enumerate(members):
        end, losses = alone(member, data, config)
        moved, _ = alone(member, data, config, 1e-7)
        assert sorted(record[place]) == sorted(losses) == list(range(1, 51))
        assert apart(ends[place].params, end.params) <= 3 * apart(moved.params, end.params)
        assert ends[place].weights == pytest.approx(member.weights.values)


def test_a_member_is_sound_as_long_as_the_loop_would_train_it():
    health = sweep.Health(jnp.zeros(2, int), jnp.ones(2, bool))
    for good in ([True, False], [True, True], [False, True], [False, True]):
        health = sweep.watched(health, jnp.array(good), 1)
    assert health.sound.tolist() == [False, True]
    assert sweep.watched(health, jnp.array([True, False]), 0).sound.tolist() == [False, False]


def first_steps(members, data, config):
    """The states of a group after one step, by the program that trains it."""
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    phase, _ = schedule(members[0])[0]
    starts = [enter(init(member, init_key), 0, phase, data) for member in members]
    work = Work(members[0], phase, config.batch_size)
    states, _ = sweep.dispatch(sweep.stack(starts), data.defend, data_key, work)
    return sweep.unstack(states, len(members))


def gradients(state):
    """Of the first step: Adam's first moment is then a tenth of them."""
    return [10 * leaf for group in ("client", "server") for leaf in jax.tree.leaves(state.optimizers[group][0].mu)]


def test_the_grid_is_logarithmic_and_ends_at_the_span():
    grid = sweep.multipliers(5, 4.0)
    assert grid == pytest.approx((0.25, 0.5, 1, 2, 4))
    for count, span in ((0, 10.0), (2, 1.0), (2, float("inf")), (1000, 10.0), (6, 1.001)):
        with pytest.raises(ValueError, match=r"(weights|span)="):
            sweep.multipliers(count, span)


def test_weights_are_scaled_as_the_defence_says():
    funnel = registry.build("funnel", 10, (32, 32, 3), beta=30.0, gamma=0.5, l1=1.0)
    assert sweep.scaled(funnel, 2.0) == {"excess": 0.0, "beta": 60.0, "gamma": 1.0, "l1": 2.0}
    partition = registry.build("partition", 10, (32, 32, 3), attributes=(("ink", 4),))
    # a / (1 - a) is what doubles where the weights are convex.
    assert sweep.scaled(partition, 2.0)["attribute"] == pytest.approx(0.6 * 2 / (0.396 + 2 * 0.604), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "own", "stronger", "weaker"),
    [
        ("gaussian", {"noise_stddev": 2.0}, 20.0, 0.2),
        ("laplace", {"noise_stddev": 2.0}, 20.0, 0.2),
        ("dropout", {"keep_probability": 0.1}, 0.01, 1.0),
        ("ldp", {"epsilon": 32.0}, 3.2, 320.0),
        ("topk", {"kept": 16}, 2, 160),
        ("quantise", {"release_bits": 1}, 1, 10),
    ],
)
def test_without_weights_a_client_is_what_makes_it_stronger(name, own, stronger, weaker):
    defense = registry.build(name, 10, (32, 32, 3))
    assert sweep.scaled(defense, 1.0) == own
    for multiplier, value in ((10.0, stronger), (0.1, weaker)):
        found = sweep.scaled(defense, multiplier)
        assert found == dict.fromkeys(own, value)
        assert type(found[next(iter(own))]) is type(value)
        dataclasses.replace(defense, **found)


def test_what_has_no_strength_has_one_point():
    assert all(sweep.scaled(registry.build(name, 10, (32, 32, 3)), 1.0) == {} for name in ("none", "label_only"))


@pytest.fixture(scope="module")
def swept(toy):
    """Builds a toy, whose adversary's weight is what a frontier scales."""
    return lambda steps: toy(steps=steps)


def test_together_is_one_by_one(toy_data, swept):
    check_equality(swept(50), toy_data, count=3)


@pytest.mark.slow
def test_groups_of_any_size_train_the_same_members(toy_data, swept):
    config, members = TrainConfig(batch_size=16, log_every=2), members_of(swept(4), 5)
    whole = sweep.train_together(members, toy_data, config, 5)
    for group in (2, 4):
        record = {}
        parts = sweep.train_together(members, toy_data, config, group, log_of(record))
        assert sorted(record) == [0, 1, 2, 3, 4]
        for one, other in zip(whole, parts, strict=True):
            assert apart(one.params, other.params) < 1e-5


def test_members_have_the_layout_of_a_run(toy_data, swept):
    config, members = TrainConfig(batch_size=16), members_of(swept(2), 2)
    own = train(members[1], toy_data, config)
    together = sweep.train_together(members, toy_data, config, 2)[1]
    assert jax.tree.structure(own) == jax.tree.structure(together)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(own)] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(together)
    ]
    assert int(together.step) == 2


def test_a_member_that_diverges_leaves_the_others_alone(toy_data, swept):
    config, sound = TrainConfig(batch_size=16, log_every=1), swept(3)
    members = [sound, dataclasses.replace(sound, attribute=3e38)]
    record = {}
    first, second = sweep.train_together(members, toy_data, config, 2, log_of(record))
    assert second is None
    assert apart(first.params, train(sound, toy_data, config).params) < 1e-5
    assert all(np.isfinite(list(losses.values())).all() for losses in record.values())


def test_a_group_that_does_not_fit_is_halved(toy_data, swept, monkeypatch):
    tried, real = [], sweep.train_group

    def small(members, *arguments):
        tried.append(len(members))
        if len(members) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return real(members, *arguments)

    monkeypatch.setattr(sweep, "train_group", small)
    assert len(sweep.train_together(members_of(swept(1), 5), toy_data, TrainConfig(batch_size=16), 5)) == 5
    assert tried == [5, 3, 2, 2, 2]


def test_what_cannot_be_one_program_is_refused(toy_data, swept):
    config = TrainConfig(batch_size=16)
    for members, options, message in (
        ([swept(2), swept(3)], {}, "members: must differ in their loss weights alone"),
        ([swept(2), dataclasses.replace(swept(2), attribute=0.0)], {}, "members: must differ"),
        ([swept(2)], {"steps_per_dispatch": 2}, "steps_per_dispatch=2: must be 1"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep.train_together(members, toy_data, dataclasses.replace(config, **options), 2)
    with pytest.raises(ValueError, match="group=0: must be at least 1"):
        sweep.train_together([swept(2)], toy_data, config, 0)


@dataclasses.dataclass(frozen=True)
class Counted(Funnel):
    """Counts how often its losses are traced: once a compilation of a step."""

    traced = []  # noqa: RUF012

    def client_loss(self, forward, batch):
        Counted.traced.append(1)
        return super().client_loss(forward, batch)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.slow
def test_a_frontier_compiles_its_step_once(group):
    """Two weights and two seeds with splits of their own, one by one and together."""
    Counted.traced.clear()
    base = Counted(10, (16, 16, 3), width=4, expansion=4, channels=4, steps=1)
    for seed in range(2):
        data, config = digits.load(seed, image_size=16), TrainConfig(seed=seed, batch_size=8)
        members = members_of(base, 2)
        if group == 1:
            for member in members:
                train(member, data, config)
        else:
            sweep.train_together(members, data, config, group)
    assert len(Counted.traced) == 1


@pytest.mark.slow
def test_funnel_together_is_one_by_one():
    data = digits.load(3)
    check_equality(registry.build("funnel", 10, (32, 32, 3), width=16, expansion=32, steps=50), data, count=8)
