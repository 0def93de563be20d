import jax

from ani_jax.training.phases import enter, schedule
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
