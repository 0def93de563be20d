"""Loss weights: data and not architecture, plain or convex."""

import dataclasses

import jax.numpy as jnp
import pytest

from ani_jax.defenses.options import Convex, Weights, require, weight


@dataclasses.dataclass(frozen=True)
class Options:
    width: int = 4
    task: float = weight(2.0)
    noise: float = weight(0.5, private=True)
    silence: float = weight(0.0, private=True)


def test_the_marked_fields_are_weights_and_no_architecture():
    found = Weights.of(Options())
    assert found.values == {"task": 2.0, "noise": 0.5, "silence": 0.0}
    assert found.privacy == ("noise", "silence")
    assert found.active == ("task", "noise")
    assert Options(noise=3.0) == Options()
    assert hash(Options(noise=3.0)) == hash(Options())
    assert Options(width=5) != Options()


def test_plain_weights_are_factors_and_scaling_leaves_the_task_alone():
    found = Weights.of(Options())
    traced = found.arrays()
    assert found.factors(traced) == traced
    assert {name: float(value) for name, value in found.scaled(traced, jnp.float32(4)).items()} == {
        "task": 2.0,
        "noise": 2.0,
        "silence": 0.0,
    }


def test_convex_weights_leave_the_task_the_rest_and_scaling_multiplies_the_odds():
    found = Convex({"a": 0.5, "b": 0.25}, ("a", "b"))
    factors = {name: float(value) for name, value in found.factors(found.arrays()).items()}
    assert factors == {"task": 0.25, "a": -0.5, "b": -0.25}
    # Odds of 2 and 1 against the task become 6 and 3.
    scaled = found.scaled(found.arrays(), jnp.float32(3))
    assert {name: float(value) for name, value in scaled.items()} == pytest.approx({"a": 0.6, "b": 0.3})


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_named(value):
    with pytest.raises(ValueError, match=f"noise={value}: must be a finite number, 0 or more"):
        Weights.of(Options(noise=value))


def test_convex_weights_must_leave_the_task_something():
    with pytest.raises(ValueError, match=r"^a \+ b=1.0: must be below 1, the rest being the task's weight$"):
        Convex({"a": 0.5, "b": 0.5}, ("a", "b"))


def test_require_is_one_line():
    require(True, "beta", 1, "anything")
    with pytest.raises(ValueError, match=r"^beta=-1: must be 0 or more$"):
        require(False, "beta", -1, "0 or more")
