import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ani_jax.defenses.base import Optimizer, Phase
from ani_jax.training import state as states


def test_layout_does_not_depend_on_the_key_and_buffers_are_distinct(toy):
    one, two = (states.init(toy(), jax.random.key(seed)) for seed in (0, 1))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True))
    pointers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(one)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    assert len(set(pointers)) == len(pointers)


def test_every_group_has_its_own_optimiser_state(toy):
    state = states.init(toy(), jax.random.key(0))
    assert set(state.optimizers) == {"client", "server", "adversaries/ink"}


def test_the_sorted_order_of_names_seeds_the_adversaries(toy):
    class Two(type(toy())):
        names = ("b", "a")

        @property
        def adversaries(self):
            return tuple(dataclasses.replace(super(Two, self).adversaries[0], name=name) for name in self.names)

    class Other(Two):
        names = ("a", "b")

    one, other = (states.init(toy(kind), jax.random.key(0)) for kind in (Two, Other))
    assert set(one.optimizers) == {"client", "server", "adversaries/a", "adversaries/b"}
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one.params, other.params))
    assert (
        one.params["adversaries"]["a"]["Dense_0"]["kernel"] != one.params["adversaries"]["b"]["Dense_0"]["kernel"]
    ).any()


def test_each_adversary_may_have_an_optimiser_of_its_own(toy):
    class Fast(type(toy())):
        @property
        def adversaries(self):
            return tuple(
                dataclasses.replace(one, optimizer=Optimizer(0.5, amsgrad=True)) for one in super().adversaries
            )

    usual, fast = (states.init(toy(kind), jax.random.key(0)).optimizers for kind in (type(toy()), Fast))
    assert jax.tree.structure(usual["client"]) == jax.tree.structure(fast["client"])
    assert jax.tree.structure(usual["adversaries/ink"]) != jax.tree.structure(fast["adversaries/ink"])


def test_overlapping_groups_are_refused(toy):
    class Overlapping(type(toy())):
        @property
        def phases(self):
            return (Phase("a", 1, ("client",), ("task",)), Phase("b", 1, ("client/dense",), ("task",)))

    with pytest.raises(ValueError, match=r"trainable=client/dense: overlaps the group client .* toy"):
        states.groups(Overlapping(classes=3, image_shape=(4, 4, 1)))


def test_select_and_replace_are_inverse_and_pure():
    tree = {"client": {"noise": jnp.zeros(2), "net": jnp.ones(2)}, "server": jnp.zeros(1)}
    part = states.select(tree, ("client/noise", "server"))
    changed = states.replace(tree, {path: value + 5 for path, value in part.items()})
    assert changed["client"]["noise"][0] == 5
    assert changed["client"]["net"] is tree["client"]["net"]
    assert tree["client"]["noise"][0] == 0
    back = states.replace(changed, part)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), back, tree))


def test_missing_path_names_itself():
    with pytest.raises(KeyError, match="absent"):
        states.at({"client": {}}, "client/absent")
