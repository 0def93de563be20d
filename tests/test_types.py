"""Sources draw what they store, releases are pytrees of their variables alone, defaults are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax import types


def scans(count=8):
    image = jnp.arange(count, dtype=jnp.float32)[:, None, None, None] * jnp.ones((1, 2, 2, 1))
    return types.Batch(image, jnp.arange(count), {"ink": jnp.arange(count) % 3}, jnp.arange(count) // 2)


def noisy(key, rows):
    return rows._replace(image=rows.image + jax.random.normal(key, rows.image.shape))


def scale(variables, x, key):
    del key
    return variables["scale"] * x


def test_group_is_absent_by_default():
    assert types.Batch(jnp.zeros((1, 2, 2, 1)), jnp.zeros(1, int), {}).group is None


def test_task_counts_its_classes():
    assert types.Task("ink", ("red", "green", "blue")).classes == 3


def test_source_counts_originals():
    assert types.Source(scans(5), types.fixed).size == 5


def test_draw_keeps_rows_together():
    drawn = types.Source(scans(), types.fixed).draw(jax.random.key(3), 32)
    np.testing.assert_array_equal(drawn.image[:, 0, 0, 0], drawn.label)
    np.testing.assert_array_equal(drawn.sensitive["ink"], drawn.label % 3)
    np.testing.assert_array_equal(drawn.group, drawn.label // 2)


def test_draw_is_a_function_of_its_key():
    source = types.Source(scans(), noisy)
    first, again, other = (source.draw(jax.random.key(seed), 16) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.label != other.label).any()


def test_draw_is_uniform_with_replacement():
    labels = types.Source(scans(), types.fixed).draw(jax.random.key(0), 4000).label
    counts = np.bincount(labels, minlength=8)
    # 500 expected in each of 8 cells with a standard deviation of 21: five of them on either side.
    assert counts.min() > 395
    assert counts.max() < 605


def test_choice_and_rendering_use_different_keys():
    key = jax.random.key(0)
    drawn = types.Source(scans(), noisy).draw(key, 16)
    noise = drawn.image - drawn.label[:, None, None, None]
    assert not np.allclose(noise, jax.random.normal(key, noise.shape))


def test_batch_gathers_in_order():
    batch = types.Source(scans(), types.fixed).batch(jax.random.key(0), jnp.array([5, 0, 5]))
    np.testing.assert_array_equal(batch.label, [5, 0, 5])


def test_source_passes_through_jit_once_for_equal_shapes():
    traces = []

    @jax.jit
    def draw(source, key):
        traces.append(1)
        return source.draw(key, 4).image

    draw(types.Source(scans(), types.fixed), jax.random.key(0))
    draw(types.Source(scans()._replace(image=jnp.zeros((8, 2, 2, 1))), types.fixed), jax.random.key(1))
    assert len(traces) == 1


def test_release_has_only_its_variables_as_leaves():
    variables = {"scale": jnp.array(2.0), "bias": jnp.zeros(3)}
    leaves = jax.tree.leaves(types.Release(variables, scale, stochastic=True, mean=scale, log_prob=scale))
    assert len(leaves) == 2
    assert all(any(leaf is own for own in variables.values()) for leaf in leaves)


def test_release_applies_its_variables():
    x = jnp.ones((2, 2, 2, 1))
    np.testing.assert_array_equal(types.Release({"scale": jnp.array(2.0)}, scale)(x, jax.random.key(0)), 2 * x)


def test_releases_of_one_architecture_compile_once():
    traces = []

    @jax.jit
    def send(release, x, key):
        traces.append(1)
        return release(x, key)

    x, key = jnp.ones((2, 2, 2, 1)), jax.random.key(0)
    two = send(types.Release({"scale": jnp.array(2.0)}, scale), x, key)
    three = send(types.Release({"scale": jnp.array(3.0)}, scale), x, key)
    assert len(traces) == 1
    np.testing.assert_allclose(three, 1.5 * two)
    send(types.Release({"scale": jnp.array(3.0)}, scale, stochastic=True), x, key)
    assert len(traces) == 2


def test_release_is_frozen():
    with pytest.raises(AttributeError):
        types.Release({}, scale).stochastic = True  # type: ignore[misc]


def test_data_keeps_names_static():
    source, batch = types.Source(scans(), types.fixed), scans()
    task = types.Task("digit", ("0", "1"))
    data = types.Data(source, batch, source, batch, batch, "digits", task, (task,))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(data))
    assert jax.tree.map(lambda leaf: leaf, data).name == "digits"


def test_nothing_is_known_by_default():
    assert types.Knowledge() == types.Knowledge(release=None, predict=None)


def test_attackers_who_are_granted_what_trained_the_defence_draw_both():
    own, other = (types.Batch(jnp.full((3, 2, 2, 1), value), jnp.full(3, value, int), {}) for value in (0, 1))
    data = types.Data(
        types.Source(other, types.fixed),
        own,
        types.Source(own, types.fixed),
        own,
        own,
        "two",
        types.Task("t", ("a", "b")),
        (),
    )
    assert data.granted.auxiliary.size == 6
    drawn = data.granted.auxiliary.draw(jax.random.key(0), 200)
    assert 0.3 < float(drawn.label.mean()) < 0.7
    assert jnp.array_equal(drawn.image[:, 0, 0, 0], drawn.label)
    assert data.granted.defend is data.defend
