import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.training import budget
from ani_jax.training.budget import Appraisal, Spend, UtilityBudget, Watch, rank, spends
from ani_jax.training.callbacks import Run, Save, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.devices import Devices
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.phases import Part
from ani_jax.training.state import init

TARGET = UtilityBudget(lost=0.02, accuracy=0.6)
CONFIG = TrainConfig(batch_size=8, log_every=10, checkpoint_every=10)


def moved(defense, *accuracies, begun=0.0):
    state = init(defense, jax.random.key(0))
    state = dataclasses.replace(state, budget={**state.budget, "log_multiplier": jnp.float32(begun)})
    for accuracy in accuracies:
        state = budget.ascend(state, jnp.float32(accuracy), defense.weights.arrays(), TARGET, defense)
    return state


def test_room_to_spare_raises_the_weight_and_an_overdrawn_budget_lowers_it(toy):
    defense = toy(attribute=0.5)
    above, below = (moved(defense, accuracy, begun=-1.0) for accuracy in (0.604, 0.596))
    # 0.6 is needed and 0.02 may be lost: a fifth of it is to spare.
    assert float(above.budget["constraint"]) == pytest.approx(-0.2, rel=1e-3)
    assert float(above.budget["log_multiplier"]) == pytest.approx(0.2 * budget.RATE - 1, rel=1e-3)
    assert float(above.weights["attribute"]) == pytest.approx(0.5 * np.exp(0.2 * budget.RATE - 1), rel=1e-4)
    assert float(below.weights["attribute"]) == pytest.approx(0.5 * np.exp(-0.2 * budget.RATE - 1), rel=1e-4)


def test_the_multiplier_stays_in_its_range_and_comes_back_at_once(toy):
    down, up = moved(toy(), *[0.1] * 60), moved(toy(), *[0.9] * 60)
    assert (float(down.budget["log_multiplier"]), float(up.budget["log_multiplier"])) == budget.RANGE
    back = budget.ascend(down, jnp.float32(0.9), toy().weights.arrays(), TARGET, toy())
    assert float(back.budget["log_multiplier"]) == pytest.approx(budget.RANGE[0] + budget.RATE)


def test_how_often_states_are_considered_does_not_depend_on_how_often_they_are_saved(toy, toy_data, monkeypatch):
    monkeypatch.setattr(budget, "CHOICE", 10)
    found = []
    for every in (40, 10):
        events = []
        config = dataclasses.replace(CONFIG, checkpoint_every=every)
        train(toy(steps=40), toy_data, config, [Tell(events.append), Spend(TARGET)])
        found.append([event for event in events if event["kind"] == "selection"])
    assert [event["step"] for event in found[0]] == [10, 20, 30, 40]
    assert found[0] == found[1]


def test_the_budget_is_of_the_ceilings_accuracy_at_its_end():
    rows = [{"heldout/accuracy": 0.1}, {"heldout/accuracy": 0.98, "validation/accuracy": 0.975}]
    # Half of it is kept back for what validation cannot see.
    assert UtilityBudget.of(rows, 0.01).accuracy == pytest.approx(0.97)


def test_a_ceiling_without_a_log_is_refused():
    for rows in ([], [{"loss": 1.0}]):
        with pytest.raises(ValueError, match="utility_budget: the undefended reference has no log"):
            UtilityBudget.of(rows, 0.01)
    with pytest.raises(ValueError, match="utility_budget: lost=0"):
        UtilityBudget(0.0, 0.9)


def test_inside_the_budget_the_least_leakage_wins_and_outside_it_the_most_accuracy():
    seen = [Appraisal(0.0, a, leak) for a, leak in ((0.7, 3.0), (0.65, 1.0), (0.5, -9.0), (0.55, -8.0))]
    assert sorted(range(4), key=lambda i: rank(seen[i], TARGET)) == [2, 3, 0, 1]


def test_the_leakage_is_weighed_with_the_defences_own_weights(toy, toy_batch):
    defense = toy(steps=40)
    state = init(defense, jax.random.key(0))
    once = budget.appraise(state, toy_batch, {"attribute": jnp.float32(1)}, defense, ("task", "attribute"))
    twice = budget.appraise(state, toy_batch, {"attribute": jnp.float32(2)}, defense, ("task", "attribute"))
    assert float(twice.leakage) == pytest.approx(2 * float(once.leakage), rel=1e-5)
    assert float(once.leakage) != 0
    assert float(budget.appraise(state, toy_batch, {}, defense, ()).leakage) == 0


@pytest.mark.parametrize("choice", [10, 5])
def test_a_budget_moves_the_weights_while_it_trains_and_a_kill_changes_nothing(
    toy, toy_data, tmp_path, monkeypatch, choice
):
    monkeypatch.setattr(budget, "CHOICE", choice)
    monkeypatch.setattr(budget, "LOOK", 10)
    defense = toy(steps=40, pretraining=20)
    events = []
    whole = train(defense, toy_data, CONFIG, [Spend(TARGET), Tell(events.append)])
    kept = [e["step"] for e in events if e["kind"] == "selection" and e["kept"]]
    assert kept
    assert int(whole.step) == kept[-1]
    assert all(e["step"] > 20 for e in events if e["kind"] == "selection")
    metrics = {e["step"]: e["metrics"] for e in events if e["kind"] == "metrics"}
    assert "budget/constraint" not in metrics[20]
    assert {
        "validation/loss",
        "validation/accuracy",
        "budget/log_multiplier",
        "budget/constraint",
    } <= set(metrics[30])

    class Killed(BaseException):
        pass

    def kill(event):
        if event["kind"] == "checkpoint" and event["step"] == 40:
            raise Killed

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(Killed):
        train(defense, toy_data, CONFIG, [Save(checkpoints), Tell(kill), Spend(TARGET, checkpoints)])
    # In whatever order callbacks are given.
    resumed = train(defense, toy_data, CONFIG, [Spend(TARGET, checkpoints), Save(checkpoints)])
    again = train(defense, toy_data, CONFIG, [Save(checkpoints), Spend(TARGET, checkpoints)])
    for other in (resumed, again):
        for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(other.params), strict=True):
            assert (a == b).all()
        assert int(other.step) == int(whole.step)


