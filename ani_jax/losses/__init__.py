"""Pure functions of arrays: the part of ani_jax that other JAX code imports.

Functions of examples return one value per example, ``(b,)``; statistics of a batch return a scalar. Everything computes
in float32 or better, has finite gradients at its degenerate points, and checks shapes when it is traced.
Loads jax, jaxtyping and numpy, nothing heavier.
"""

from ani_jax.losses.adversarial import hinged, kl_to_prior, max_entropy, reverse_gradient
from ani_jax.losses.dependence import (
    RELEASE_EPSILON,
    channel_pearson,
    corrected_distance_correlation,
    distance_correlation,
    distance_covariance,
    hsic,
    linear_cka,
    live_channels,
    local_distance_correlation,
)
from ani_jax.losses.estimates import (
    conditional_entropy_bound,
    conditional_entropy_estimate,
    correlated_gaussian_information,
    gaussian_channel_capacity,
    gaussian_entropy,
    gaussian_fisher_information,
    gaussian_mutual_information,
    kozachenko_leonenko_entropy,
    ksg_mutual_information,
    mse_bound_from_entropy,
    mse_estimate_from_entropy,
)
from ani_jax.losses.information import club, donsker_varadhan, infonce, infonce_cap, jsd, mine, nwj, smile, split_scores
from ani_jax.losses.noise import (
    gaussian_entropy_per_element,
    gaussian_rate,
    laplace_entropy_per_element,
    mask_log_reward,
    mask_mean_reward,
    mean_log_scale,
)
from ani_jax.losses.reconstruction import l1, ms_ssim, ms_ssim_scales, mse, psnr, ssim, ssim_loss, total_variation
from ani_jax.losses.task import accuracy, balanced_accuracy, cross_entropy, smoothed_kl, top_k_accuracy

__all__ = [
    "RELEASE_EPSILON",
    "accuracy",
    "balanced_accuracy",
    "channel_pearson",
    "club",
    "conditional_entropy_bound",
    "conditional_entropy_estimate",
    "corrected_distance_correlation",
    "correlated_gaussian_information",
    "cross_entropy",
    "distance_correlation",
    "distance_covariance",
    "donsker_varadhan",
    "gaussian_channel_capacity",
    "gaussian_entropy",
    "gaussian_entropy_per_element",
    "gaussian_fisher_information",
    "gaussian_mutual_information",
    "gaussian_rate",
    "hinged",
    "hsic",
    "infonce",
    "infonce_cap",
    "jsd",
    "kl_to_prior",
    "kozachenko_leonenko_entropy",
    "ksg_mutual_information",
    "l1",
    "laplace_entropy_per_element",
    "linear_cka",
    "live_channels",
    "local_distance_correlation",
    "mask_log_reward",
    "mask_mean_reward",
    "max_entropy",
    "mean_log_scale",
    "mine",
    "ms_ssim",
    "ms_ssim_scales",
    "mse",
    "mse_bound_from_entropy",
    "mse_estimate_from_entropy",
    "nwj",
    "psnr",
    "reverse_gradient",
    "smile",
    "smoothed_kl",
    "split_scores",
    "ssim",
    "ssim_loss",
    "top_k_accuracy",
    "total_variation",
]
