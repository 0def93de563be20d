import dataclasses
from typing import ClassVar

import jax
import pytest

from ani_jax.training.budget import UtilityBudget
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.kept import Kept, spends
from ani_jax.training.state import init

TARGET = UtilityBudget(lost=0.02, loss=0.5, accuracy=0.0)


@pytest.fixture(scope="module")
def private(toy):
    class Private(type(toy())):
        privacy: ClassVar[tuple[str, ...]] = ("attribute",)

    return Private(classes=3, image_shape=(4, 4, 1), steps=4, pretraining=2)


def test_a_phase_spends_where_it_has_a_private_term(private):
    assert [spends(private, phase) for phase in private.phases] == [False, True, False]


def test_only_states_of_a_spending_phase_are_kept_and_a_restart_remembers(private, toy_batch, tmp_path):
    checkpoints, events = Checkpoints(tmp_path), []
    states = [dataclasses.replace(init(private, jax.random.key(seed)), phase=jax.numpy.int32(1)) for seed in range(4)]
    kept = Kept(private, toy_batch, TARGET, checkpoints, states[0])
    kept.consider(dataclasses.replace(states[0], phase=jax.numpy.int32(0)), events.append)
    assert events == []
    for state in states:
        kept.consider(state, events.append)
    kept.wait()
    best = min(range(4), key=lambda place: events[place]["leakage"])
    again = Kept(private, toy_batch, TARGET, checkpoints, states[0])
    for found in (kept.state, again.state):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found.params, states[best].params))
    again.consider(states[best], events.append)
    assert not events[-1]["kept"]


def test_the_run_goes_on_with_a_target_moved_by_what_was_seen(private, toy_batch):
    state = dataclasses.replace(init(private, jax.random.key(0)), phase=jax.numpy.int32(1))
    unmet = dataclasses.replace(TARGET, accuracy=1.0)
    on = Kept(private, toy_batch, unmet, None, state).consider(state, lambda event: None)
    assert float(on.budget["log_target"]) < 0
    assert (
        float(Kept(private, toy_batch, TARGET, None, state).consider(state, lambda event: None).budget["log_target"])
        == 0
    )
