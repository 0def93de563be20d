"""Adversaries: any features in, the right shapes out, no batch statistics; upsampling is a transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.adversaries import (
    ConvClassifier,
    MirrorDecoder,
    MLPClassifier,
    depth_to_space,
    space_to_depth,
)

FEATURES = [(2, 8, 8, 12), (2, 16, 16, 3), (2, 32, 32, 3), (2, 1, 1, 5), (2, 5, 6, 3), (2, 64, 64, 1), (2, 40)]
DECODERS = [MirrorDecoder((32, 32, 3), width=8)]


@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_reach_the_image_from_any_features(decoder, shape, key):
    image, variables = jax.eval_shape(decoder.init_with_output, key, jnp.zeros(shape))
    assert image.shape == (2, 32, 32, 3)
    assert set(variables) == {"params"}


@pytest.mark.parametrize(
    ("image", "z"), [((28, 28, 1), (2, 7, 7, 12)), ((30, 30, 3), (2, 30, 30, 3)), ((9, 9, 1), (2, 4))]
)
def test_decoders_of_other_images(image, z, key):
    assert jax.eval_shape(MirrorDecoder(image, width=8).init_with_output, key, jnp.zeros(z))[0].shape == (2, *image)


@pytest.mark.parametrize("shape", [*FEATURES, (2, 7, 7, 12)])
@pytest.mark.parametrize("module", [ConvClassifier(4, width=8), MLPClassifier(4, width=8)])
def test_classifiers_take_any_features(module, shape, key):
    logits, variables = jax.eval_shape(module.init_with_output, key, jnp.zeros(shape))
    assert logits.shape == (2, 4)
    assert set(variables) == {"params"}


@pytest.mark.parametrize("module", [*DECODERS, ConvClassifier(4, width=8), MLPClassifier(4, width=8)])
def test_answers_are_finite_bounded_and_about_one_example(module, key):
    z = 3 * jax.random.normal(key, (2, 8, 8, 12))
    variables = jax.jit(module.init)(key, z)
    apply = jax.jit(lambda variables, z: module.apply(variables, z, train=True))
    out = apply(variables, z)
    np.testing.assert_allclose(apply(variables, z.at[1].set(0.5))[0], out[0], atol=1e-5)
    assert float(jnp.abs(out[0] - out[1]).max()) > 1e-4
    if out.ndim == 4:
        assert 0 < float(out.min()) < float(out.max()) < 1


def test_depth_and_space_are_inverse(key):
    x = jax.random.normal(key, (2, 4, 6, 8))
    np.testing.assert_array_equal(space_to_depth(depth_to_space(x)), x)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x)), x)


def test_upsampling_is_a_transposed_convolution(key):
    """3x3 to four times the channels and `depth_to_space`, against PyTorch's stride-2 transposed convolution, 6x6."""
    torch = pytest.importorskip("torch")
    x, kernel = jax.random.normal(key, (2, 4, 5, 3)), jax.random.normal(key, (3, 3, 3, 4 * 2))
    ours = depth_to_space(
        jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
    # Output pixel 2q + phase sees input q + tap - 1, which the transposed kernel holds at phase + 2 * (2 - tap).
    turned = np.zeros((3, 2, 6, 6), np.float32)
    split = np.asarray(kernel).reshape(3, 3, 3, 2, 2, 2)
    for i, j, p, q in np.ndindex(3, 3, 2, 2):
        turned[:, :, p + 2 * (2 - i), q + 2 * (2 - j)] = split[i, j, :, p, q]
    images = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy())
    theirs = torch.nn.functional.conv_transpose2d(images, torch.tensor(turned), stride=2, padding=2)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("module", "z", "message"),
    [
        (lambda: MirrorDecoder((8, 8, 3)), jnp.zeros((2, 4, 4)), "z: shape"),
        (lambda: MirrorDecoder((8, 8)), jnp.zeros((2, 4)), "image_shape: "),
        (lambda: ConvClassifier(4), jnp.zeros((2, 4), jnp.int32), "z: dtype int32"),
        (lambda: MLPClassifier(4), jnp.zeros(4), "z: shape"),
    ],
)
def test_refuses(module, z, message, key):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module().init, key, z)


def test_refuses_sides_and_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="multiples of 2"):
        space_to_depth(jnp.zeros((1, 3, 4, 1)))
    with pytest.raises(ValueError, match="multiple of 4"):
        depth_to_space(jnp.zeros((1, 3, 4, 3)))
