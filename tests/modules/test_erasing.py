"""What a line can read is gone, features are moved least, and beside a label nothing is left that moves with it."""

import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.modules.erasing import Erasing, beside, leace


def scene(seed=0, count=400):
    """Features that an attribute moves one way in one class and the other way in the other."""
    generator = np.random.default_rng(seed)
    s, label = generator.integers(0, 3, count), generator.integers(0, 2, count)
    h = generator.normal(size=(count, 6)) @ generator.normal(size=(6, 6))
    return h + (2 * label - 1)[:, None] * (np.eye(3)[s] @ generator.normal(size=(3, 6))), s, label


def test_erasure_leaves_a_line_nothing_and_moves_features_least():
    generator = np.random.default_rng(0)
    s = np.eye(3)[generator.integers(0, 3, 400)]
    h = generator.normal(size=(400, 6)) @ generator.normal(size=(6, 6)) + s @ generator.normal(size=(3, 6))
    mean, into, out = leace(h, s, 2)
    z = h - (h - mean) @ into @ out.T
    assert into.shape == (6, 2)
    np.testing.assert_allclose((z - z.mean(0)).T @ (s - s.mean(0)), 0, atol=1e-8)
    # An orthogonal projection away from the classes' means takes it out too, and moves features more.
    shift = np.linalg.qr((h - h.mean(0)).T @ (s - s.mean(0)))[0][:, :2]
    moved = np.square((h - mean) @ shift @ shift.T).sum()
    assert np.square(z - h).sum() < moved


def test_what_moves_with_the_attribute_in_each_class_goes_too():
    h, s, label = scene()

    def told(z):
        """How far the attribute moves features within a class, at most."""
        return max(
            np.abs(z[(s == one) & (label == y)].mean(0) - z[label == y].mean(0)).max()
            for one in range(3)
            for y in (0, 1)
        )

    alone, both = leace(h, np.eye(3)[s], 2), leace(h, beside(s, label), 4)
    left = [told(h - (h - mean) @ into @ out.T) for mean, into, out in (alone, both)]
    assert left[0] > 0.5
    assert left[1] < 1e-8
    # The label may still be told: columns are 0 on average in each class.
    np.testing.assert_allclose(beside(s, label).T @ np.eye(2)[label], 0, atol=1e-10)


def test_the_module_does_as_the_formula_and_nothing_before_it_is_fitted():
    h, s, _ = scene()
    module, x = Erasing(2), jnp.asarray(h, jnp.float32).reshape(-1, 1, 2, 3)
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_array_equal(module.apply(variables, x), x)
    mean, into, out = leace(h, np.eye(3)[s], 2)
    fitted = {"mean": mean, "into": into, "out": out}
    z = module.apply({"batch_stats": {name: jnp.asarray(one, jnp.float32) for name, one in fitted.items()}}, x)
    np.testing.assert_allclose(z.reshape(-1, 6), h - (h - mean) @ into @ out.T, atol=1e-4)
