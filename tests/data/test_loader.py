import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.data import loader
from ani_jax.types import Batch, Source


def jitter(key, rows):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows.shape[0]))
    noise = jax.vmap(lambda one: jax.random.uniform(one, (2, 2, 1)))(keys)
    return Batch(noise, rows, {}, rows)


@pytest.fixture
def source():
    return Source(jnp.arange(23, dtype=jnp.int32), jitter)


def indices(key, steps, size=23, batch_size=5):
    return np.stack([loader.epoch_index(key, step, size, batch_size) for step in steps])


def test_an_epoch_visits_each_original_at_most_once_and_epochs_differ(key):
    epochs = indices(key, range(12)).reshape(3, 20)
    for epoch in epochs:
        assert len(np.unique(epoch)) == 20
        assert epoch.min() >= 0
        assert epoch.max() < 23
    assert len(np.unique(epochs, axis=0)) == 3


def test_over_many_epochs_every_original_has_its_turn(key):
    visits = np.bincount(np.asarray(jax.vmap(lambda s: loader.epoch_index(key, s, 23, 5))(jnp.arange(800))).ravel())
    # 200 epochs, 20 of 23 each: 5 standard deviations of the binomial count.
    assert visits.shape == (23,)
    assert np.all(np.abs(visits - 200 * 20 / 23) < 5 * np.sqrt(200 * (20 / 23) * (3 / 23)))


def test_the_key_decides(key):
    assert np.array_equal(indices(key, range(4)), indices(key, range(4)))
    assert not np.array_equal(indices(key, range(4)), indices(jax.random.key(1), range(4)))


def test_a_whole_split_may_be_one_batch(key):
    assert sorted(indices(key, [3], batch_size=23)[0]) == list(range(23))


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_size_out_of_range_is_named(key, source, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size: {batch_size}; allowed: 1 to 23"):
        loader.draw_batch(source, key, 0, batch_size)


def test_jit_with_a_traced_step_gives_the_same_batch(key, source):
    jitted = jax.jit(lambda source, step: loader.draw_batch(source, key, step, 5))
    for step in (0, 3, 4, 17):
        jax.tree.map(np.testing.assert_array_equal, jitted(source, step), loader.draw_batch(source, key, step, 5))


def test_steps_in_one_dispatch_see_what_single_steps_see(key, source):
    def draw(step, _):
        return step + 1, loader.draw_batch(source, key, step, 5)

    _, together = jax.lax.scan(draw, jnp.int32(2), length=6)
    single = [loader.draw_batch(source, key, jnp.int32(step), 5) for step in range(2, 8)]
    jax.tree.map(np.testing.assert_array_equal, together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *single))


def test_every_step_renders_anew_even_where_originals_recur(key):
    source = Source(jnp.arange(1, dtype=jnp.int32), jitter)
    first, second = (loader.draw_batch(source, key, step, 1) for step in (0, 1))
    assert first.label == second.label
    assert not np.array_equal(first.image, second.image)
