import dataclasses

import pytest

from ani_jax.evaluation.budgets import BUDGETS
from ani_jax.evaluation.seconds import COSTS, within


def test_declared_costs_give_the_budgets_themselves():
    for name, cost in COSTS.items():
        assert within(sum(cost)) == BUDGETS[name]
    assert list(COSTS) == sorted(COSTS, key=lambda name: sum(COSTS[name]))
    assert sum(COSTS["standard"]) < 600


def test_steps_grow_with_the_seconds_and_nothing_else_does():
    standard = BUDGETS["standard"]
    twice = within(sum(COSTS["standard"]) + COSTS["standard"].stepped)
    for field in dataclasses.fields(standard):
        old, new = (getattr(budget, field.name) for budget in (standard, twice))
        assert new == (2 * old if field.name.endswith("steps") else old)


def test_a_second_is_a_step_of_everything_that_quick_trains():
    least, quick = within(1.0), BUDGETS["quick"]
    assert least.attribute_steps == least.residual_steps == 1
    assert least.mirror_steps == quick.mirror_steps == 0
    assert least.sample == quick.sample


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_refuses(seconds):
    with pytest.raises(ValueError, match=r"budget=.*: seconds must be above 0 and finite"):
        within(seconds)
