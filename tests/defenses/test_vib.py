"""It pays for what it lets through, and declares what it sends."""

from tests.defenses import baselines


def test_more_of_it_tells_a_fresh_attacker_less():
    weak, strong = (
        baselines.told("vib", options)
        for options in ({"bottleneck": 1e-4, "steps": 150}, {"bottleneck": 1.0, "steps": 150})
    )
    assert strong < weak - 0.01


def test_what_protects_reaches_what_it_should_and_nothing_else():
    assert baselines.reached("vib", "bottleneck") == {"client/encoder", "client/moments"}


def test_every_image_has_noise_of_its_own():
    assert baselines.varies("vib")
