"""Noise keyed by the image: hash and cipher bit by bit against their standards, and what is promised of the noise."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.modules.pseudorandom import chacha20, normal, secret_of, sha256, uniform


@pytest.mark.parametrize("size", [0, 1, 12, 13, 14, 15, 16, 29, 30, 100, 776])
def test_sha256_is_hashlibs(size):
    words = np.random.default_rng(size).integers(0, 2**32, (3, size), np.uint32)
    told = [hashlib.sha256(row.astype(">u4").tobytes()).hexdigest() for row in words]
    found = np.asarray(sha256(jnp.asarray(words)))
    assert [row.astype(">u4").tobytes().hex() for row in found] == told


def test_chacha20_is_that_of_rfc_8439():
    # Section 2.3.2, and the all-zero key of appendix A.1.
    key = jnp.asarray(np.frombuffer(bytes(range(32)), "<u4"))
    nonce = tuple(np.frombuffer(bytes.fromhex("000000090000004a00000000"), "<u4").tolist())
    block = np.asarray(chacha20(key, jnp.array([1], jnp.uint32), nonce))[0]
    assert block.astype("<u4").tobytes().hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    zero = np.asarray(chacha20(jnp.zeros(8, jnp.uint32), jnp.arange(2, dtype=jnp.uint32)))
    assert zero[0].astype("<u4").tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")
    assert zero[1].astype("<u4").tobytes().hex().startswith("9f07e7be5551387a98ba977c732d080d")


def test_several_keys_at_once_are_each_by_itself():
    keys, counter = jnp.arange(24, dtype=jnp.uint32).reshape(3, 8), jnp.arange(5, dtype=jnp.uint32)
    together = chacha20(keys, counter)
    assert together.shape == (3, 5, 16)
    for key, blocks in zip(keys, together, strict=True):
        np.testing.assert_array_equal(chacha20(key, counter), blocks)


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(3), (16, 5, 7, 3))


def test_the_noise_is_the_images_own_whatever_is_beside_it(images):
    secret = secret_of(jax.random.key(0))
    whole = uniform(secret, images, 1000)
    np.testing.assert_array_equal(uniform(secret, images[3:5], 1000), whole[3:5])
    # More numbers begin with the same.
    np.testing.assert_array_equal(uniform(secret, images, 17), whole[:, :17])
    assert 0 < float(whole.min()) < float(whole.max()) < 1


def test_one_byte_of_one_pixel_changes_all_of_it_and_less_than_a_byte_nothing(images):
    secret = secret_of(jax.random.key(0))
    images = jnp.round(images * 255) / 255
    before = uniform(secret, images, 1000)
    np.testing.assert_array_equal(uniform(secret, (images + 0.4 / 255).clip(0, 1), 1000), before)
    for place in ((0, 0, 0), (4, 6, 2), (2, 3, 1)):
        changed = images.at[(slice(None), *place)].add(jnp.where(images[(slice(None), *place)] < 0.5, 1, -1) / 255)
        after = uniform(secret, changed, 1000)
        assert float((after == before).mean()) < 1e-3
        assert abs(np.corrcoef(np.ravel(after), np.ravel(before))[0, 1]) < 0.04


def test_another_devices_noise_is_another(images):
    here, there = (uniform(secret_of(jax.random.key(seed)), images, 1000) for seed in (0, 1))
    assert float((here == there).mean()) < 1e-3


def test_it_is_uniform_and_normal():
    images = jax.random.uniform(jax.random.key(5), (64, 4, 4, 1))
    secret = secret_of(jax.random.key(1))
    assert scipy.stats.kstest(np.ravel(uniform(secret, images, 2000)), "uniform").pvalue > 1e-3
    found = np.asarray(normal(secret, images, 2000), np.float64)
    assert scipy.stats.kstest(np.ravel(found), "norm").pvalue > 1e-3
    # Over images as over the numbers of one, and no two numbers of an image go together.
    assert np.abs(found.mean(0)).max() < 6 / np.sqrt(64)
    assert np.abs(np.corrcoef(found[:, :40].T) - np.eye(40)).max() < 0.6
    assert np.isfinite(found).all()