def test_a_watched_run_logs_what_a_budget_needs(toy, toy_data):
    events = []
    train(toy(steps=20), toy_data, CONFIG, [Watch(), Tell(events.append)])
    rows = [e["metrics"] for e in events if e["kind"] == "metrics"]
    assert UtilityBudget.of(rows, 0.01).accuracy == pytest.approx(rows[-1]["validation/accuracy"] - 0.005)


def test_every_private_weight_of_every_defence_is_one_that_it_has():
    for name, kind in registry.DEFENSES.items():
        assert set(kind().weights.privacy) <= set(registry.options(name)), name


def under_way(toy, data, utility, checkpoints=None, **options):
    """A run of which a budget is the one callback, the budget, and the list of what it tells."""
    events, defense = [], toy(steps=4, pretraining=2, **options)
    spend = Spend(utility, checkpoints)
    run = Run(defense, data, CONFIG, Devices(), [spend, Tell(events.append)], init(defense, jax.random.key(0)))
    spend.start(run)
    return run, spend, events


def states(defense, phase=1):
    return [dataclasses.replace(init(defense, jax.random.key(seed)), phase=jnp.int32(phase)) for seed in range(4)]


def test_a_phase_spends_where_it_has_a_private_term(toy):
    defense = toy(pretraining=2)
    assert [spends(defense, phase) for phase in defense.phases] == [False, True, False]


def test_only_states_of_a_spending_phase_are_kept_and_a_restart_remembers(toy, toy_data, tmp_path):
    loose, checkpoints = dataclasses.replace(TARGET, accuracy=0.0), Checkpoints(tmp_path)
    run, spend, events = under_way(toy, toy_data, loose, checkpoints)
    run.state = states(run.defense, phase=0)[0]
    spend.consider(run)
    assert events == []
    for step, state in enumerate(states(run.defense)):
        run.state, run.part = state, Part(1, run.defense.phases[1], step, 1, 9)
        spend.consider(run)
        Save(checkpoints).step(run)
    checkpoints.wait()
    leakage = [event["leakage"] for event in events if event["kind"] == "selection"]
    best = leakage.index(min(leakage))
    again, other, told = under_way(toy, toy_data, loose, checkpoints)
    for found in (spend.kept, other.kept):
        expected = states(run.defense)[best].params
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found.params, expected))
    again.state = states(run.defense)[best]
    other.consider(again)
    assert not told[-1]["kept"]
    # What a later phase makes of a client is not left out because an earlier state hid more.
    other.utility = dataclasses.replace(loose, accuracy=1.0)
    again.state = dataclasses.replace(states(run.defense)[best], phase=jnp.int32(2))
    other.consider(again)
    assert told[-1]["kept"]


def test_the_multiplier_waits_until_the_network_has_begun(toy, toy_data):
    run, spend, _ = under_way(toy, toy_data, dataclasses.replace(TARGET, accuracy=1.0))
    run.state = states(run.defense)[0]
    for first, moves in ((budget.LOOK - 1, False), (3 * budget.LOOK - 1, True)):
        run.part = Part(1, run.defense.phases[1], first, 1, 8 * budget.LOOK)
        logged = spend.look(run)
        assert ("budget/log_multiplier" in logged) is moves
        assert (float(run.state.weights["attribute"]) < 0.5) is moves


def test_a_run_may_be_short_by_what_its_rate_still_costs(toy, toy_data):
    found = []
    for first in (4 * budget.LOOK - 1, 8 * budget.LOOK - 1):
        run, spend, _ = under_way(toy, toy_data, dataclasses.replace(TARGET, accuracy=0.5))
        run.state = states(run.defense)[0]
        run.part = Part(1, run.defense.phases[1], first, 1, 8 * budget.LOOK)
        logged = spend.look(run)
        # How short it is, in budgets; what was seen is told as it is.
        short = 0.5 - float(logged["validation/accuracy"]) - float(logged["budget/constraint"]) * TARGET.lost
        found.append(short)
    assert found == pytest.approx([budget.SLACK / 2, 0.0], abs=1e-6)


def test_what_is_preferred_is_saved_as_the_best(toy, toy_data, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    run, spend, events = under_way(toy, toy_data, TARGET, checkpoints)
    run.state = states(run.defense)[0]
    run.part = Part(1, run.defense.phases[1], 3, 1, 4)
    # The last dispatch: both are due.
    logged = spend.look(run)
    assert [event["kind"] for event in events] == ["selection"]
    Save(checkpoints).step(run)
    step, best = checkpoints.restore(run.state, best=True)
    assert step == 4
    assert float(best.budget["log_multiplier"]) == float(logged["budget/log_multiplier"]) != 0
    assert run.rank is None


def test_a_defence_with_nothing_to_scale_is_refused(toy, toy_data):
    with pytest.raises(ValueError, match="utility: toy has no privacy weight above 0"):
        under_way(toy, toy_data, TARGET, attribute=0.0)
