import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base
from ani_jax.types import Batch, Knowledge, Source, fixed


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 5.0), (-2.0, 1.0)])
def test_whitening_undoes_scale_and_shift(key, scale, shift):
    z = jax.random.uniform(key, (64, 5))
    first, second = base.Whitener.of(z)(z), base.Whitener.of(scale * z + shift)(scale * z + shift)
    np.testing.assert_allclose(first * np.sign(scale), second, atol=2e-3)


@pytest.mark.parametrize("constant", [0.0, 1e-6, 0.1, 1e4])
def test_a_constant_feature_whitens_to_zero(constant):
    z = jnp.full((1000, 3), constant)
    np.testing.assert_array_equal(base.Whitener.of(z)(z + 1), 0)


def test_a_view_needs_the_release(key):
    batch = Batch(jnp.ones((3, 2, 2, 1)), jnp.arange(3), {})
    with pytest.raises(ValueError, match="release"):
        base.prepare(key, Knowledge(), Source(batch, fixed), batch)
