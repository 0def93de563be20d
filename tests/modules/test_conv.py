"""The fast convolution is the plain one: forward, gradients, vmap, export."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules import conv, winograd
from ani_jax.modules.conv import Conv, conv2d, plain

# (batch, height, width, channels, features, kernel, strides, padding): one line for every path of the CPU.
CASES = {
    "stock": (3, 9, 7, 5, 6, (3, 3), (1, 1), "SAME"),
    "pointwise": (3, 9, 7, 5, 6, (1, 1), (1, 1), "SAME"),
    "pointwise strided": (3, 9, 7, 5, 6, (1, 1), (2, 2), "SAME"),
    "banded": (3, 9, 7, 2, 1, (7, 7), (1, 1), "SAME"),
    "banded wider than image": (2, 3, 3, 2, 1, (7, 7), (1, 1), "SAME"),
    "banded valid": (2, 9, 8, 2, 3, (3, 5), (1, 1), "VALID"),
    "strided": (3, 9, 7, 5, 6, (3, 3), (2, 2), "SAME"),
    "strided even": (3, 8, 8, 5, 6, (3, 3), (2, 2), "SAME"),
    "minimal": (16, 32, 32, 64, 64, (3, 3), (1, 1), "SAME"),
    "minimal with its kernel's gradient": (64, 9, 8, 64, 128, (3, 3), (1, 1), ((2, 0), (1, 1))),
    "explicit": (2, 9, 7, 5, 6, (3, 5), (1, 2), ((2, 0), (1, 3))),
}


def arrays(b, h, w, c, f, sides, strides, padding, lead=()):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*lead, b, h, w, c)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*lead, *sides, c, f)), jnp.float32)
    shape = jax.eval_shape(lambda: plain(jnp.zeros((b, h, w, c)), jnp.zeros((*sides, c, f)), strides, padding)).shape
    return x, kernel, jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)


def three(function, x, kernel, g):
    """Output and both gradients."""
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(g)


def close(got, expected, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=rtol * float(jnp.abs(b).max()))


@pytest.mark.parametrize("name", CASES)
def test_equals_plain_with_gradients(name):
    case = CASES[name]
    args = arrays(*case)
    got = jax.jit(lambda *a: three(lambda x, k: conv2d(x, k, *case[-2:]), *a))(*args)
    close(got, jax.jit(lambda *a: three(lambda x, k: plain(x, k, *case[-2:]), *a))(*args))


@pytest.mark.parametrize("name", ["stock", "pointwise", "banded", "strided", "explicit"])
def test_vmapped_kernels_equal_a_loop(name):
    case = CASES[name]
    args = arrays(*case, lead=(2,))
    got = jax.jit(jax.vmap(lambda *a: three(lambda x, k: conv2d(x, k, *case[-2:]), *a)))(*args)
    one = jax.jit(lambda *a: three(lambda x, k: plain(x, k, *case[-2:]), *a))
    for member in range(2):
        close([a[member] for a in got], one(*[a[member] for a in args]))


def test_vmap_over_one_argument_and_nested():
    case = CASES["stock"]
    x, kernel, _ = arrays(*case, lead=(2,))
    got = jax.jit(jax.vmap(jax.vmap(conv2d, (0, None)), (None, 0)))(x, kernel)
    for i in range(2):
        for j in range(2):
            np.testing.assert_allclose(got[i, j], plain(x[j], kernel[i]), atol=1e-4)


@pytest.mark.parametrize(("batch", "images"), [(5, 2), (4, 2), (3, 8)])
def test_chunks_of_any_size(monkeypatch, batch, images):
    """Batches that the chunk divides, does not divide, and that are smaller than it, through the large-kernel paths."""
    case = (batch, 6, 5, 3, 32, (3, 3), (1, 1), "SAME")
    x, kernel, g = arrays(*case)
    monkeypatch.setattr(conv, "PATCH_BYTES", images * 30 * 27 * 4)
    monkeypatch.setattr(conv, "TILE_BYTES", images * 4 * 30 * 35 * 4)
    spec = conv._Spec.of(x, kernel, (1, 1), "SAME")
    y, (dx, dk) = plain(x, kernel), jax.vjp(plain, x, kernel)[1](g)
    close(conv._cpu_output(spec, x, kernel, many=True), y)
    close(conv._winograd(x, kernel, spec.pads), y)
    minimal = functools.partial(winograd.kernel_gradient, pads=spec.pads)
    close(conv._accumulated(minimal, x, g, images), dk)
    close(conv._cpu_input_gradient(spec, g, kernel, many=True), dx)
    close(conv._cpu_kernel_gradient(spec, x, g, many=True), dk)


def test_large_kernel_gradient_goes_through_patches():
    case = (128, 16, 16, 3, 32, (3, 3), (1, 1), "SAME")
    args = arrays(*case)
    close(jax.jit(lambda *a: three(conv2d, *a))(*args), jax.jit(lambda *a: three(plain, *a))(*args), 1e-4)
    program = jax.jit(lambda *a: three(conv2d, *a)[2]).lower(*args).compile().as_text()
    assert " dot(" in program
    assert " convolution(" not in program  # Nothing of the other platforms is left, nor of the unused results.
    assert " conditional(" not in program


def test_second_derivatives():
    """The penalty of a gradient's norm: reverse over reverse, through both arguments."""
    x, kernel, _ = arrays(*CASES["stock"])

    def penalty(function):
        inner = jax.grad(lambda x, k: jnp.tanh(function(x, k)).sum())
        return jax.jit(jax.grad(lambda x, k: (inner(x, k) ** 2).sum(), (0, 1)))(x, kernel)

    close(penalty(conv2d), penalty(plain), 1e-4)


