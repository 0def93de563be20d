import dataclasses
import math

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ani_jax.defenses.options import Convex, Weights, weight
from ani_jax.losses.checks import require

MULTIPLIERS = st.floats(1e-3, 1e3)
LOSSES = st.floats(0, 100)
SHARES = st.lists(st.floats(0.001, 1), min_size=1, max_size=4)


@dataclasses.dataclass(frozen=True)
class Options:
    """Two weights, of which one protects, and what is none."""

    width: int = 3
    task: float = weight(5.0)
    hide: float = weight(0.5, private=True)


def floats(arrays):
    return {name: float(value) for name, value in arrays.items()}


def convex(shares, total=0.9):
    """Shares of what the task leaves: any number of weights whose sum is below 1."""
    values = {f"w{place}": total * share / sum(shares) for place, share in enumerate(shares)}
    return Convex(values, tuple(values))


def test_require_is_one_line():
    require(True, "beta", 1, "anything")
    with pytest.raises(ValueError, match=r"^beta=-1: must be 0 or more$"):
        require(False, "beta", -1, "0 or more")


def test_weights_are_the_marked_fields_and_no_part_of_an_architecture():
    weights = Weights.of(Options(hide=0.25))
    assert weights == Weights({"task": 5.0, "hide": 0.25}, ("hide",))
    assert Options(hide=0.25) == Options(hide=0.75)
    assert hash(Options(hide=0.25)) == hash(Options(hide=0.75))
    assert Options(width=4) != Options()
    assert Convex.of(Options(task=0.1)).values == {"task": 0.1, "hide": 0.5}


def test_a_weight_of_0_is_not_active():
    assert Weights({"a": 0.0, "b": 0.1, "c": 0.0}).active == ("b",)
    assert Weights({}).active == ()


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_are_finite_and_not_negative(value):
    with pytest.raises(ValueError, match=f"^hide={value}: must be a finite number, 0 or more$"):
        Weights({"task": 1.0, "hide": value})


@pytest.mark.parametrize("values", [{"a": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.2}])
def test_convex_weights_leave_something_to_the_task(values):
    with pytest.raises(ValueError, match=rf"^{' . '.join(values)}=.*: must be below 1, the rest being the task's"):
        Convex(values, tuple(values))


def test_values_travel_as_arrays_of_32_bits():
    arrays = Weights({"a": 0.1}).arrays()
    assert arrays["a"].dtype == jnp.float32
    assert arrays["a"].shape == ()


@given(LOSSES, LOSSES, MULTIPLIERS)
def test_what_protects_is_multiplied_and_the_rest_is_left(task, hide, multiplier):
    weights = Weights({"task": task, "hide": hide}, ("hide",))
    arrays = weights.arrays()
    assert weights.factors(arrays) is arrays
    found = floats(weights.scaled(arrays, jnp.float32(multiplier)))
    assert found == {"task": pytest.approx(task, rel=1e-6), "hide": pytest.approx(hide * multiplier, rel=1e-5)}


@given(SHARES)
def test_convex_factors_maximise_the_terms_and_sum_to_1_in_size(shares):
    weights = convex(shares)
    factors = floats(weights.factors(weights.arrays()))
    assert sum(abs(factor) for factor in factors.values()) == pytest.approx(1, rel=1e-5)
    assert factors.pop("task") == pytest.approx(0.1, rel=1e-4)
    assert factors == {name: pytest.approx(-value, rel=1e-6) for name, value in weights.values.items()}


@given(SHARES, MULTIPLIERS)
def test_convex_scaling_multiplies_the_odds_and_leaves_the_task_something(shares, multiplier):
    weights = convex(shares)
    found = floats(weights.scaled(weights.arrays(), jnp.float32(multiplier)))
    assert sum(found.values()) < 1
    # In closed form, not from the rest that is left, which rounding eats.
    odds = {name: multiplier * value / 0.1 for name, value in weights.values.items()}
    for name, value in found.items():
        assert value == pytest.approx(odds[name] / (1 + sum(odds.values())), rel=1e-4)


@given(SHARES, st.floats(0.1, 10), st.floats(0.1, 10))
def test_scaling_twice_is_scaling_by_the_product_and_by_1_nothing(shares, one, other):
    for weights in (convex(shares), Weights(convex(shares).values, tuple(convex(shares).values))):
        arrays = weights.arrays()
        twice = floats(weights.scaled(weights.scaled(arrays, jnp.float32(one)), jnp.float32(other)))
        assert twice == {
            name: pytest.approx(value, rel=1e-3)
            for name, value in floats(weights.scaled(arrays, jnp.float32(one * other))).items()
        }
        same = floats(weights.scaled(arrays, jnp.float32(1)))
        assert same == {name: pytest.approx(value, rel=1e-5) for name, value in floats(arrays).items()}
