import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.attacks.mismatch import mismatched, repaint
from ani_jax.data import digits
from ani_jax.types import Batch, Source, fixed


def test_only_the_colours_of_a_source_change(key):
    source = digits.load(image_size=8).auxiliary
    true, shifted = source.draw(key, 5), mismatched(source).draw(key, 5)
    np.testing.assert_array_equal(shifted.image, true.image[..., jnp.array([2, 0, 1])])
    np.testing.assert_array_equal(shifted.label, true.label)
    np.testing.assert_array_equal(shifted.sensitive["ink"], true.sensitive["ink"])
    assert float(jnp.abs(shifted.image - true.image).mean()) > 0.01
    assert mismatched(source).size == source.size


def test_grey_images_are_inverted_and_stay_in_range(key):
    images = jax.random.uniform(key, (3, 2, 2, 1))
    np.testing.assert_allclose(repaint(key, images), 1 - images)


def test_equal_shifts_of_one_source_compile_once(key):
    batch = Batch(jnp.ones((2, 1, 1, 3)), jnp.arange(2), {})
    traced = []

    @jax.jit
    def draw(source, key):
        traced.append(1)
        return source.draw(key, 2).image

    for _ in range(2):
        draw(mismatched(Source(batch, fixed)), key)
    assert len(traced) == 1
