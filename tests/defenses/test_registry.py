import dataclasses
import subprocess
import sys
from typing import ClassVar

import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.none import Undefended


@pytest.mark.parametrize("name", list(registry.DEFENSES))
def test_every_defence_is_hashable_static_and_says_where_it_comes_from(name):
    given = {"classes": 10, "image_shape": (32, 32, 3), "attributes": (("ink", 4),)}
    defense = registry.build(name, **given)
    assert hash(defense) == hash(registry.build(name, **given))
    assert defense.provenance
    assert defense.phases
    for phase in defense.phases:
        assert phase.objective
        assert set(phase.objective) <= {"task", *defense.weights.active}


def test_unknown_names_list_what_is_allowed():
    with pytest.raises(ValueError, match="defense=wall: must be one of ani, funnel, none, partition"):
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


def test_a_class_registers_itself_once(monkeypatch):
    monkeypatch.setattr(registry, "DEFENSES", dict(registry.DEFENSES))

    @registry.register
    @dataclasses.dataclass(frozen=True)
    class Named(Undefended):
        name: ClassVar[str] = "named"
        volume: int = 3

    assert registry.options("named")["volume"] == 3
    assert registry.build("named", 10, (32, 32, 3)).volume == 3
    with pytest.raises(ValueError, match=r"defense=named: must be a new name, .*test_registry has it"):
        registry.register(type("Other", (Undefended,), {"name": "named"}))


def test_whichever_file_is_imported_first_the_order_is_the_alphabet():
    code = "import ani_jax.defenses.partition, ani_jax.defenses.registry as r; print(*r.DEFENSES)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == list(registry.DEFENSES) == sorted(found)


@pytest.mark.parametrize("name", list(registry.DEFENSES))
def test_options_are_checked_before_there_is_any_data(name):
    kind = registry.DEFENSES[name]
    early = kind()
    # What a run's length and its privacy weights are follows from the options alone.
    known = registry.build(name, 10, (32, 32, 3), attributes=(("ink", 4),))
    assert [(phase.name, phase.steps, phase.objective) for phase in early.phases] == [
        (phase.name, phase.steps, phase.objective) for phase in known.phases
    ]
    assert early.weights == known.weights
    assert early.optimizer("server") == known.optimizer("server")
    with pytest.raises(ValueError, match="steps=0: must be at least 1"):
        kind(steps=0)


@pytest.mark.parametrize(
    ("name", "options", "data", "message"),
    [
        ("none", {"depth": 4, "backbone": "vgg"}, {"image_shape": (24, 24, 3)}, "depth=4: must be less"),
        ("ani", {}, {"image_shape": (20, 20, 3)}, "image_shape=.* must be of sides that are multiples of 8"),
        ("partition", {"hide": "scent"}, {"attributes": (("ink", 4),)}, "hide=scent: must be names out of ink"),
        ("partition", {}, {"attributes": ()}, "attribute=0.95: must be 0 where the data has no sensitive attribute"),
        ("funnel", {}, {"classes": 1}, "classes=1: must be at least 2"),
    ],
)
def test_what_depends_on_the_data_is_checked_once_it_is_known(name, options, data, message):
    early = registry.DEFENSES[name](**options)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(early, **data)
