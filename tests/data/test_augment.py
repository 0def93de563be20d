import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.data import augment


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(size=(64, 16, 16, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def augmented(images):
    """Every single augmentation of one batch, compiled once."""
    apply = jax.jit(augment.augment, static_argnums=2)
    return {name: np.asarray(apply(jax.random.key(3), images, (name,))) for name in augment.AUGMENTATIONS}


def test_a_flip_mirrors_about_half_of_the_pictures(images, augmented):
    same = np.all(augmented["flip"] == np.asarray(images), axis=(1, 2, 3))
    mirrored = np.all(augmented["flip"] == np.asarray(images)[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert 16 < mirrored.sum() < 48


def test_a_crop_is_one_of_the_shifts_and_all_occur(images, augmented):
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    found = [
        [(y, x) for y in range(5) for x in range(5) if np.array_equal(one, whole[y : y + 16, x : x + 16])]
        for one, whole in zip(augmented["crop"], padded)
    ]
    assert all(len(matches) == 1 for matches in found)
    shifts = {matches[0] for matches in found}
    assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(5))


def test_jitter_stays_in_range_changes_colours_and_respects_its_bounds(images, augmented):
    assert augmented["jitter"].min() >= 0
    assert augmented["jitter"].max() <= 1
    change = np.abs(augmented["jitter"] - np.asarray(images))
    assert 0.02 < change.mean() < 0.2
    grey = jnp.full((64, 8, 8, 3), 0.5)
    # A uniform grey has neither contrast nor saturation: only brightness moves it.
    moved = np.asarray(augment.augment(jax.random.key(0), grey, ("jitter",)))
    assert np.ptp(moved, axis=(1, 2, 3)).max() < 1e-5
    assert 0.15 < np.abs(moved - 0.5).max() <= augment.MAX_BRIGHTNESS + 1e-6


def test_each_picture_depends_on_its_place_and_itself_only(images):
    names = tuple(augment.AUGMENTATIONS)
    whole = augment.augment(jax.random.key(1), images, names)
    np.testing.assert_allclose(augment.augment(jax.random.key(1), images[:5], names), whole[:5], atol=1e-6)
    assert not np.array_equal(augment.augment(jax.random.key(2), images, names), whole)
    twice = augment.augment(jax.random.key(1), jnp.stack([images[0]] * 8), names)
    assert len(np.unique(np.asarray(twice).reshape(8, -1), axis=0)) > 4


def test_the_order_of_names_does_not_matter_and_none_is_the_identity(images):
    key = jax.random.key(0)
    one, other = (augment.augment(key, images, names) for names in (("flip", "crop"), ("crop", "flip")))
    assert np.array_equal(one, other)
    assert np.array_equal(augment.augment(key, images, ()), images)


def test_an_unknown_name_is_refused(images):
    with pytest.raises(ValueError, match=r"^augment=spin: must be one of flip, crop, jitter$"):
        augment.augment(jax.random.key(0), images, ("flip", "spin"))
