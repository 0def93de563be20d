import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ani_jax.losses import reconstruction


def pair(seed=0, shape=(3, 24, 22, 3), noise=0.2):
    one, two = jax.random.split(jax.random.key(seed))
    x = jax.random.uniform(one, shape)
    return x, jnp.clip(x + noise * jax.random.normal(two, shape), 0, 1)


def test_mse_and_l1_are_pytorchs_and_scale_free():
    x, y = pair()
    a, b = torch.tensor(np.array(x)), torch.tensor(np.array(y))
    np.testing.assert_allclose(reconstruction.mse(y, x).mean(), torch.nn.functional.mse_loss(b, a), rtol=1e-5)
    np.testing.assert_allclose(reconstruction.l1(y, x).mean(), torch.nn.functional.l1_loss(b, a), rtol=1e-5)
    np.testing.assert_allclose(reconstruction.mse(y[:1], x[:1])[0], reconstruction.mse(y, x)[0], rtol=1e-6)


def test_psnr_and_ssim_are_scikit_images():
    x, y = pair()
    wang = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
        "channel_axis": 2,
    }
    for index in range(len(x)):
        a, b = np.array(x[index], np.float64), np.array(y[index], np.float64)
        np.testing.assert_allclose(
            reconstruction.psnr(y, x)[index], peak_signal_noise_ratio(a, b, data_range=1.0), rtol=1e-4
        )
        # scikit-image pads and then crops by the same half window, so its mean covers the same positions.
        expected = structural_similarity(a, b, **wang)
        np.testing.assert_allclose(reconstruction.ssim(y, x)[index], expected, rtol=1e-4)
        np.testing.assert_allclose(reconstruction.ssim_loss(y, x)[index], 1 - expected, rtol=1e-4)


def similarities(a, b):
    """Means over positions of SSIM and of its contrast-structure part, one channel, written independently."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(image):
        for axis in (0, 1):
            image = np.apply_along_axis(np.convolve, axis, image, taps, "valid")
        return image

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    contrast = (2 * (blur(a * b) - mean_a * mean_b) + 0.03**2) / (variance_a + variance_b + 0.03**2)
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return (luminance * contrast).mean(), contrast.mean()


def test_ms_ssim_at_32_pixels_is_two_renormalised_scales():
    x, y = pair(1, (2, 32, 32, 2), 0.1)
    weights = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = np.zeros((2, 2))
    for i in range(2):
        for c in range(2):
            a, b = np.array(x[i, :, :, c], np.float64), np.array(y[i, :, :, c], np.float64)
            half = [image.reshape(16, 2, 16, 2).mean((1, 3)) for image in (a, b)]
            expected[i, c] = similarities(a, b)[1] ** weights[0] * similarities(*half)[0] ** weights[1]
    np.testing.assert_allclose(jax.jit(reconstruction.ms_ssim)(y, x), expected.mean(1), rtol=1e-4)


def test_ms_ssim_has_a_finite_gradient_where_a_scale_is_negative():
    x, _ = pair(2, (1, 16, 16, 1))
    value, gradient = jax.jit(jax.value_and_grad(lambda y: reconstruction.ms_ssim(y, x).sum()))(1 - x)
    assert value == 0
    assert (gradient == 0).all()


def test_total_variation_known_answers():
    corner = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(1.0)
    np.testing.assert_allclose(reconstruction.total_variation(corner), [4 / 16])
    np.testing.assert_allclose(
        reconstruction.total_variation(corner, isotropic=True), [(2 + np.sqrt(2)) / 16], rtol=1e-6
    )


@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation_is_pytorchs(isotropic):
    x, _ = pair()
    image = torch.tensor(np.array(x), requires_grad=True)
    down = torch.nn.functional.pad(image[:, 1:] - image[:, :-1], (0, 0, 0, 0, 0, 1))
    right = torch.nn.functional.pad(image[:, :, 1:] - image[:, :, :-1], (0, 0, 0, 1))
    expected = torch.sqrt(down**2 + right**2 + 1e-20) if isotropic else down.abs() + right.abs()
    expected.mean((1, 2, 3)).sum().backward()
    value, gradient = jax.value_and_grad(lambda v: reconstruction.total_variation(v, isotropic=isotropic).sum())(x)
    np.testing.assert_allclose(value, expected.mean((1, 2, 3)).sum().item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, image.grad, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), noise=st.floats(0, 1))
def test_properties(seed, noise):
    x, y = pair(seed, (3, 24, 22, 3), noise)
    np.testing.assert_allclose(reconstruction.mse(x, y), reconstruction.mse(y, x))
    assert (reconstruction.mse(x, y) <= reconstruction.l1(x, y) + 1e-6).all()
    assert (reconstruction.total_variation(x, isotropic=True) <= reconstruction.total_variation(x) + 1e-6).all()
    ssim = jax.jit(reconstruction.ssim)
    similarity = ssim(x, y)
    np.testing.assert_allclose(similarity, ssim(y, x), atol=1e-5)
    assert (jnp.abs(similarity) <= 1 + 1e-5).all()


def test_zero_cases():
    x, _ = pair()
    for loss in (reconstruction.mse, reconstruction.l1, reconstruction.ssim_loss):
        np.testing.assert_allclose(loss(x, x), np.zeros(3), atol=1e-5)
        assert jnp.isfinite(jax.jit(jax.grad(lambda y, loss=loss: loss(y, x).sum()))(x)).all()
    assert jnp.isinf(reconstruction.psnr(x, x)).all()
    assert (reconstruction.total_variation(jnp.full((2, 4, 4, 1), 0.3)) == 0).all()


def test_gradients():
    x, y = pair(0, (1, 12, 12, 1))
    for loss in (reconstruction.mse, reconstruction.ssim_loss):
        check_grads(jax.jit(lambda v, loss=loss: loss(v, x)), (y,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: reconstruction.mse(x, x[:1]), "prediction.shape="),
        (lambda x: reconstruction.l1(x[:, 0, 0, 0], x[:, 0, 0, 0]), "target.shape=.2,.: must be of rank 2"),
        (lambda x: reconstruction.psnr(x[0], x[0]), "target.shape=.10, 12, 1.: must be of rank 4"),
        (lambda x: reconstruction.ssim(x, x), "must be at least 11 pixels a side"),
        (lambda x: reconstruction.ms_ssim(x, x), "must be at least 11 pixels a side"),
        (lambda x: reconstruction.total_variation(x[0]), "images.shape="),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((2, 10, 12, 1)))
