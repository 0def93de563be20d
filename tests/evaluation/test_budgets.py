from ani_jax.attacks import decoder
from ani_jax.evaluation.budgets import BUDGETS, default_attacks
from ani_jax.types import Task


def test_budgets_grow():
    quick, standard = BUDGETS["quick"], BUDGETS["standard"]
    for field in ("sample", "attribute_steps", "attribute_seeds", "residual_steps", "mirror_steps"):
        assert getattr(quick, field) < getattr(standard, field)
    assert standard.residual_blocks == 8
    assert standard.attribute_seeds >= 3


def test_default_attacks_cover_every_target():
    tasks = (Task("ink", ("a", "b")), Task("paper", ("a", "b", "c")))
    for name in BUDGETS:
        attacks = default_attacks(BUDGETS[name], tasks, (32, 32, 3))
        assert [attack.target for attack in attacks] == ["ink", "paper", "image"]
        assert attacks == default_attacks(BUDGETS[name], tasks, (32, 32, 3))
        assert len(set(attacks)) == 3
        assert isinstance(attacks[-1].members[0], decoder.Ridge)
