"""Its term makes features depend less on the image."""

import pytest

from tests.defenses import baselines


@pytest.mark.slow
def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("nopeek", options)
        for options in ({"distance_correlation": 1e-3, "steps": 150}, {"distance_correlation": 30.0, "steps": 150})
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("nopeek", "distance_correlation") == {"client/block_0", "client/block_1"}


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("nopeek")
