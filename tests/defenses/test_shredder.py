"""The collection is learned, each tensor by itself, for networks that stay as they were."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.defenses import baselines


@pytest.mark.slow
def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("shredder", options)
        for options in ({"amplitude": 0.0, "first_scale": 0.01}, {"amplitude": 3.0, "first_scale": 0.01})
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("shredder", "amplitude") == {"client/tensors"}


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("shredder")


def test_the_collection_is_learned_and_no_tensor_is_another():
    """Public re-implementations train nothing."""
    defense = baselines.built("shredder")
    # The first tensors are drawn from the run's own key.
    first = baselines.data()
    state, _ = baselines.trained(defense)
    before = defense.phases[1].prepare(state, first).params["client"]["tensors"]
    after = state.params["client"]["tensors"]
    assert float(jnp.abs(after - before).mean()) > 1e-3
    assert len(np.unique(np.asarray(after).reshape(len(after), -1)[:, 0])) == len(after) == 32


def test_networks_stay_as_they_were():
    defense = baselines.built("shredder")
    assert [phase.trainable for phase in defense.phases] == [("client/encoder", "server"), ("client/tensors",)]
