"""The adversary's doubt is bought of the client alone."""

from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("max_entropy", options)
        for options in ({"attribute": 0.01, **baselines.HEARD}, {"attribute": 0.95, **baselines.HEARD})
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("max_entropy", "attribute") == {"client/block_0", "client/block_1"}


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("max_entropy")
