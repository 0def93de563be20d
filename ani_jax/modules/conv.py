"""One convolution for every network; the implementation is chosen by platform, here only.

A convolution is the trilinear form ``T(x, kernel, g) = sum g * conv(x, kernel)``. Its three partial derivatives (the
output, the input's gradient and the kernel's) are each a function with the other two as its derivatives, so that
gradients of any order work, a frozen kernel's gradient is never computed under ``jit`` (nothing uses it), and each
partial has the implementation that measures fastest:

- off the CPU, and for a symbolic batch (``jax.export``), XLA's own everywhere;
- on the CPU, a 1x1 convolution is one matrix product;
- on the CPU, a kernel of few channels (attention's 7x7, 2 -> 1) is one product of rows with a banded matrix
  (`_banded`);
- on the CPU, a large kernel's gradient is a product with patches (im2col), a few MB of them at a time;
- on the CPU, a large 3x3 convolution, its input's gradient and, with many channels, its kernel's are Winograd's products
  (`winograd`);
- on the CPU, ``vmap`` over kernels is a batched product with patches, where XLA makes a grouped convolution;
- else XLA's.

Time of the path over time of XLA's (jax 0.10.2, two cores, medians of alternating runs, batch 64):

- kernel gradient by patches: 0.36 (64 -> 128 at 16x16), 0.26 (64 -> 64 at 32x32), 0.35 (128 -> 128 at 16x16), 0.4
  (3 -> 64 at 32x32), but 1.1 (128 -> 128 at 8x8) and 2 to 3 with few features (12 -> 12 at 8x8), which go to XLA;
- Winograd (batch 128): output 0.35 to 0.5 (64 -> 128 at 16x16), 0.5 (64 -> 64 at 32x32), 0.8 (128 -> 128 at 8x8), 1.2
  (256 -> 256 at 4x4), 1.0 (32 -> 32 at 32x32, and 64 images of 64 -> 64 at 8x8); kernel gradient, over that by patches,
  0.9 (64 -> 128 at 16x16), 0.8 (128 -> 128 at 8x8), 0.75 (256 -> 256 at 4x4), 1.2 (64 -> 64 at 32x32). XLA gives each core
  its own block of features: measured, 64 features keep one core busy and 128 keep two;
- banded 7x7, 2 -> 1: output 0.04 to 0.11, input gradient 0.03 to 0.11; its kernel gradient goes to XLA, as patches
  took 4 to 18 times as long;
- 1x1, 64 -> 16: output 0.7, input gradient 0.4, kernel gradient 0.3;
- four vmapped kernels, 64 -> 128 at 16x16: 0.5, 0.3 and 0.35;
- output by patches 0.9 to 1.6, input gradient 1.0 to 3.6: XLA computes both.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from ani_jax.modules import winograd

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
PATCH_BYTES = 5 * 2**20
TILE_BYTES = 160 * 2**20
Pads = winograd.Pads


class _Spec(NamedTuple):
    """What is static about one convolution, and enough to size any of its partials."""

    strides: tuple[int, int]
    pads: Pads
    image: tuple[int, int]
    kernel: tuple[int, int]

    @classmethod
    def of(cls, x: Array, kernel: Array, strides: Sequence[int], padding: str | Pads) -> "_Spec":
        """Checks the arguments of `conv2d` and writes its padding out."""
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"x: {x.dtype}{list(x.shape)} is not floating point (batch, height, width, channels)")
        if kernel.ndim != 4 or kernel.shape[2] != x.shape[3] or kernel.dtype != x.dtype:
            raise ValueError(f"kernel: {kernel.dtype}{list(kernel.shape)} does not fit x: {x.dtype}{list(x.shape)}")
        if len(strides) != 2 or min(strides) < 1:
            raise ValueError(f"strides: {tuple(strides)} are not two positive integers")
        image, sides, steps = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1]), (strides[0], strides[1])
        if isinstance(padding, str):
            if padding not in ("SAME", "VALID"):
                raise ValueError(f"padding: {padding!r}; allowed: 'SAME', 'VALID' or ((top, bottom), (left, right))")
            rows, columns = lax.padtype_to_pads(image, sides, steps, padding)
        else:
            rows, columns = padding
        if min(*rows, *columns) < 0:
            raise ValueError(f"padding: {padding!r}; must not be negative")
        # Plain integers: a spec is a static argument, so it must hash and compare.
        return cls(steps, ((int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1]))), image, sides)


def plain(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "m n c f"],
    strides: Sequence[int] = (1, 1),
    padding: str | Pads = "SAME",
) -> Float[Array, "b p q f"]:
    """XLA's convolution: what `conv2d` computes, and its reference in the tests.

    Args:
        x: images or features, NHWC.
        kernel: ``(height, width, channels in, channels out)``.
        strides: vertical and horizontal stride.
        padding: ``"SAME"``, ``"VALID"`` or ``((top, bottom), (left, right))``.

    Returns:
        ``(b, p, q, f)``; with ``"SAME"``, ``p = ceil(h / stride)``.

    Example:
        >>> import jax.numpy as jnp
        >>> plain(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    return lax.conv_general_dilated(x, kernel, tuple(strides), padding, dimension_numbers=DIMENSIONS)


def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "m n c f"],
    strides: Sequence[int] = (1, 1),
    padding: str | Pads = "SAME",
) -> Float[Array, "b p q f"]:
    """The house's convolution: `plain`, computed the fastest way this platform knows (see the module's docstring).

    Reverse-mode derivatives of any order and ``vmap`` over either argument work; forward mode (``jax.jvp``) raises
    JAX's ``TypeError`` for custom derivatives, and `plain` is the way out.

    Args:
        x: images or features, NHWC.
        kernel: ``(height, width, channels in, channels out)``, of x's dtype.
        strides: vertical and horizontal stride.
        padding: ``"SAME"``, ``"VALID"`` or ``((top, bottom), (left, right))``, not negative.

    Returns:
        ``(b, p, q, f)``, equal to `plain` up to the order of summation.

    Raises:
        ValueError: ranks, channels or dtypes that do not fit, or a padding that is none of these.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    spec = _Spec.of(x, kernel, strides, padding)
    # jax.export's symbolic batch cannot be cut into chunks.
    if not isinstance(x.shape[0], int):
        return plain(x, kernel, spec.strides, spec.pads)
    return _output(spec, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _output(spec: _Spec, x: Array, kernel: Array) -> Array:
    return lax.platform_dependent(
        x, kernel, cpu=_batched(_cpu_output, spec), default=functools.partial(_xla_output, spec)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(spec: _Spec, g: Array, kernel: Array) -> Array:
    fast, stock = _batched(_cpu_input_gradient, spec), functools.partial(_xla_input_gradient, spec)
    return lax.platform_dependent(g, kernel, cpu=fast, default=stock)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(spec: _Spec, x: Array, g: Array) -> Array:
    fast, stock = _batched(_cpu_kernel_gradient, spec), functools.partial(_xla_kernel_gradient, spec)
    return lax.platform_dependent(x, g, cpu=fast, default=stock)


_output.defvjp(
    lambda spec, x, kernel: (_output(spec, x, kernel), (x, kernel)),
    lambda spec, saved, g: (_input_gradient(spec, g, saved[1]), _kernel_gradient(spec, saved[0], g)),
)
_input_gradient.defvjp(
    lambda spec, g, kernel: (_input_gradient(spec, g, kernel), (g, kernel)),
    lambda spec, saved, x: (_output(spec, x, saved[1]), _kernel_gradient(spec, x, saved[0])),
)
_kernel_gradient.defvjp(
    lambda spec, x, g: (_kernel_gradient(spec, x, g), (x, g)),
    lambda spec, saved, kernel: (_input_gradient(spec, saved[1], kernel), _output(spec, saved[0], kernel)),
)


def _xla_output(spec: _Spec, x: Array, kernel: Array) -> Array:
    return plain(x, kernel, spec.strides, spec.pads)


# The gradients are transposes of XLA's own convolution, so that no formula of ours stands behind the reference.
def _xla_input_gradient(spec: _Spec, g: Array, kernel: Array) -> Array:
    x = jax.ShapeDtypeStruct((g.shape[0], *spec.image, kernel.shape[2]), g.dtype)
    return jax.linear_transpose(lambda x: _xla_output(spec, x, kernel), x)(g)[0]


def _xla_kernel_gradient(spec: _Spec, x: Array, g: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((*spec.kernel, x.shape[3], g.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: _xla_output(spec, x, kernel), kernel)(g)[0]


def _cpu_output(spec: _Spec, x: Array, kernel: Array, many: bool = False) -> Array:
    if _pointwise(spec):
        return _product(x, kernel[0, 0])
    if _few_channels(spec, *kernel.shape[2:]):
        return _banded(x, kernel, spec.pads)
    if many:
        return _by_patches(x, kernel, spec.strides, spec.pads)
    if _minimal(spec, x, kernel.shape[3]):
        return _winograd(x, kernel, spec.pads)
    return _xla_output(spec, x, kernel)


def _cpu_input_gradient(spec: _Spec, g: Array, kernel: Array, many: bool = False) -> Array:
    if _pointwise(spec):
        return _product(g, kernel[0, 0].T)
    # The gradient by the input is a convolution of g, so g's channels and positions decide how.
    few, minimal = _few_channels(spec, *kernel.shape[2:]), _minimal(spec, g, kernel.shape[2])
    if not (few or minimal or many):
        return _xla_input_gradient(spec, g, kernel)
    # The transposed convolution is a plain one: the gradient spread out by the strides, the kernel turned.
    pads = []
    for size, side, stride, (low, _), out in zip(spec.image, spec.kernel, spec.strides, spec.pads, g.shape[1:3]):
        pads.append((side - 1 - low, size + low - 1 - (out - 1) * stride, stride - 1))
    g = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    none = ((0, 0), (0, 0))
    if few:
        return _banded(g, turned, none)
    return _by_patches(g, turned, (1, 1), none) if many else _winograd(g, turned, none)


def _cpu_kernel_gradient(spec: _Spec, x: Array, g: Array, many: bool = False) -> Array:
    c, (b, p, q, f) = x.shape[3], g.shape
    if _pointwise(spec):
        return (x.reshape(-1, c).T @ g.reshape(-1, f))[None, None]
    if not many and c * f >= 8192 and _minimal(spec, x, f):
        minimal = functools.partial(winograd.kernel_gradient, pads=spec.pads)
        return _accumulated(minimal, x, g, _tiled_at_once(x, f))
    sides = math.prod(spec.kernel)
    macs = b * p * q * f * c * sides
    small = b * p * q < 2**13 or (macs < 2e8 and b * p * q < 2**14)
    if f < 32 or (small and not many):
        return _xla_kernel_gradient(spec, x, g)

    # XLA's CPU code contracts over positions 1.2 to 1.7 times faster where the larger factor stands on the right.
    wide = sides * c >= f

    def product(x: Array, g: Array) -> Array:
        columns = _patches(x, spec.kernel, spec.strides, spec.pads)
        columns, g = columns.reshape(-1, columns.shape[-1]), g.reshape(-1, f)
        return g.T @ columns if wide else columns.T @ g

    total = _accumulated(product, x, g, _share(b, p * q * sides * c, x.dtype))
    return (total.T if wide else total).reshape(*spec.kernel, c, f)


def _pointwise(spec: _Spec) -> bool:
    return spec.kernel == (1, 1) and spec.strides == (1, 1) and spec.pads == ((0, 0), (0, 0))


def _few_channels(spec: _Spec, channels: int, features: int) -> bool:
    """Whether the banded matrix's waste (width / kernel width) is worth its being one product."""
    return spec.strides == (1, 1) and spec.kernel[1] > 1 and spec.image[1] * channels * features <= 256 * spec.kernel[1]


