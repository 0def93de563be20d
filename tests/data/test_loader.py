import subprocess
import sys
from functools import partial

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


LARGE = loader.SORTED + 500


def test_a_large_set_is_visited_once_an_epoch_too(key):
    visit = jax.jit(lambda step: loader.epoch_index(key, step, LARGE, 100))
    epochs = np.stack([visit(step) for step in range(45)]).reshape(3, 1500)
    for epoch in epochs:
        assert len(np.unique(epoch)) == 1500
        assert epoch.min() >= 0
        assert epoch.max() < LARGE
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 12, 13, 100, 1025, 4096, 10_007])
def test_the_cipher_is_a_permutation(key, size):
    assert np.array_equal(np.sort(loader.permuted(key, jnp.arange(size), size)), np.arange(size))


def test_the_cipher_needs_no_other_places(key):
    whole = loader.permuted(key, jnp.arange(5000), 5000)
    assert np.array_equal(loader.permuted(key, jnp.array([4999, 7, 0]), 5000), whole[jnp.array([4999, 7, 0])])


def test_the_cipher_looks_random(key):
    """Where a place goes, and how far apart neighbours land, are uniform: chi-squared within 5 standard deviations."""
    size, keys, bins = 2000, 4000, 40
    both = jax.vmap(lambda epoch: loader.permuted(jax.random.fold_in(key, epoch), jnp.array([17, 18]), size))
    first, second = np.asarray(jax.jit(both)(jnp.arange(keys))).T
    for values in (first, second, (second - first) % size):
        counts = np.bincount(values * bins // size, minlength=bins)
        statistic = np.sum((counts - keys / bins) ** 2) / (keys / bins)
        assert abs(statistic - (bins - 1)) < 5 * np.sqrt(2 * (bins - 1))


@pytest.mark.parametrize("size", [200, LARGE])
def test_two_processes_together_draw_what_one_draws(key, size):
    """Each of two devices holds half of the batch; the program is the same, only its layout differs."""
    source = Source(jnp.arange(size, dtype=jnp.int32), jitter)
    devices = jax.sharding.Mesh(np.array(jax.devices()[:2]), "data", axis_types=(jax.sharding.AxisType.Auto,))
    halves = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data"))
    draw = partial(loader.draw_batch, batch_size=10)
    for step in (0, 3):
        alone = jax.jit(draw)(source, key, step)
        split = jax.block_until_ready(jax.jit(draw, out_shardings=halves)(source, key, step))
        assert split.image.sharding.is_equivalent_to(halves, split.image.ndim)
        jax.tree.map(np.testing.assert_array_equal, alone, split)


@pytest.mark.slow
def test_two_real_processes_draw_the_halves_of_one_batch(tmp_path):
    code = """
import sys
import jax, numpy as np
from ani_jax.data import catalog, loader
data = catalog.load("digits", image_size=16)
batch = loader.draw_batch(data.defend, jax.random.key(0), 7, 16)
rank, count = int(sys.argv[1]), int(sys.argv[2])
part = slice(rank * 16 // count, (rank + 1) * 16 // count)
np.savez(sys.argv[3], image=batch.image[part], label=batch.label[part])
"""
    files = {}
    for rank, count in ((0, 1), (0, 2), (1, 2)):
        files[rank, count] = tmp_path / f"{rank}-{count}.npz"
        subprocess.run([sys.executable, "-c", code, str(rank), str(count), files[rank, count]], check=True)
    for name in ("image", "label"):
        one, *two = (np.load(path)[name] for path in files.values())
        assert np.array_equal(one, np.concatenate(two))


def test_rows_read_ahead_from_a_file_show_the_batches_of_the_device(tmp_path, key):
    np.save(tmp_path / "stored.npy", np.arange(23, dtype=np.int32))
    mapped = Source(np.load(tmp_path / "stored.npy", mmap_mode="r"), jitter)
    whole, plan = Source(jnp.arange(23, dtype=jnp.int32), jitter), [(3, 2), (5, 2), (7, 1)]
    for (first, count), rows in zip(plan, loader.read_ahead(mapped, key, 6, plan), strict=True):
        halves = [next(loader.read_ahead(mapped, key, 6, [(first, count)], part)) for part in (slice(3), slice(3, 6))]
        np.testing.assert_array_equal(np.concatenate([half.stored for half in halves], 1), rows.stored)
        for step in range(first, first + count):
            expected = loader.draw_batch(whole, key, step, 6)
            found = loader.draw_steps(rows, key, jnp.int32(step), jnp.int32(first), 6)
            jax.tree.map(np.testing.assert_array_equal, found, expected)
