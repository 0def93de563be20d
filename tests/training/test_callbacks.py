import jax
import jax.numpy as jnp
import pytest

from ani_jax.training import processes
from ani_jax.training.callbacks import PATIENCE, Callback, Run, Save, Stop, Stopped, Tell, TrainingError, complaint
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.devices import Devices
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.phases import Part
from ani_jax.training.state import init
from ani_jax.training.step import Outcome


@pytest.fixture
def begun(toy, toy_data):
    """Builds a run with one listener, and the list of what it hears."""

    def build(**options):
        events, defense = [], toy()
        config = TrainConfig(batch_size=8, log_every=2, checkpoint_every=2, **options)
        return Run(
            defense, toy_data, config, Devices(), [Tell(events.append)], init(defense, jax.random.key(0))
        ), events

    return build


def leave(run, step, loss, **seen):
    """Leaves the numbers of a dispatch of one step."""
    run.part = Part(0, run.defense.phases[1], step - 1, 1, 1000)
    outcome = Outcome({"loss": jnp.float32(loss), "term/task": jnp.float32(1)}, jnp.int32(step), jnp.isfinite(loss))
    run.leave(outcome, {name: jnp.float32(value) for name, value in seen.items()})


def test_numbers_are_told_once_and_only_where_they_are_due(begun):
    run, events = begun()
    for step in (1, 2):
        leave(run, step, 0.5, extra=2.0)
        run.flush()
        run.flush()
    expected = {"loss": 0.5, "term/task": 1.0, "extra": 2.0}
    assert events == [{"kind": "metrics", "step": 2, "phase": "train", "metrics": expected}]


def test_a_bad_step_stops_the_run_even_where_the_log_is_not_due(begun):
    run, _ = begun()
    run.saved = 5
    leave(run, 7, jnp.nan)
    with pytest.raises(TrainingError, match="step 7: loss not finite; the last good checkpoint is that of step 5"):
        run.flush()


def test_what_was_looked_at_beside_the_step_must_be_finite_too(begun):
    run, _ = begun(skip_nonfinite=True)
    leave(run, 8, 0.5, held=jnp.inf)
    with pytest.raises(TrainingError, match="step 8: held not finite; no checkpoint"):
        run.flush()


def test_skipped_steps_are_told_until_patience_ends(begun):
    run, events = begun(skip_nonfinite=True)
    for step in range(PATIENCE):
        leave(run, step, jnp.inf)
        run.flush()
    assert [event["kind"] for event in events] == ["skipped"] * PATIENCE
    leave(run, 50, 0.5)
    run.flush()
    for step in range(PATIENCE):
        leave(run, step, jnp.inf)
        run.flush()
    leave(run, 99, jnp.inf)
    with pytest.raises(TrainingError, match="step 99"):
        run.flush()


def test_causes_are_named_before_the_sums_that_they_spoil():
    nan = float("nan")
    text = str(
        complaint({"loss": nan, "gradient_norm": nan, "gradient_norm/client": nan, "term/beta": nan, "ok": 1}, 3, None)
    )
    assert text.startswith("step 3: term/beta, gradient_norm/client, loss, gradient_norm not finite")


class Recording(Callback):
    """Writes down what is called, under a name of its own."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def record(self, what):
        self.calls.append(f"{self.name} {what}")

    def start(self, run):
        assert int(run.state.step) == 0
        self.record("start")

    def look(self, run):
        assert int(run.state.step) == run.part.end
        self.record(f"look {run.part.end}")
        return {self.name: jnp.float32(run.part.end)}

    def step(self, run):
        self.record(f"step {run.part.end}")

    def event(self, event):
        self.record(f"{event['kind']} {event['step']}")

    def end(self, run):
        self.record("end")

    def close(self):
        self.record("close")


def test_all_are_called_at_each_place_before_the_next_and_numbers_are_read_one_dispatch_late(toy, toy_data):
    calls = []
    config = TrainConfig(batch_size=8, log_every=2, checkpoint_every=2)
    train(toy(steps=3), toy_data, config, [Recording(name, calls) for name in "ab"])
    expected = [
        "start",
        "start 0",
        "look 1",
        "step 1",
        "look 2",
        "step 2",
        "metrics 2",
        "look 3",
        "step 3",
        "metrics 3",
    ]
    expected += ["end", "end 3"]
    assert [call for call in calls if "close" not in call] == [f"{name} {what}" for what in expected for name in "ab"]
    assert calls[-4:-2] == ["b close", "a close"]


def test_what_callbacks_saw_is_logged_beside_the_step(toy, toy_data):
    events = []
    config = TrainConfig(batch_size=8, log_every=2, checkpoint_every=2)
    train(toy(steps=2), toy_data, config, [Recording("a", []), Recording("b", []), Tell(events.append)])
    assert {"a": 2.0, "b": 2.0}.items() <= events[1]["metrics"].items()


def test_an_error_anywhere_closes_all(toy, toy_data):
    calls = []

    class Fails(Callback):
        def step(self, run):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        train(
            toy(steps=3), toy_data, TrainConfig(batch_size=8), [Recording("a", calls), Fails(), Recording("b", calls)]
        )
    assert calls[:6] == ["a start", "b start", "a start 0", "b start 0", "a look 1", "b look 1"]
    assert calls[6:] == ["a step 1", "b close", "a close"]


def test_a_callback_may_put_another_state_in_place_and_change_fields(toy, toy_data):
    class Doubles(Callback):
        def look(self, run):
            if run.part.end == 1:
                run.change(weights={"attribute": 2 * run.state.weights["attribute"]})
            return {}

        def end(self, run):
            run.state = run.state.replace(step=jnp.int32(99))

    state = train(toy(steps=3), toy_data, TrainConfig(batch_size=8), [Doubles()])
    assert float(state.weights["attribute"]) == 1
    assert int(state.step) == 99


def test_a_run_that_is_told_to_stop_asks_after_every_dispatch_and_saves_at_once(toy, toy_data, tmp_path):
    asked, checkpoints = [], Checkpoints(tmp_path)

    def told():
        asked.append(1)
        return len(asked) == 3

    for callbacks in ([Stop(told), Save(checkpoints)], [Save(checkpoints), Stop(told)]):
        asked.clear()
        with pytest.raises(Stopped, match=r"step (3|6) of 9"):
            train(toy(steps=9), toy_data, TrainConfig(batch_size=8), callbacks)
        assert len(asked) == 3
    assert checkpoints.steps() == [3, 6]


def test_a_listener_of_another_process_hears_nothing(monkeypatch):
    heard = []
    Tell(heard.append).event({"kind": "end"})
    monkeypatch.setattr(processes, "is_main", lambda: False)
    Tell(heard.append).event({"kind": "end"})
    assert heard == [{"kind": "end"}]
