import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.training.callbacks import Save, Stop, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import Stopped, TrainConfig, TrainingError, evaluate, train
from ani_jax.training.state import init
from ani_jax.types import Source, fixed

CONFIG = TrainConfig(batch_size=8, log_every=2, checkpoint_every=2)


def leaves(state):
    return [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(state)
    ]


def identical(a, b):
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


class Killed(BaseException):
    pass


def test_events_tell_the_story(toy, toy_data):
    events = []
    train(toy(), toy_data, CONFIG, [Tell(events.append)])
    assert events[0] == {"kind": "start", "step": 0, "total": 6}
    assert [e["step"] for e in events if e["kind"] == "metrics"] == [2, 4, 6]
    assert events[-1] == {"kind": "end", "step": 6, "total": 6}
    metrics = events[1]["metrics"]
    assert {"loss", "accuracy", "term/task", "term/attribute", "adversary/ink", "gradient_norm"} <= set(metrics)
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.mark.parametrize("kill_after", [2, 4, 6, 8])
def test_a_killed_run_resumes_to_identical_parameters_across_phases(toy, toy_data, tmp_path, kill_after):
    defense = toy(steps=4, pretraining=2)
    whole = train(defense, toy_data, CONFIG)

    def kill(event):
        if event["kind"] == "checkpoint" and event["step"] == kill_after:
            raise Killed

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(Killed):
        train(defense, toy_data, CONFIG, [Save(checkpoints), Tell(kill)])
    resumed = train(defense, toy_data, CONFIG, [Save(checkpoints)])
    assert identical(whole, resumed)
    assert int(resumed.extra["prepared"]) == 1


def test_steps_per_dispatch_changes_no_batch_and_no_key(toy, toy_data):
    one = train(toy(), toy_data, CONFIG)
    many = train(toy(), toy_data, TrainConfig(batch_size=8, log_every=3, checkpoint_every=3, steps_per_dispatch=3))
    for a, b in zip(leaves(one), leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_logs_and_checkpoints_go_on_after_a_phase_that_ends_between_two_multiples(toy, toy_data, tmp_path):
    events = []
    config = TrainConfig(batch_size=8, steps_per_dispatch=2, log_every=2, checkpoint_every=4)
    train(toy(steps=6, pretraining=3), toy_data, config, [Save(Checkpoints(tmp_path, keep=9)), Tell(events.append)])
    assert [e["step"] for e in events if e["kind"] == "checkpoint"] == [5, 9, 11]
    assert [e["step"] for e in events if e["kind"] == "metrics"] == [2, 5, 7, 9, 11]


def test_everything_up_to_a_checkpoint_is_logged_before_it(toy, toy_data, tmp_path):
    events = []
    train(toy(), toy_data, CONFIG, [Save(Checkpoints(tmp_path)), Tell(events.append)])
    kinds = [(e["kind"], e["step"]) for e in events]
    assert kinds.index(("metrics", 4)) < kinds.index(("checkpoint", 4)) < kinds.index(("metrics", 6))


def test_a_phase_after_the_main_one_still_learns(toy, toy_data, tmp_path):
    """Each group's rate decays over all steps that train it: one that ran out before would leave the last phase idle."""
    defense, checkpoints, seen = toy(steps=4, pretraining=6), Checkpoints(tmp_path), {}
    assert [defense.optimizer(group).decay_steps for group in ("client", "server")] == [10, 12]

    def look(event):
        if event["kind"] == "checkpoint":
            seen[event["step"]] = checkpoints.restore(init(defense, jax.random.key(0)))[1].params

    train(defense, toy_data, CONFIG, [Save(checkpoints), Tell(look)])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), seen[10], seen[12])
    assert max(jax.tree.leaves(moved["server"])) > 1e-6
    assert max(jax.tree.leaves(moved["client"])) == 0


def test_seeds_differ_and_repeat(toy, toy_data):
    first, again, other = (train(toy(), toy_data, TrainConfig(seed=seed, batch_size=8)) for seed in (0, 0, 1))
    assert identical(first, again)
    assert not identical(first, other)


def test_training_learns(toy, toy_data):
    defense = toy(steps=300, learning_rate=0.03, attribute=0.0)
    state = train(defense, toy_data, TrainConfig(batch_size=16))
    assert evaluate(defense, state, toy_data.test, jax.random.key(0), chunk=32) > 0.95


@pytest.mark.parametrize("per_dispatch", [1, 3])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_term(toy, toy_data, tmp_path, per_dispatch):
    class Explodes(type(toy())):
        def client_loss(self, forward, batch):
            losses = super().client_loss(forward, batch)
            return losses | {"attribute": losses["attribute"] / 0.0}

    defense = Explodes(classes=3, image_shape=(4, 4, 1), steps=6)
    checkpoints = Checkpoints(tmp_path)
    config = TrainConfig(batch_size=8, log_every=3, checkpoint_every=3, steps_per_dispatch=per_dispatch)
    with pytest.raises(TrainingError, match=r"step 1: term/attribute, .* not finite; no checkpoint"):
        train(defense, toy_data, config, [Save(checkpoints)])
    assert checkpoints.steps() == []
    # It is no callback that notices.
    with pytest.raises(TrainingError, match=r"step 1: term/attribute, .* not finite; no checkpoint"):
        train(defense, toy_data, config)


def test_a_gradient_that_is_not_finite_is_noticed_at_a_finite_loss(toy, toy_data):
    class Steep(type(toy())):
        def client_loss(self, forward, batch):
            # The root of 0 is 0, its slope is not finite.
            return super().client_loss(forward, batch) | {"attribute": jnp.sqrt(0 * jnp.square(forward.z).sum())}

    defense = Steep(classes=3, image_shape=(4, 4, 1), steps=6)
    with pytest.raises(TrainingError, match=r"step 1: gradient_norm/client, gradient_norm not finite"):
        train(defense, toy_data, CONFIG)


@pytest.mark.parametrize("per_dispatch", [1, 2])
def test_bad_steps_are_skipped_where_that_is_asked_for(toy, toy_data, per_dispatch):
    """One original is spoilt, so one batch of the epoch is; a run that leaves it out ends with finite parameters."""
    image = toy_data.defend.stored.image.at[5].set(jnp.nan)
    spoilt = dataclasses.replace(toy_data, defend=Source(toy_data.defend.stored._replace(image=image), fixed))
    config = TrainConfig(
        batch_size=8, log_every=2, checkpoint_every=2, steps_per_dispatch=per_dispatch, skip_nonfinite=True
    )
    events = []
    state = train(toy(steps=8), spoilt, config, [Tell(events.append)])
    assert len([event for event in events if event["kind"] == "skipped"]) == 2
    assert int(state.step) == 8
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    with pytest.raises(TrainingError):
        train(toy(steps=8), spoilt, CONFIG)


def test_a_run_that_is_told_to_stop_saves_and_goes_on_identically(toy, toy_data, tmp_path):
    defense = toy(steps=6, pretraining=3)
    whole, checkpoints = train(defense, toy_data, CONFIG), Checkpoints(tmp_path)
    answers = iter([False, False, True])
    with pytest.raises(Stopped, match="step 3 of 11"):
        train(defense, toy_data, CONFIG, [Save(checkpoints), Stop(lambda: next(answers))])
    assert checkpoints.steps()[-1] == 3
    assert identical(whole, train(defense, toy_data, CONFIG, [Save(checkpoints)]))
