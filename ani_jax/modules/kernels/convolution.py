"""The convolution that every network enters through ``nn.Conv``: XLA's own, and on the CPU the form that measures fastest.

A convolution is the trilinear form ``T(x, kernel, g) = sum g * conv(x, kernel)``. Its three partial derivatives (the
output, the input's gradient and the kernel's) are three primitives, each bilinear in its two arguments and with the
other two as its transposes: forward and reverse mode of any order follow. Under ``vmap`` an axis of one argument alone
joins its images, channels or features; an axis of both stays in front, as so many convolutions at once.

Off the CPU, and for a symbolic batch (``jax.export``), each is lowered to XLA's own; on the CPU, to the form in `FAST`.
What each form buys of a whole step is in docs/SPEED.md; one that bought less than a tenth would not be here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

from ani_jax.modules.kernels import winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")
PATCH_BYTES = 5 * 2**20
TILE_BYTES = 160 * 2**20
Pads = winograd.Pads
NEUTRAL = {
    "lhs_dilation": (None, (1, 1)),
    "rhs_dilation": (None, (1, 1)),
    "dimension_numbers": (LAYOUT, lax.conv_dimension_numbers((1,) * 4, (1,) * 4, LAYOUT)),
    "feature_group_count": (1,),
    "batch_group_count": (1,),
}
"""Options of ``lax.conv_general_dilated`` and the values that change nothing; of any other, None."""


class Spec(NamedTuple):
    """What is static about a convolution, and with two of its three arrays enough to size the third.

    Attributes:
        strides: vertical and horizontal.
        pads: ``((top, bottom), (left, right))``, not negative.
        image: height and width of what is convolved.
        sides: of the kernel.
        out: height and width of the output.
    """

    strides: tuple[int, int]
    pads: Pads
    image: tuple[int, int]
    sides: tuple[int, int]
    out: tuple[int, int]


def known(x: Array, kernel: Array, strides: Sequence[int], padding: Any, options: dict[str, Any]) -> Spec | None:
    """The spec of a convolution that the primitives know, or None.

    Example:
        >>> x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 1))
        >>> options = {"dimension_numbers": LAYOUT, "rhs_dilation": (1, 1)}
        >>> known(x, kernel, (2, 2), "SAME", options).out, known(x, kernel, (2, 2), "SAME", {"rhs_dilation": (2, 2)})
        ((3, 3), None)
    """
    if "dimension_numbers" not in options or any(value not in NEUTRAL.get(k, (None,)) for k, value in options.items()):
        return None
    if x.ndim != 4 or kernel.ndim != 4 or x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    (b, h, w, c), (m, n, channels, _) = x.shape, kernel.shape
    if c != channels or not all(isinstance(size, int) and size > 0 for size in (b, h, w, *kernel.shape)):
        return None
    steps = (strides[0], strides[1])
    pads = lax.padtype_to_pads((h, w), (m, n), steps, padding) if isinstance(padding, str) else padding
    _, p, q, _ = lax.conv_general_shape_tuple((1, h, w, c), kernel.shape, steps, pads, LAYOUT)
    # Plain integers: a spec is a static argument, so it must hash and compare.
    (top, bottom), (left, right), out = ((int(a), int(b)) for a, b in (*pads, (p, q)))
    if min(top, bottom, left, right) < 0 or min(out) < 1:
        return None
    return Spec(steps, ((top, bottom), (left, right)), (h, w), (m, n), out)


def convolution(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **options: Any
) -> Array:
    """``lax.conv_general_dilated``, for ``nn.Conv(conv_general_dilated=convolution)``.

    Forward and reverse mode of any order and ``vmap`` work. What the primitives do not know (dilation, groups, other
    dimension numbers, a precision, a symbolic batch) goes to lax as it is.

    Args:
        lhs: images or features; the primitives know NHWC.
        rhs: the kernel; they know ``(height, width, channels in, channels out)``.
        window_strides: vertical and horizontal.
        padding: as lax's.
        **options: as lax's.

    Returns:
        lax's result up to the order of summation.

    Example:
        >>> x, kernel = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
        >>> convolution(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    spec = known(lhs, rhs, window_strides, padding, options)
    if spec is None:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    return output_p.bind(lhs, rhs, spec=spec)


def Conv(
    features: int, kernel_size: tuple[int, int] = (3, 3), strides: tuple[int, int] = (1, 1), **options: Any
) -> nn.Conv:
    """``nn.Conv`` through `convolution`, with the same parameters; 3x3 unless it is told.

    Args:
        features: channels out.
        kernel_size: height and width.
        strides: vertical and horizontal.
        **options: as ``nn.Conv``'s.

    Example:
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> y, variables = jax.eval_shape(Conv(4, (3, 3), (2, 2)).init_with_output, jax.random.key(0), x)
        >>> variables["params"]["kernel"].shape, y.shape
        ((3, 3, 3, 4), (2, 4, 4, 4))
    """
    return nn.Conv(features, kernel_size, strides, conv_general_dilated=convolution, **options)


def _for_members(form: Callable[..., Array]) -> Callable[..., Array]:
    """The form of one convolution as that of several, where both arguments have an axis in front."""

    @functools.wraps(form)
    def several(a: Array, b: Array, **options: Any) -> Array:
        one = functools.partial(form, **options)
        return jax.vmap(one)(a, b) if a.ndim == 5 else one(a, b)

    return several


@_for_members
def plain_output(x: Array, kernel: Array, *, spec: Spec) -> Array:
    """XLA's convolution."""
    return lax.conv_general_dilated(x, kernel, spec.strides, spec.pads, dimension_numbers=LAYOUT)


# The gradients are transposes of XLA's own convolution, so that no formula of ours stands behind the reference.
@_for_members
def plain_input_gradient(g: Array, kernel: Array, *, spec: Spec) -> Array:
    """The gradient of ``sum g * conv(x, kernel)`` by x."""
    x = jax.ShapeDtypeStruct((g.shape[0], *spec.image, kernel.shape[2]), g.dtype)
    return jax.linear_transpose(lambda x: plain_output(x, kernel, spec=spec), x)(g)[0]


@_for_members
def plain_kernel_gradient(x: Array, g: Array, *, spec: Spec) -> Array:
    """The gradient of ``sum g * conv(x, kernel)`` by the kernel."""
    kernel = jax.ShapeDtypeStruct((*spec.sides, x.shape[3], g.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: plain_output(x, kernel, spec=spec), kernel)(g)[0]


def fast_output(x: Array, kernel: Array, *, spec: Spec, many: bool) -> Array:
    """The CPU's `plain_output`."""
    form = _form(spec, x, kernel.shape[3], many)
    return form(x, kernel, spec) if form else plain_output(x, kernel, spec=spec)


def fast_input_gradient(g: Array, kernel: Array, *, spec: Spec, many: bool) -> Array:
    """The CPU's `plain_input_gradient`: a convolution of g, spread out by the strides, with the kernel turned."""
    form = _form(spec, g, kernel.shape[2], many)
    if form is None:
        return plain_input_gradient(g, kernel, spec=spec)
    pads = []
    for size, side, stride, (low, _), out in zip(spec.image, spec.sides, spec.strides, spec.pads, spec.out):
        pads.append((side - 1 - low, size + low - 1 - (out - 1) * stride, stride - 1))
    g = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    transposed = Spec((1, 1), ((0, 0), (0, 0)), (g.shape[1], g.shape[2]), spec.sides, spec.image)
    return form(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), transposed)


def fast_kernel_gradient(x: Array, g: Array, *, spec: Spec, many: bool) -> Array:
    """The CPU's `plain_kernel_gradient`: a product with patches where it is large or one of many."""
    c, (b, p, q, f) = x.shape[3], g.shape
    if _pointwise(spec):
        return (x.reshape(-1, c).T @ g.reshape(-1, f))[None, None]
    sides = math.prod(spec.sides)
    small = b * p * q < 2**13 or (b * p * q * f * c * sides < 2e8 and b * p * q < 2**14)
    if f < 32 or (small and not many):
        return plain_kernel_gradient(x, g, spec=spec)

    # XLA's CPU code contracts over positions 1.2 to 1.7 times faster where the larger factor stands on the right.
    wide = sides * c >= f

    def product(x: Array, g: Array) -> Array:
        columns = _patches(x, spec)
        columns, g = columns.reshape(-1, columns.shape[-1]), g.reshape(-1, f)
        return g.T @ columns if wide else columns.T @ g

    total = _accumulated(product, x, g, _share(b, p * q * sides * c, x.dtype))
    return (total.T if wide else total).reshape(*spec.sides, c, f)


def _pointwise(spec: Spec) -> bool:
    return spec.sides == (1, 1) and spec.strides == (1, 1) and spec.image == spec.out


def _product(x: Array, kernel: Array, spec: Spec) -> Array:
    del spec
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def _form(spec: Spec, x: Array, features: int, many: bool) -> Callable[[Array, Array, Spec], Array] | None:
    """The fastest form of a convolution of x on the CPU; None is XLA's."""
    (b, h, w, c), stride = x.shape, max(spec.strides)
    if _pointwise(spec):
        return _product
    # A banded matrix wastes image width / kernel width of its work, which few channels are worth.
    if stride == 1 and spec.sides[1] > 1 and w * c * features <= 256 * spec.sides[1]:
        return _banded
    if many:
        return _by_patches
    # Winograd copies tiles: on few of them, or with few channels, there is little to save.
    large = c * features >= 2**12 and b * h * w >= 2**12 and b * h * w * c * features >= 2**25
    fits = stride == 1 and spec.sides == (3, 3) and x.dtype in (jnp.float32, jnp.float64)
    return _by_tiles if fits and large else None


def _patches(x: Array, spec: Spec) -> Array:
    """``(b, p, q, m * n * c)``: what each output position sees."""
    x = jnp.pad(x, ((0, 0), *spec.pads, (0, 0)))
    (b, _, _, c), (p, q), (down, right) = x.shape, spec.out, spec.strides
    columns = [
        lax.slice(x, (0, i, j, 0), (b, i + (p - 1) * down + 1, j + (q - 1) * right + 1, c), (1, down, right, 1))
        for i in range(spec.sides[0])
        for j in range(spec.sides[1])
    ]
    return jnp.concatenate(columns, -1)


def _by_patches(x: Array, kernel: Array, spec: Spec) -> Array:
    """im2col: the product of patches and kernel, `PATCH_BYTES` of patches at a time so that they stay in the cache."""
    matrix = kernel.reshape(-1, kernel.shape[3])
    size = _share(x.shape[0], math.prod(spec.out) * matrix.shape[0], x.dtype)
    return _piecewise(lambda x: _patches(x, spec) @ matrix, x, size)


def _share(images: int, elements: int, dtype: jnp.dtype) -> int:
    """How many images' patches of that many elements fill `PATCH_BYTES`: all, or a number that cuts few in pieces."""
    most = max(1, PATCH_BYTES // (elements * jnp.dtype(dtype).itemsize))
    if images <= most:
        return images
    # `_accumulated` takes two chunks at a time: an even number of full ones needs no filling up with zeros.
    return next((size for size in range(most, most // 2, -1) if images % (2 * size) == 0), most)


def _by_tiles(x: Array, kernel: Array, spec: Spec) -> Array:
    """`winograd`, `TILE_BYTES` of tiles at a time: four places for each pixel, those of the output included."""
    one = functools.partial(winograd.output, kernel=kernel, pads=spec.pads)
    tiles = 4 * math.prod(spec.image) * sum(kernel.shape[2:]) * x.dtype.itemsize
    return _piecewise(one, x, max(1, TILE_BYTES // tiles))


def _banded(x: Array, kernel: Array, spec: Spec) -> Array:
    """Stride 1 as (rows seen by an output row) @ (matrix with the kernel's rows along its diagonals)."""
    x = jnp.pad(x, ((0, 0), spec.pads[0], (0, 0), (0, 0)))
    (b, _, w, c), (m, n, _, f), (p, q) = x.shape, kernel.shape, spec.out
    tap = jnp.arange(w)[:, None] + spec.pads[1][0] - jnp.arange(q)[None, :]
    inside = ((tap >= 0) & (tap < n))[None, :, :, None, None]
    band = jnp.where(inside, kernel[:, jnp.clip(tap, 0, n - 1)], 0)
    matrix = band.transpose(0, 1, 3, 2, 4).reshape(m * w * c, q * f)
    x = x.reshape(b, -1, w * c)
    rows = jnp.concatenate([x[:, i : i + p] for i in range(m)], -1)
    return (rows.reshape(b * p, -1) @ matrix).reshape(b, p, q, f)


def _divided(x: Array, size: int) -> Array:
    """``(chunks, size, ...)``, the last chunk filled up with zeros."""
    x = jnp.pad(x, ((0, -x.shape[0] % size), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, size, *x.shape[1:])


def _piecewise(one: Callable[[Array], Array], x: Array, size: int) -> Array:
    """``one`` of all images, ``size`` at a time."""
    if size >= x.shape[0]:
        return one(x)
    y = lax.map(one, _divided(x, size))
    return y.reshape(-1, *y.shape[2:])[: x.shape[0]]


def _accumulated(one: Callable[[Array, Array], Array], x: Array, g: Array, size: int) -> Array:
    """The sum of ``one`` over all images, ``size`` at a time."""
    if size >= x.shape[0]:
        return one(x, g)
    # Two independent chunks at a time: one's patches are copied while the other's are multiplied.
    pairs = [_divided(a, 2 * size).reshape(-1, 2, size, *a.shape[1:]) for a in (x, g)]
    total = jax.eval_shape(one, *(pair[0, 0] for pair in pairs))
    return lax.scan(lambda sum_, pair: (sum_ + sum(map(one, *pair)), None), jnp.zeros(total.shape, x.dtype), pairs)[0]


output_p = Primitive("convolution")
input_gradient_p = Primitive("convolution_input_gradient")
kernel_gradient_p = Primitive("convolution_kernel_gradient")

PLAIN = {
    output_p: plain_output,
    input_gradient_p: plain_input_gradient,
    kernel_gradient_p: plain_kernel_gradient,
}
"""Primitive -> what it computes, by XLA's own convolution."""
FAST = {
    output_p: fast_output,
    input_gradient_p: fast_input_gradient,
    kernel_gradient_p: fast_kernel_gradient,
}
"""Primitive -> the same on the CPU; ``many`` where it is vmapped over kernels."""
SHAPES = {
    output_p: lambda x, kernel, spec: (x[0], *spec.out, kernel[3]),
    input_gradient_p: lambda g, kernel, spec: (g[0], *spec.image, kernel[2]),
    kernel_gradient_p: lambda x, g, spec: (*spec.sides, x[3], g[3]),
}
"""Primitive -> the shape of its result."""
TRANSPOSES = {
    output_p: (
        lambda g, x, kernel, spec: input_gradient_p.bind(g, kernel, spec=spec),
        lambda g, x, kernel, spec: kernel_gradient_p.bind(x, g, spec=spec),
    ),
    input_gradient_p: (
        lambda x, g, kernel, spec: output_p.bind(x, kernel, spec=spec),
        lambda x, g, kernel, spec: kernel_gradient_p.bind(x, g, spec=spec),
    ),
    kernel_gradient_p: (
        lambda kernel, x, g, spec: input_gradient_p.bind(g, kernel, spec=spec),
        lambda kernel, x, g, spec: output_p.bind(x, kernel, spec=spec),
    ),
}
"""Primitive -> its transposes by the first and the second argument."""
JOINED = {
    output_p: ((0, 0), (3, 3)),
    input_gradient_p: ((0, 0), (2, 3)),
    kernel_gradient_p: ((3, 2), (3, 3)),
}
"""Primitive -> for each argument, the axis that it alone shares with the result: there, and in the result."""


def _define(primitive: Primitive) -> None:
    """Gives a primitive its rules: derivatives, shape, vmap, and what it becomes on each platform."""
    plain = PLAIN[primitive]

    def abstract(a: Any, b: Any, *, spec: Spec) -> Any:
        lead = a.ndim - 4
        return a.update(shape=(*a.shape[:lead], *SHAPES[primitive](a.shape[lead:], b.shape[lead:], spec)))

    def batched(args: Sequence[Array], axes: Sequence[int | None], *, spec: Spec) -> tuple[Array, int]:
        args = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(args, axes)]
        if None not in axes:
            # Of two such axes the outer joins the inner.
            lead = args[0].shape[:-4]
            args = [a.reshape(-1, *a.shape[-4:]) for a in args]
            y = primitive.bind(*args, spec=spec)
            return y.reshape(*lead, *y.shape[1:]), 0
        index = 0 if axes[1] is None else 1
        size, lead = args[index].shape[0], args[index].ndim - 5
        axis, result = (lead + axis for axis in JOINED[primitive][index])
        a = jnp.moveaxis(args[index], 0, axis)
        args[index] = a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])
        y = primitive.bind(*args, spec=spec)
        return y.reshape(*y.shape[:result], size, -1, *y.shape[result + 1 :]), result

    def cpu(a: Array, b: Array, *, spec: Spec) -> Array:
        # A symbolic batch cannot be cut into chunks.
        if not all(isinstance(size, int) for size in (*a.shape, *b.shape)):
            return plain(a, b, spec=spec)
        return _for_members(FAST[primitive])(a, b, spec=spec, many=a.ndim == 5)

    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)
    ad.defbilinear(primitive, *TRANSPOSES[primitive])
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")


for _primitive in PLAIN:
    _define(_primitive)
