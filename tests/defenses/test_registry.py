import pytest

from ani_jax.defenses import registry


@pytest.mark.parametrize("name", list(registry.DEFENSES))
def test_every_defence_is_hashable_static_and_says_where_it_comes_from(name):
    given = {"classes": 10, "image_shape": (32, 32, 3), "attributes": (("ink", 4),)}
    defense = registry.build(name, **given)
    assert hash(defense) == hash(registry.build(name, **given))
    assert defense.provenance
    assert defense.phases
    assert defense.active_terms()
    for phase in defense.phases:
        assert set(phase.objective) <= set(defense.active_terms())


def test_unknown_names_list_what_is_allowed():
    with pytest.raises(ValueError, match="defense=wall: must be one of none, "):
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
