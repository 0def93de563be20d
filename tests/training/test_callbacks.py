"""What is told of a run, and when; numbers by hand instead of a run's."""

import jax
import jax.numpy as jnp
import pytest

from ani_jax.training.callbacks import PATIENCE, Callback, Run, Save, Stop, Tell, TrainingError, complaint
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.devices import Devices
from ani_jax.training.loop import Stopped, TrainConfig, train
from ani_jax.training.phases import Part
from ani_jax.training.state import init
from ani_jax.training.step import Outcome


@pytest.fixture
def begin(toy, toy_data):
    """A run of 100 steps that logs every second one, before its first."""

    def build(tell=print, **config):
        config = TrainConfig(batch_size=8, log_every=2, **config)
        state = init(toy(), jax.random.key(0))
        return Run(toy(), toy_data, config, Devices(), [Tell(tell)], state)

    return build


def dispatch(run, step, loss, **seen):
    """What the loop leaves of one step."""
    run.part = Part(0, run.defense.phases[1], step - 1, 1, 100)
    outcome = Outcome({"loss": jnp.float32(loss), "term/task": jnp.float32(1)}, jnp.int32(step), jnp.isfinite(loss))
    run.leave(outcome, {name: jnp.float32(value) for name, value in seen.items()})


def test_numbers_are_told_once_and_only_where_they_are_due(begin):
    events = []
    run = begin(events.append)
    for step in (1, 2):
        dispatch(run, step, 0.5, extra=2.0)
        run.flush()
        run.flush()
    expected = {"loss": 0.5, "term/task": 1.0, "extra": 2.0}
    assert events == [{"kind": "metrics", "step": 2, "phase": "train", "metrics": expected}]


def test_a_bad_step_stops_the_run_even_where_the_log_is_not_due(begin):
    run = begin()
    run.saved = 5
    dispatch(run, 7, jnp.nan)
    with pytest.raises(TrainingError, match="step 7: loss not finite; the last good checkpoint is that of step 5"):
        run.flush()


def test_what_was_looked_at_beside_the_step_must_be_finite_too(begin):
    run = begin(skip_nonfinite=True)
    dispatch(run, 8, 0.5, held=jnp.inf)
    with pytest.raises(TrainingError, match="step 8: held not finite; no checkpoint"):
        run.flush()


def test_skipped_steps_are_told_until_patience_ends(begin):
    events = []
    run = begin(events.append, skip_nonfinite=True)
    for step in range(1, PATIENCE + 1):
        dispatch(run, step, jnp.inf)
        run.flush()
    assert [event["kind"] for event in events] == ["skipped"] * PATIENCE
    dispatch(run, 50, 0.5)
    run.flush()
    for step in range(1, PATIENCE + 1):
        dispatch(run, step, jnp.inf)
        run.flush()
    dispatch(run, 99, jnp.inf)
    with pytest.raises(TrainingError, match="step 99"):
        run.flush()


def test_causes_are_named_before_the_sums_that_they_spoil():
    nan = float("nan")
    text = str(
        complaint({"loss": nan, "gradient_norm": nan, "gradient_norm/client": nan, "term/beta": nan, "ok": 1}, 3, None)
    )
    assert text.startswith("step 3: term/beta, gradient_norm/client, loss, gradient_norm not finite")


class Witness(Callback):
    """Writes down what it is called for."""

    def __init__(self, story):
        self.story = story

    def start(self, run):
        self.story.append("start")

    def look(self, run):
        self.story.append(f"look {run.part.end}")
        return {"looked": jnp.float32(run.part.end)}

    def step(self, run):
        self.story.append(f"step {run.part.end}, saved {run.saved}")

    def event(self, event):
        self.story.append(f"{event['kind']} told at {event['step']}")

    def end(self, run):
        self.story.append("end")

    def close(self):
        self.story.append("close")


CONFIG = TrainConfig(batch_size=8, log_every=1, checkpoint_every=2)


def test_the_order_of_a_run_is_look_entry_flush_save_step(toy, toy_data, tmp_path):
    story = []
    train(toy(steps=3), toy_data, CONFIG, [Save(Checkpoints(tmp_path)), Witness(story)])
    assert story == [
        *("start", "start told at 0"),
        *("look 1", "step 1, saved None"),
        # The first step's numbers while the second is computed; the second's own before its checkpoint.
        *("metrics told at 1", "look 2", "metrics told at 2", "checkpoint told at 2", "step 2, saved 2"),
        *("look 3", "metrics told at 3", "checkpoint told at 3", "step 3, saved 3"),
        *("end", "close", "end told at 3"),
    ]


def test_what_is_left_is_read_before_a_stop_and_everybody_closes_after_an_error(toy, toy_data):
    story = []
    with pytest.raises(Stopped, match="step 1 of 3"):
        train(toy(steps=3), toy_data, CONFIG, [Stop(lambda: True), Witness(story)])
    assert story[2:] == ["look 1", "step 1, saved None", "metrics told at 1", "close"]


def test_what_a_callback_sees_is_logged_and_what_it_changes_is_trained_on(toy, toy_data):
    class Heavier(Callback):
        def look(self, run):
            run.change(weights={"attribute": jnp.float32(run.part.end)})
            return {"weight": jnp.float32(run.part.end)}

    events = []
    state = train(toy(steps=3), toy_data, CONFIG, [Heavier(), Tell(events.append)])
    assert [e["metrics"]["weight"] for e in events if e["kind"] == "metrics"] == [1, 2, 3]
    assert float(state.weights["attribute"]) == 3
