"""What a line can read is gone."""

import jax
import numpy as np
import pytest

from ani_jax.defenses import registry
from tests.defenses import baselines


def test_a_line_reads_what_it_erased_no_more():
    defense = baselines.built("erasure", steps=24)
    state, release = baselines.trained(defense)
    ink = np.asarray(baselines.pictures().sensitive["ink"])
    plain = np.asarray(defense.features(state, baselines.pictures().image)).reshape(baselines.ROWS, -1)
    sent = np.asarray(release(baselines.pictures().image, jax.random.key(0))).reshape(baselines.ROWS, -1)
    read = [
        (guess.argmax(1) == truth.argmax(1)).mean()
        for guess, truth in (baselines.ridge(z, np.eye(3)[ink]) for z in (plain, sent))
    ]
    assert read[0] > 0.6 > 0.45 > read[1], read


def test_it_needs_something_to_erase():
    with pytest.raises(ValueError, match="defense=erasure: must be another where the data has no sensitive attribute"):
        registry.build("erasure", 2, (8, 8, 3))


def test_it_says_the_same_of_the_same_image():
    assert not baselines.varies("erasure")