def _minimal(spec: _Spec, x: Array, features: int) -> bool:
    """Whether Winograd's products are the faster form: tiles to copy, few operations to save on small ones."""
    fits = spec.kernel == (3, 3) and spec.strides == (1, 1) and x.dtype in (jnp.float32, jnp.float64)
    positions, products = math.prod(x.shape[:3]), x.shape[3] * features
    return fits and products >= 2**12 and positions >= 2**12 and positions * products >= 2**25


def _product(x: Array, matrix: Array) -> Array:
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _patches(x: Array, sides: tuple[int, int], strides: tuple[int, int], pads: Pads) -> Array:
    """``(b, p, q, m * n * c)``: what each output position sees."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    b, h, w, c = x.shape
    p, q = (h - sides[0]) // strides[0], (w - sides[1]) // strides[1]
    steps = (1, *strides, 1)
    columns = [
        lax.slice(x, (0, i, j, 0), (b, i + p * strides[0] + 1, j + q * strides[1] + 1, c), steps)
        for i in range(sides[0])
        for j in range(sides[1])
    ]
    return jnp.concatenate(columns, -1)


def _share(images: int, elements: int, dtype: jnp.dtype) -> int:
    """How many images' patches of that many elements fill `PATCH_BYTES`: all, or a number that cuts few in pieces."""
    most = max(1, PATCH_BYTES // (elements * jnp.dtype(dtype).itemsize))
    if images <= most:
        return images
    # `_accumulated` takes two chunks at a time: an even number of full ones needs no filling up with zeros.
    return next((size for size in range(most, most // 2, -1) if images % (2 * size) == 0), most)


def _divided(x: Array, size: int) -> Array:
    """``(chunks, size, ...)``, the last chunk filled up with zeros."""
    missing = -x.shape[0] % size
    if missing:
        x = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, size, *x.shape[1:])


def _piecewise(one: Callable[[Array], Array], x: Array, size: int) -> Array:
    """``one`` of all images, ``size`` at a time."""
    if size >= x.shape[0]:
        return one(x)
    y = lax.map(one, _divided(x, size))
    return y.reshape(-1, *y.shape[2:])[: x.shape[0]]


def _by_patches(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """im2col: the product of patches and kernel, `PATCH_BYTES` of patches at a time so that they stay in the cache."""
    sides, f = (kernel.shape[0], kernel.shape[1]), kernel.shape[3]
    matrix = kernel.reshape(-1, f)

    def one(x: Array) -> Array:
        return _product(_patches(x, sides, strides, pads), matrix)

    _, h, w, c = x.shape
    positions = math.prod(
        (n + sum(pad) - side) // stride + 1 for n, pad, side, stride in zip((h, w), pads, sides, strides)
    )
    return _piecewise(one, x, _share(x.shape[0], positions * math.prod(sides) * c, x.dtype))


def _winograd(x: Array, kernel: Array, pads: Pads) -> Array:
    """`winograd.output`, `TILE_BYTES` of tiles at a time."""
    return _piecewise(lambda x: winograd.output(x, kernel, pads), x, _tiled_at_once(x, kernel.shape[3]))


def _tiled_at_once(x: Array, features: int) -> int:
    """How many images' tiles, those of the output included, fill `TILE_BYTES`: four places for each pixel."""
    return max(1, TILE_BYTES // (4 * x.shape[1] * x.shape[2] * (x.shape[3] + features) * x.dtype.itemsize))


def _accumulated(one: Callable[[Array, Array], Array], x: Array, g: Array, size: int) -> Array:
    """The sum of ``one`` over all images, ``size`` at a time."""
    if size >= x.shape[0]:
        return one(x, g)
    # Two independent chunks at a time: one's patches are copied while the other's are multiplied.
    pairs = [_divided(a, 2 * size).reshape(-1, 2, size, *a.shape[1:]) for a in (x, g)]
    total = jax.eval_shape(one, *(pair[0, 0] for pair in pairs))
    return lax.scan(lambda sum_, pair: (sum_ + sum(map(one, *pair)), None), jnp.zeros(total.shape, x.dtype), pairs)[0]


def _banded(x: Array, kernel: Array, pads: Pads) -> Array:
    """Stride-1 convolution as (rows seen by an output row) @ (matrix with the kernel's rows along its diagonals).

    It multiplies by the zeros beside the band, ``width / kernel width`` times the work, in one large product.
    """
    x = jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0)))
    b, h, w, c = x.shape
    m, n, _, f = kernel.shape
    p, q = h - m + 1, w + sum(pads[1]) - n + 1
    tap = jnp.arange(w)[:, None] + pads[1][0] - jnp.arange(q)[None, :]
    inside = ((tap >= 0) & (tap < n))[None, :, :, None, None]
    band = jnp.where(inside, kernel[:, jnp.clip(tap, 0, n - 1)], 0)
    matrix = band.transpose(0, 1, 3, 2, 4).reshape(m * w * c, q * f)
    x = x.reshape(b, h, w * c)
    rows = jnp.concatenate([x[:, i : i + p] for i in range(m)], -1)
    return (rows.reshape(b * p, -1) @ matrix).reshape(b, p, q, f)


# Cached, because jit knows a custom_vmap by its identity: a new one each time would be traced and compiled anew.
@functools.lru_cache(maxsize=512)
def _batched(partial: Callable[..., Array], spec: _Spec) -> Callable[[Array, Array], Array]:
    """One partial with its own ``vmap``: more images join the images, more kernels go through patches."""
    call = custom_vmap(functools.partial(partial, spec))

    @call.def_vmap
    def rule(size: int, batched: Sequence[bool], first: Array, second: Array) -> tuple[Array, bool]:
        if partial is not _cpu_kernel_gradient and not batched[1]:
            out = call(first.reshape(-1, *first.shape[2:]), second)
            return out.reshape(size, -1, *out.shape[1:]), True
        axes = tuple(0 if is_batched else None for is_batched in batched)
        return jax.vmap(functools.partial(partial, spec, many=True), axes)(first, second), True

    return call


class Conv(nn.Module):
    """A 2-D convolution with ``flax.linen.Conv``'s parameters, names and initialisation, computed by `conv2d`.

    Args:
        features: channels out.
        kernel_size: height and width.
        strides: vertical and horizontal.
        padding: ``"SAME"``, ``"VALID"`` or ``((top, bottom), (left, right))``.
        use_bias: whether to add one number per channel (initially 0).
        kernel_init: initialiser of the kernel.

    Returns:
        ``(b, p, q, features)``, in x's dtype.

    Raises:
        ValueError: as `conv2d`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((2, 8, 8, 3))
        >>> y, variables = jax.eval_shape(Conv(4, strides=(2, 2)).init_with_output, jax.random.key(0), x)
        >>> variables["params"]["kernel"].shape, y.shape
        ((3, 3, 3, 4), (2, 4, 4, 4))
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | Pads = "SAME"
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q f"]:
        """Convolves a batch of images or feature maps."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv2d(x, kernel.astype(x.dtype), self.strides, self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(y.dtype)[None, None, None, :]
        return y
