import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.base import Defense
from ani_jax.defenses.funnel import Funnel


@pytest.mark.parametrize("name", list(registry.DEFENSES))
def test_every_defence_is_hashable_static_and_says_where_it_comes_from(name):
    given = {"classes": 10, "image_shape": (32, 32, 3), "attributes": (("ink", 4),)}
    defense = registry.build(name, **given)
    assert hash(defense) == hash(registry.build(name, **given))
    assert defense.provenance
    assert defense.phases
    terms = {"task", *defense.weights.active}
    assert any(set(phase.objective) - {"task"} for phase in defense.phases) or terms == {"task"}
    for phase in defense.phases:
        assert phase.objective
        assert set(phase.objective) <= terms


def test_unknown_names_list_what_is_allowed():
    with pytest.raises(
        ValueError, match="defense=wall: must be one of ani, cem, cloak, disco, dropout, erasure, funnel"
    ):
        registry.options("wall")
    with pytest.raises(ValueError, match="beta: not an option of none, which has width"):
        registry.build("none", 10, (32, 32, 3), beta=1.0)


def test_options_leave_out_what_follows_from_the_data():
    assert not {"classes", "image_shape", "axis_name", "attributes"} & set(registry.options("funnel"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("steps", 0),
        ("learning_rate", 0.0),
        ("smoothing", 1.0),
        ("channels", 0),
        ("beta", -0.1),
        ("alpha", 0.0),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option}={value}: must be"):
        registry.build("funnel", 10, (32, 32, 3), **{option: value})


BAD = {
    "none": {"width": 0, "backbone": "mlp", "depth": 4},
    "label_only": {"width": 0, "backbone": "mlp"},
    "gaussian": {"noise_stddev": 0.0, "noise_at": "output", "depth": 4},
    "laplace": {"noise_stddev": -1.0, "noise_at": "output"},
    "dropout": {"keep_probability": 0.0},
    "topk": {"kept": 0},
    "quantise": {"release_bits": 0},
    "ldp": {"epsilon": 0.0, "delta": 1.0},
    "nopeek": {"distance_correlation": -1.0},
    "vib": {"bottleneck": float("inf"), "backbone": "mlp"},
    "max_entropy": {"attribute": 1.0, "adversary_width": 0, "adversary_rate": 1.0},
    "disco": {"attribute": -0.5, "pruning_ratio": 1.0, "pretraining_steps": -1},
    "shredder": {"amplitude": -0.1, "collection": 0, "first_scale": 0.0, "pretraining_steps": -1},
    "cloak": {"entropy": -1.0, "stddev_max": 0.0, "threshold": 0.0, "finishing_steps": -1},
    "siamese": {"contrastive": -1.0, "components": 0, "noise_stddev": -0.5},
    "cem": {"conditional_entropy": -1.0, "clusters": 0, "rounds": 0, "release_stddev": 0.0},
    "erasure": {"finishing_steps": -1, "depth": 0},
    "ani": {"entropy": -1.0, "network": "mesh", "noise": "loud", "shift_bound": 2.0, "pretraining_steps": -1},
    "funnel": {"learning_rate": 1.0, "alpha": 0.0, "l1": float("nan"), "dependence": "none", "finishing_steps": -1},
    "partition": {
        "steps": 0,
        "depth": 9,
        "listeners": "ears",
        "attribute": -0.1,
        "decoder": "crayon",
        "reversal": True,
    },
}


@pytest.mark.parametrize(
    ("name", "option", "value"), [(name, *pair) for name, options in BAD.items() for pair in options.items()]
)
def test_options_are_checked_before_there_is_data(name, option, value):
    assert registry.DEFENSES[name]().weights == registry.build(name).weights
    for make in (registry.DEFENSES[name], lambda **chosen: registry.build(name, **chosen)):
        with pytest.raises(ValueError, match=f"^{option}={value}: must be") as caught:
            make(**{option: value})
        assert "\n" not in str(caught.value)


def test_a_bad_option_of_every_defence_is_tried():
    assert set(BAD) == set(registry.DEFENSES)


@pytest.mark.parametrize(
    ("name", "options", "data", "message"),
    [
        ("none", {"backbone": "vgg", "depth": 4}, {"image_shape": (24, 24, 3)}, "depth=4: must be less"),
        ("ani", {}, {"image_shape": (20, 32, 3)}, "image_shape=.*: must be of sides that are multiples of 8"),
        ("funnel", {}, {"classes": 1}, "classes=1: must be at least 2"),
        ("partition", {"hide": "scent"}, {"attributes": (("ink", None),)}, "hide=scent: must be names out of ink"),
        ("partition", {}, {"classes": 3}, "attribute=0.6: must be 0 where the data has no sensitive attribute"),
    ],
)
def test_what_depends_on_data_is_checked_once_that_much_is_known(name, options, data, message):
    registry.build(name, **options)
    with pytest.raises(ValueError, match=message):
        registry.build(name, **options, **data)


def test_a_name_is_given_once():
    class Impostor(Defense):
        name = "funnel"

    with pytest.raises(ValueError, match=r"defense=funnel: must be a new name, ani_jax.defenses.funnel has it"):
        registry.register(Impostor)
    assert registry.DEFENSES["funnel"] is Funnel
    # A file that is imported again registers what is there.
    assert registry.register(Funnel) is Funnel
