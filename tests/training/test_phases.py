import jax

from ani_jax.training.config import TrainConfig
from ani_jax.training.phases import enter, parts, schedule
from ani_jax.training.state import init


def test_schedule_skips_empty_phases(toy):
    assert [(phase.name, end) for phase, end in schedule(toy(steps=6))] == [("train", 6)]
    assert [(phase.name, end) for phase, end in schedule(toy(steps=6, pretraining=4))] == [
        ("pretrain", 4),
        ("train", 10),
        ("server", 12),
    ]


def test_prepare_runs_once_on_entry(toy):
    defense = toy(pretraining=1)
    state = init(defense, jax.random.key(0))
    phase = defense.phases[2]
    entered = enter(state, 2, phase, None)
    assert int(entered.phase) == 2
    assert int(entered.extra["prepared"]) == 1
    again = enter(entered, 2, phase, None)
    assert again is entered


def test_dispatches_end_with_their_phase_and_something_is_due_where_a_multiple_lies_among_the_steps(toy):
    config = TrainConfig(steps_per_dispatch=2, log_every=2, checkpoint_every=4)
    plan = list(parts(schedule(toy(steps=6, pretraining=3)), 0, config))
    assert [(part.index, part.first, part.count) for part in plan] == [
        (0, 0, 2),
        (0, 2, 1),
        (1, 3, 2),
        (1, 5, 2),
        (1, 7, 2),
        (2, 9, 2),
    ]
    assert {(part.phase.name, part.total) for part in plan} == {("pretrain", 11), ("train", 11), ("server", 11)}
    # 4 lies in the third, 8 in the fifth; the run ends with the last.
    assert [part.end for part in plan if part.due(4)] == [5, 9, 11]
    assert [part.end for part in parts(schedule(toy(steps=6, pretraining=3)), 5, config)] == [7, 9, 11]
