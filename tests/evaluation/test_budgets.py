import dataclasses

import pytest

from ani_jax.attacks import decoder
from ani_jax.attacks.optimization import WhiteBox
from ani_jax.evaluation.budgets import BUDGETS, Budget, default_attacks
from ani_jax.types import Release, Task

TASKS = (Task("ink", ("a", "b")), Task("paper", ("a", "b", "c")))
SHAPE = (32, 32, 3)
NOISY = Release((), lambda variables, x, key: x, stochastic=True)


def test_budgets_grow():
    quick, standard, thorough = (BUDGETS[name] for name in ("quick", "standard", "thorough"))
    for field in ("sample", "attribute_steps", "attribute_seeds", "residual_steps", "mirror_steps", "inversion_steps"):
        assert getattr(quick, field) < getattr(standard, field) < getattr(thorough, field)
    assert standard.residual_blocks == thorough.residual_blocks == 8
    assert standard.attribute_seeds >= 3
    assert thorough.inversion_steps >= 1000
    assert thorough.inversion_restarts > standard.inversion_restarts > 1


@pytest.mark.parametrize("name", BUDGETS)
def test_default_attacks_cover_every_target(name):
    attacks = default_attacks(BUDGETS[name], TASKS, SHAPE)
    assert [attack.target for attack in attacks[:3]] == ["ink", "paper", "image"]
    assert {attack.target for attack in attacks[3:]} <= {"image"}
    assert attacks == default_attacks(BUDGETS[name], TASKS, SHAPE)
    assert len(set(attacks)) == len(attacks)
    assert isinstance(attacks[2].members[0], decoder.Ridge)


def names(budget: Budget, release=None, predict=False):
    attacks = default_attacks(budget, TASKS[:1], SHAPE, release, predict=predict)
    return [(a.name, a.queries) for a in attacks if a.target == "image" and a.name != "mismatched"]


def test_who_optimises_every_image():
    assert names(BUDGETS["quick"], predict=True) == [("decoder", 1)]
    assert names(BUDGETS["standard"]) == [("decoder", 1), ("whitebox", 1)]
    assert names(BUDGETS["standard"], predict=True) == [("decoder", 1), ("whitebox", 1), ("shadow", 1)]
    everyone = ["decoder", "whitebox", "shadow", "prior"]
    assert [name for name, _ in names(BUDGETS["thorough"], predict=True)] == everyone


def test_optimisers_stay_at_more_queries_and_networks_do_not():
    budget = dataclasses.replace(BUDGETS["standard"], queries=(1, 4))
    attacks = {(a.name, a.queries): a for a in default_attacks(budget, (), SHAPE, NOISY)}
    assert [type(member) for member in attacks["whitebox", 4].members] == [WhiteBox]
    assert not any(isinstance(member, decoder.Net) for member in attacks["decoder", 4].members)
