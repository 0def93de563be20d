"""3x3 convolutions with stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 products where 36 are asked for."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
Pads = tuple[tuple[int, int], tuple[int, int]]


def output(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"], pads: Pads) -> Float[Array, "b p q f"]:
    """The convolution, by [published] Lavin & Gray 2015 (arXiv 1509.09308), equation 12.

    A tile of 2x2 outputs sees 4x4 inputs d; with the matrices below

        y = A^T [(G k G^T) * (B^T d B)] A

    where the product * over all tiles of a batch and all channels is 16 matrix products (positions x channels) @
    (channels x features). The transforms add and halve, nothing else: in float32 the result is as close to the exact
    one as the plain convolution's.

    Args:
        x: images or features.
        kernel: of any channels and features.
        pads: ``((top, bottom), (left, right))``.

    Example:
        >>> output(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), ((1, 1), (1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    p, q = x.shape[1] + sum(pads[0]) - 2, x.shape[2] + sum(pads[1]) - 2
    # An odd side gets half a tile more, which is cut off at the end.
    down, right = -(-p // 2), -(-q // 2)
    x = jnp.pad(x, ((0, 0), (pads[0][0], pads[0][1] + p % 2), (pads[1][0], pads[1][1] + q % 2), (0, 0)))
    rows = _inputs([x[:, i : i + 2 * down - 1 : 2] for i in range(4)])
    # Without the barrier every place of a tile would add its rows up anew.
    rows = lax.optimization_barrier(tuple(rows))
    seen = [_inputs([y[:, :, j : j + 2 * right - 1 : 2] for j in range(4)]) for y in rows]
    u = jnp.einsum("ai,bj,ijcf->abcf", *(jnp.asarray(G, x.dtype),) * 2, kernel)
    m = [[seen[a][b].reshape(-1, x.shape[3]) @ u[a, b] for b in range(4)] for a in range(4)]
    rows = [_outputs([m[a][b] for a in range(4)]) for b in range(4)]
    tiles = [_outputs([rows[b][i] for b in range(4)]) for i in range(2)]
    shape = (x.shape[0], down, right, kernel.shape[3])
    y = jnp.stack([jnp.stack([y.reshape(shape) for y in row], 3) for row in tiles], 2)
    return y.reshape(shape[0], 2 * down, 2 * right, shape[3])[:, :p, :q]


def _inputs(d: list[Array]) -> list[Array]:
    """``B^T d``."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _outputs(m: list[Array]) -> list[Array]:
    """``A^T m``."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
