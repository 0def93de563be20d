"""Convolution and pooling for every network: one function each, whose form is chosen by platform, here only."""

from ani_jax.modules.kernels.convolution import Conv
from ani_jax.modules.kernels.pool import max_pool, peak

__all__ = ["Conv", "max_pool", "peak"]