def test_a_frozen_kernel_costs_no_gradient():
    case = (8, 16, 16, 16, 32, (3, 3), (1, 1), "SAME")
    x, kernel, _ = arrays(*case)

    def flops(function):
        return jax.jit(function).lower(x, kernel).compile().cost_analysis()["flops"]

    loss = lambda x, k: (conv2d(x, k) ** 2).sum()  # noqa: E731
    forward, frozen, both = flops(conv2d), flops(jax.grad(loss)), flops(jax.grad(loss, (0, 1)))
    assert frozen < 2.4 * forward
    assert both > 2.6 * forward


def test_export_with_symbolic_batch_and_many_platforms():
    from jax import export

    (size,) = export.symbolic_shape("b")
    kernel = jnp.ones((3, 3, 2, 4))
    exported = export.export(jax.jit(lambda x: conv2d(x, kernel)), platforms=("cpu", "cuda", "tpu"))
    symbolic = exported(jax.ShapeDtypeStruct((size, 6, 6, 2), jnp.float32))
    x = jnp.ones((3, 6, 6, 2))
    np.testing.assert_allclose(symbolic.call(x), plain(x, kernel), rtol=1e-6)
    fixed = exported(jax.ShapeDtypeStruct(x.shape, jnp.float32))
    np.testing.assert_allclose(fixed.call(x), plain(x, kernel), rtol=1e-6)


def test_module_is_linens(key):
    x = jax.random.normal(key, (2, 6, 6, 3))
    ours, theirs = Conv(4, (3, 3)), nn.Conv(4, (3, 3))
    variables = ours.init(key, x)
    expected = theirs.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(expected, x), rtol=1e-4, atol=1e-5)
    assert ours.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        (jnp.zeros((2, 4, 4)), jnp.zeros((3, 3, 1, 1)), {}, "x: "),
        (jnp.zeros((2, 4, 4, 1), jnp.uint8), jnp.zeros((3, 3, 1, 1), jnp.uint8), {}, "x: uint8"),
        (jnp.zeros((2, 4, 4, 2)), jnp.zeros((3, 3, 1, 1)), {}, "kernel: "),
        (jnp.zeros((2, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), {"strides": (0, 1)}, "strides: "),
        (jnp.zeros((2, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), {"padding": "LARGE"}, "padding: 'LARGE'"),
        (jnp.zeros((2, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), {"padding": ((-1, 0), (0, 0))}, "padding: "),
    ],
)
def test_refuses(x, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        conv2d(x, kernel, **options)
