"""Measurements are paired and in turn; what is slow for a while is slow for all."""

import doctest

import pytest

from experiments.benchmark import timing
from experiments.benchmark.timing import Spread, measure, ratio, repeat


class Machine:
    """A clock that only work moves on, and a record of who worked."""

    def __init__(self, costs):
        self.costs, self.now, self.turns, self.slow = costs, 0.0, [], 1.0

    def timer(self, name):
        def unit():
            self.now += self.slow * self.costs[name]

        def run(count):
            self.turns.append(name)
            return repeat(unit, count, lambda: self.now)

        return run


def test_variants_take_turns_and_the_first_of_a_round_moves_on():
    machine = Machine({"a": 0.1, "b": 0.3, "c": 1.0})
    taken = measure({name: machine.timer(name) for name in "abc"}, rounds=4, clock=lambda: machine.now)
    assert {name: pytest.approx([cost] * 4) for name, cost in machine.costs.items()} == taken
    assert machine.turns == [*"aabbcc", *"abc", *"bca", *"cab", *"abc"]


def test_a_busy_machine_changes_times_and_not_ratios():
    machine = Machine({"a": 0.2, "b": 0.1})
    timers = {name: machine.timer(name) for name in "ab"}
    taken = measure(timers, 5, lambda done: setattr(machine, "slow", 3.0**done), clock=lambda: machine.now)
    assert max(taken["a"]) > 50 * min(taken["a"])
    found = ratio(taken["a"], taken["b"])
    assert (found.low, found.median, found.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("pieces", [1, 50])
def test_a_turn_lasts_long_enough_and_not_forever(pieces):
    """Whatever the pieces are that a unit's seconds are told by."""
    machine = Machine({"a": 1 / 64, "b": 0.0})
    counts = {"a": [], "b": []}

    def counting(name):
        def run(count):
            counts[name].append(count)
            return [seconds / pieces for seconds in machine.timer(name)(count)]

        return run

    measure({name: counting(name) for name in "ab"}, 2, least=0.25, clock=lambda: machine.now)
    assert counts == {"a": [1, 2, 16, 16], "b": [1, 2, timing.MOST, timing.MOST]}


def test_a_round_counts_its_median():
    seconds, ticks = iter([9.0, 1.0, 1.0, 1.0, 7.0, 1.0]), iter([0.0, 2.0]).__next__
    assert measure({"a": lambda count: [next(seconds) for _ in range(count)]}, 1, least=3.0, clock=ticks) == {
        "a": [1.0]
    }


def test_one_round_has_no_spread():
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="rounds=0: must be at least 1"):
        measure({}, 0)


def test_the_examples_hold():
    assert doctest.testmod(timing).failed == 0
