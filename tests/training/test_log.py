import jax.numpy as jnp
import pytest

from ani_jax.training.dispatch import Outcome
from ani_jax.training.log import PATIENCE, Entry, Log, TrainingError, complaint


def entry(step, loss, due=True, **seen):
    outcome = Outcome({"loss": jnp.float32(loss), "term/task": jnp.float32(1)}, jnp.int32(step), jnp.isfinite(loss))
    return Entry(step, "train", outcome, {name: jnp.float32(value) for name, value in seen.items()}, due)


def test_numbers_are_told_once_and_only_where_they_are_due():
    events = []
    log = Log(events.append, skip_nonfinite=False)
    for step in (1, 2):
        log.put(entry(step, 0.5, due=step == 2, extra=2.0))
        log.flush()
        log.flush()
    expected = {"loss": 0.5, "term/task": 1.0, "extra": 2.0}
    assert events == [{"kind": "metrics", "step": 2, "phase": "train", "metrics": expected}]


def test_a_bad_step_stops_the_run_even_where_the_log_is_not_due():
    log = Log(print, skip_nonfinite=False)
    log.saved = 5
    log.put(entry(7, jnp.nan, due=False))
    with pytest.raises(TrainingError, match="step 7: loss not finite; the last good checkpoint is that of step 5"):
        log.flush()


def test_what_was_looked_at_beside_the_step_must_be_finite_too():
    log = Log(print, skip_nonfinite=True)
    log.put(entry(7, 0.5, held=jnp.inf))
    with pytest.raises(TrainingError, match="step 7: held not finite; no checkpoint"):
        log.flush()


def test_skipped_steps_are_told_until_patience_ends():
    events = []
    log = Log(events.append, skip_nonfinite=True)
    for step in range(PATIENCE):
        log.put(entry(step, jnp.inf))
        log.flush()
    assert [event["kind"] for event in events] == ["skipped"] * PATIENCE
    log.put(entry(50, 0.5))
    log.flush()
    for step in range(PATIENCE):
        log.put(entry(step, jnp.inf))
        log.flush()
    log.put(entry(99, jnp.inf))
    with pytest.raises(TrainingError, match="step 99"):
        log.flush()


def test_causes_are_named_before_the_sums_that_they_spoil():
    nan = float("nan")
    text = str(
        complaint({"loss": nan, "gradient_norm": nan, "gradient_norm/client": nan, "term/beta": nan, "ok": 1}, 3, None)
    )
    assert text.startswith("step 3: term/beta, gradient_norm/client, loss, gradient_norm not finite")
