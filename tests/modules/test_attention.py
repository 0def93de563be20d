"""Attention blocks against transcriptions of the papers' formulas, in numpy and (triplet attention) PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.attention import CBAM, SqueezeExcite, TripletAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def seven(x, kernel):
    """Correlation with zero padding, written out: x (b, h, w, c), kernel (7, 7, c, 1)."""
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    out = np.zeros(x.shape[:3])
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = (padded[:, i : i + 7, j : j + 7] * kernel[None, ..., 0]).sum((1, 2, 3))
    return out


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(2, 6, 5, 12)).astype(np.float32)


def test_squeeze_excite(x, key):
    module = SqueezeExcite(4)
    variables = jax.jit(module.init)(key, x)
    weights = jax.tree.map(np.asarray, variables["params"])
    assert weights["squeeze"]["kernel"].shape == (12, 3)
    hidden = np.maximum(x.mean((1, 2)) @ weights["squeeze"]["kernel"], 0)
    expected = x * sigmoid(hidden @ weights["excite"]["kernel"])[:, None, None, :]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, atol=1e-5)


def test_cbam(x, key):
    module = CBAM(6)
    variables = jax.jit(module.init)(key, x)
    weights = jax.tree.map(np.asarray, variables["params"])

    def mlp(v):
        return np.maximum(v @ weights["squeeze"]["kernel"], 0) @ weights["excite"]["kernel"]

    y = x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None, :]
    pooled = np.stack([y.mean(-1), y.max(-1)], -1)
    expected = y * sigmoid(seven(pooled, weights["spatial"]["kernel"]))[..., None]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, atol=1e-5)


def test_triplet_attention(x, key):
    """PyTorch with the paper's permutations, NCHW, training statistics."""
    torch = pytest.importorskip("torch")
    module = TripletAttention()
    variables = jax.jit(lambda x: module.init(key, x, train=True))(x)
    weights = jax.tree.map(np.asarray, variables["params"])
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy())

    def gate(y, kernel):
        pooled = torch.cat([y.max(1, keepdim=True)[0], y.mean(1, keepdim=True)], 1)
        out = torch.nn.functional.conv2d(pooled, kernel, padding=3)
        return y * torch.sigmoid((out - out.mean()) / torch.sqrt(out.var(unbiased=False) + 1e-5))

    def kernel(name, turn):
        array = torch.tensor(weights[f"{name}_conv"]["kernel"].transpose(3, 2, 0, 1).copy())
        return array.transpose(2, 3) if turn else array

    # The paper's branches see (channels, width) and (height, channels); ours (width, channels) and (height, channels).
    rows = gate(images.permute(0, 2, 1, 3), kernel("height", True)).permute(0, 2, 1, 3)
    columns = gate(images.permute(0, 3, 2, 1), kernel("width", False)).permute(0, 3, 2, 1)
    expected = (rows + columns + gate(images, kernel("channels", False))) / 3
    got, _ = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))(variables, x)
    np.testing.assert_allclose(got, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("module", [SqueezeExcite(32), CBAM(6)])
def test_fewer_channels_than_the_reduction(module, key):
    y, variables = jax.eval_shape(module.init_with_output, key, jnp.zeros((1, 4, 4, 2)))
    assert y.shape == (1, 4, 4, 2)
    assert variables["params"]["squeeze"]["kernel"].shape == (2, 1)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (SqueezeExcite(0), (1, 4, 4, 8), "reduction: 0"),
        (SqueezeExcite(2), (4, 8), "x: shape"),
        (CBAM(2, kernel_size=4), (1, 4, 4, 8), "kernel_size: 4"),
    ],
)
def test_refuses(module, shape, message, key):
    with pytest.raises(ValueError, match=message):
        module.init(key, jnp.zeros(shape))
