"""What a client costs the device: parameters, multiply-accumulates and bytes (METHODS 6)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ani_jax.losses.dependence import live_channels
from ani_jax.modules.kernels.convolution import PLAIN
from ani_jax.records import CostCard
from ani_jax.types import Features, Images, PRNGKey, Release


def cost_card(release: Release, image_shape: tuple[int, ...], features: Features | None = None) -> CostCard:
    """The cost card of a client.

    Args:
        release: the client. Leaves of a "params" collection count as parameters; without one, all floating-point
            leaves do.
        image_shape: (height, width, channels), or the numbers of a vector.
        features: z of some images, noise aside, to count live channels by.

    Returns:
        Sizes and multiply-accumulates for one image. Weights that a plain function closes over are counted in neither.

    Example:
        >>> release = Release({"w": jnp.ones((12, 5))}, lambda v, x, key: x.reshape(-1, 12) @ v["w"])
        >>> cost_card(release, (2, 2, 3)).macs
        60
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    z = jax.eval_shape(_send, release, image, jax.random.key(0))
    floats = math.prod(z.shape[1:])
    # Of vectors every number would be a channel.
    channels = z.shape[-1] if len(z.shape) == 4 else None
    return CostCard(
        parameters=parameter_count(release.variables),
        macs=multiply_accumulates(_send, release, image, jax.random.key(0)),
        floats=floats,
        bytes_float32=4 * floats,
        bytes_quantised=floats,
        bytes_raw=math.prod(image_shape),
        channels=channels,
        live_channels=None if channels is None or features is None else int(live_channels(features)),
    )


def _send(release: Release, image: Images, key: PRNGKey) -> Features:
    return release(image, key)


def parameter_count(variables: Any) -> int:
    """Trainable numbers: the leaves of "params" where there is such a collection, else every floating-point leaf.

    Example:
        >>> parameter_count({"params": {"kernel": jnp.ones((3, 2))}, "batch_stats": {"mean": jnp.ones(2)}})
        6
    """
    if isinstance(variables, dict) and "params" in variables:
        variables = variables["params"]
    leaves = [leaf for leaf in jax.tree.leaves(variables) if hasattr(leaf, "dtype")]
    return sum(int(np.size(leaf)) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))


def multiply_accumulates(function: Any, *args: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products in a JAX function, counted in its jaxpr.

    Counted here rather than read off XLA's cost analysis, which mixes in elementwise work and differs between a
    convolution and the matrix product that computes it. Padding counts as if it were data; a convolution counts as the
    textbook's, whatever a platform saves or wastes; of a conditional's branches the dearest; loops of unknown length
    count once.

    Args:
        function: a JAX function or a callable pytree.
        *args: example arguments or their shapes.

    Example:
        >>> multiply_accumulates(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 4)))
        24
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_count(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape  # type: ignore[union-attr]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)  # type: ignore[union-attr]
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # type: ignore[union-attr]
            # An output sees the kernel of its own feature alone.
            seen = math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(equation.outvars[0].aval.shape) * seen  # type: ignore[union-attr]
        elif equation.primitive in PLAIN:
            plain = functools.partial(PLAIN[equation.primitive], **equation.params)
            total += multiply_accumulates(plain, *(operand.aval for operand in equation.invars))
        elif name == "cond":
            total += max(inner, default=0)
        else:
            total += sum(inner) * (equation.params["length"] if name == "scan" else 1)
    return total


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    """The jaxprs in a parameter of an equation."""
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    return [jaxpr for item in value for jaxpr in _jaxprs(item)] if isinstance(value, tuple | list) else []
