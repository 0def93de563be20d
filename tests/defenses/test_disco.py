"""Channels are left out, by a pruner that the adversary trains."""

import pytest

from tests.defenses import baselines


@pytest.mark.slow
def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("disco", options)
        for options in (
            {"attribute": 0.01, "pruning_ratio": 0.5, **baselines.HEARD},
            {"attribute": 0.95, "pruning_ratio": 0.5, **baselines.HEARD},
        )
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("disco", "attribute") == {"client/encoder", "client/pruner"}


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("disco")
