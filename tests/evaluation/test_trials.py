"""Members that raise are results; members that the user stops are not."""

import jax.numpy as jnp
import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import Attack, Fitted
from ani_jax.attacks.query import as_release
from ani_jax.evaluation import trials
from ani_jax.evaluation.budgets import BUDGETS
from ani_jax.evaluation.scene import Scene
from ani_jax.types import Knowledge


@pytest.fixture(scope="module")
def scene(toy):
    return Scene.of(Knowledge(as_release(lambda x: x)), toy, BUDGETS["smoke"], 0)


class Raising:
    steps = 3

    def __init__(self, error, late=False):
        self.name, self.error, self.late = f"{type(error).__name__} {late}", error, late

    def fit(self, key, view, on_event=None, earlier=()):
        if not self.late:
            raise self.error
        return Fitted(self.guess)

    def guess(self, key, z):
        raise self.error


class Right:
    """Knows nothing and is still perfect on one class."""

    name, steps = "right", 0

    def fit(self, key, view, on_event=None, earlier=()):
        return Fitted(lambda key, z: jnp.eye(2)[jnp.zeros(z.shape[1], jnp.int32)])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [FloatingPointError("nan"), ValueError("two\nlines at 0x7f"), RuntimeError()])
def test_whatever_a_member_raises_is_its_result(scene, error, late):
    members = (Raising(error, late), Probe("side", 2))
    broken, sound = trials.try_all(scene, Attack("attribute", "side", members), scene.view, scene.test_z)
    assert broken.guess is None
    assert broken.record.status == f"failed: {trials.reason(error)}"
    assert (broken.record.validation, broken.record.test) == (None, None)
    assert "\n" not in broken.record.status
    assert trials.choose([broken, sound]) is sound


def test_the_user_may_stop(scene):
    with pytest.raises(KeyboardInterrupt):
        trials.try_all(scene, Attack("attribute", "side", (Raising(KeyboardInterrupt()),)), scene.view, scene.test_z)


def test_a_perfect_member_ends_a_reference_early(scene):
    attack = Attack("attribute", "side", (Probe("side", 2), Right()))
    assert len(trials.try_all(scene, attack, scene.view, scene.test_z, until_perfect=True)) == 1
    every = trials.try_all(scene, attack, scene.view, scene.test_z)
    assert [trial.record.validation for trial in every] == [1.0, 0.5]
    assert trials.choose(every) is every[0]


def test_reasons_do_not_differ_from_process_to_process():
    assert trials.reason(ValueError("<f at 0x7fa0>")) == trials.reason(ValueError("<f at 0x81bc>"))
    assert trials.reason(KeyError()) == "KeyError"
    assert len(trials.reason(ValueError("x" * 5000))) < 300
