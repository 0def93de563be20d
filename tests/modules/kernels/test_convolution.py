"""The fast convolution is XLA's: values, derivatives of both modes and any order, vmap, export, and every client."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from ani_jax.defenses import registry
from ani_jax.defenses.base import freeze
from ani_jax.modules.kernels import Conv, convolution, pool
from ani_jax.modules.kernels.convolution import LAYOUT
from ani_jax.training.state import init

# (batch, height, width, channels, features, kernel, strides, padding): one line for every path of the CPU.
CASES = {
    "stock": (3, 9, 7, 10, 12, (3, 3), (1, 1), "SAME"),
    "strided": (3, 9, 7, 5, 6, (3, 3), (2, 2), "SAME"),
    "explicit": (2, 9, 7, 10, 12, (3, 5), (1, 2), ((2, 0), (1, 3))),
    "banded": (2, 5, 4, 2, 3, (3, 3), (1, 1), ((3, 0), (1, 4))),
    "pointwise": (3, 9, 7, 5, 6, (1, 1), (1, 1), "VALID"),
    "strided even": (3, 8, 8, 5, 6, (3, 3), (2, 2), "SAME"),
    "banded beyond the image": (2, 3, 3, 2, 1, (7, 7), (1, 1), "SAME"),
    "by tiles": (8, 17, 32, 64, 128, (3, 3), (1, 1), ((2, 0), (1, 1))),
    "kernel's gradient by patches": (128, 16, 16, 3, 32, (3, 3), (1, 1), "SAME"),
}
SMALL = list(CASES)[:4]


def ours(strides=(1, 1), padding="SAME"):
    return lambda x, kernel: convolution.convolution(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def plain(strides=(1, 1), padding="SAME"):
    return lambda x, kernel: lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def arrays(b, h, w, c, f, sides, strides, padding, lead=()):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*lead, b, h, w, c)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*lead, *sides, c, f)), jnp.float32)
    shape = jax.eval_shape(plain(strides, padding), jnp.zeros((b, h, w, c)), jnp.zeros((*sides, c, f))).shape
    return x, kernel, jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)


# Compiling takes nearly all of the time here.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def three(function, x, kernel, g):
    """Output and both gradients."""
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(g)


def tiles(spec, x, features, many):
    """The form of a large convolution for any."""
    return convolution._by_tiles if spec.sides == (3, 3) and spec.strides == (1, 1) else None


def close(got, expected, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=rtol * float(jnp.abs(b).max()))


def same(compute, *args, conv=((1, 1), "SAME"), rtol=1e-5):
    """Whether ``compute(convolution, *args)``, as one program, is the plain convolution's."""
    got, expected = (quick(functools.partial(compute, function(*conv)))(*args) for function in (ours, plain))
    close(got, expected, rtol)


@pytest.mark.parametrize("name", CASES)
def test_equals_plain_with_gradients(name):
    case = CASES[name]
    same(three, *arrays(*case), conv=case[-2:])


@pytest.mark.parametrize("name", SMALL)
def test_derivatives_of_both_modes_and_any_order(name):
    case = CASES[name]
    x, kernel, g = arrays(*case)

    def compute(function, x, kernel):
        def loss(x, kernel):
            return (jnp.tanh(function(x, kernel)) * g).sum()

        primals, tangents = (x, kernel), (jnp.cos(x), jnp.sin(kernel))
        # The penalty of a gradient's norm, and what an influence function is made of.
        penalty = jax.grad(lambda *primals: sum((d**2).sum() for d in jax.grad(loss, (0, 1))(*primals)), (0, 1))
        line = jax.jacfwd(jax.jacfwd(jax.grad(lambda t: loss(x + t * tangents[0], kernel + t * tangents[1]))))
        return {
            "jvp": jax.jvp(function, primals, tangents),
            "jacfwd": jax.jacfwd(lambda row: function(x, kernel.at[0, 0].add(row)))(jnp.zeros(kernel.shape[2:])),
            "hessian-vector": jax.jvp(jax.grad(loss, (0, 1)), primals, tangents),
            "reverse over reverse": penalty(x, kernel),
            "third": line(0.0),
        }

    same(compute, x, kernel, conv=case[-2:], rtol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("name", SMALL)
def test_vmap_over_images_and_kernels(name, axes):
    case = CASES[name]
    x, kernel, g = arrays(*case, lead=(2,))
    args = tuple(a if axis == 0 else a[0] for a, axis in zip((x, kernel), axes))

    def compute(function, g, *args):
        mapped = jax.vmap(function, axes)
        return {
            "inside": jax.vmap(functools.partial(three, function), (*axes, 0))(*args, g),
            # From outside of vmap the primitives of the members are differentiated.
            "outside": three(mapped, *args, g),
            "forward": jax.jvp(mapped, args, args),
        }

    same(compute, g, *args, conv=case[-2:])


@pytest.mark.parametrize(
    ("inner", "outer"),
    [((1, None), (2, None)), ((None, 3), (0, None)), ((1, 3), (0, 0)), ((1, 3), (None, 1)), ((1, None), (0, 0))],
)
def test_vmap_nested_along_any_axes(inner, outer):
    (x, kernel, _), lead = arrays(*CASES["strided"]), []
    for array, first, second in zip((x, kernel), inner, outer):
        array = array if first is None else jnp.stack([array, 2 * array], first)
        lead.append(array if second is None else jnp.stack([array, array - 1, -array], second))

    def twice(function, x, kernel):
        return jax.vmap(jax.vmap(lambda *a: three(function, *a, function(*a)), inner, 2), outer, 1)(x, kernel)

    same(twice, *lead, conv=CASES["strided"][-2:])


@pytest.mark.parametrize("lead", [(), (2,)])
def test_remat_scan_donation_and_devices(lead):
    case = CASES["stock"]
    x, kernel, g = arrays(*case, lead=lead)

    def gradient(function, x, kernel):
        function = jax.vmap(function) if lead else function
        return jax.grad(jax.checkpoint(lambda x, kernel: (jnp.tanh(function(x, kernel)) * g).sum()), (0, 1))(x, kernel)

    def scanned(function, x, kernel):
        steps = jnp.arange(2.0)
        return lax.scan(lambda sum_, t: (sum_ + gradient(function, x + t, kernel)[1], None), 0 * kernel, steps)[0]

    same(scanned, x, kernel)
    close(jax.jit(functools.partial(gradient, ours()), donate_argnums=0)(x + 0, kernel), gradient(plain(), x, kernel))
    x, spread = jnp.stack([x, 2 * x]), functools.partial(gradient, ours())
    expected = jax.vmap(functools.partial(gradient, plain()), (0, None))(x, kernel)
    close(jax.pmap(spread, in_axes=(0, None), devices=jax.devices()[:2])(x, kernel), expected)
    one = jax.shard_map(
        lambda x, kernel: jax.tree.map(lambda d: d[None], spread(x[0], kernel)),
        mesh=Mesh(np.array(jax.devices()[:2]), ("devices",)),
        in_specs=(PartitionSpec("devices"), PartitionSpec()),
        out_specs=PartitionSpec("devices"),
        check_vma=False,
    )
    close(jax.jit(one)(x, kernel), expected)


def test_outside_of_a_program():
    x, kernel, g = arrays(*CASES["stock"])
    close(three(ours(), x, kernel, g), three(plain(), x, kernel, g))
    with jax.disable_jit():
        close(ours()(x, kernel), plain()(x, kernel))


@pytest.mark.parametrize(("batch", "images"), [(5, 2), (4, 2), (3, 8)])
def test_chunks_of_any_size(monkeypatch, batch, images):
    """Batches that the chunk divides, does not divide, and that are smaller than it, through every fast form."""
    case = (batch, 6, 5, 3, 32, (3, 3), (1, 1), "SAME")
    monkeypatch.setattr(convolution, "PATCH_BYTES", images * 30 * 27 * 4)
    monkeypatch.setattr(convolution, "TILE_BYTES", images * 4 * 30 * 35 * 4)
    monkeypatch.setattr(convolution, "_form", tiles)
    same(three, *arrays(*case))
    # Members: by patches, their kernels' gradients too.
    monkeypatch.setattr(convolution, "_form", lambda *_: convolution._by_patches)
    same(lambda f, *a: jax.vmap(functools.partial(three, f))(*a), *arrays(*case, lead=(2,)))


def test_large_kernel_gradient_goes_through_patches():
    args = arrays(*CASES["kernel's gradient by patches"])
    program = jax.jit(lambda *a: three(ours(), *a)[2]).lower(*args).compile().as_text()
    assert " dot(" in program
    assert " convolution(" not in program  # Nothing of the other platforms is left, nor of the unused results.
    assert " conditional(" not in program


def test_a_frozen_kernel_costs_no_gradient():
    case = (8, 16, 16, 16, 32, (3, 3), (1, 1), "SAME")
    x, kernel, _ = arrays(*case)
    program = str(jax.make_jaxpr(jax.grad(lambda x: (ours()(x, kernel) ** 2).sum()))(x))
    assert "convolution_input_gradient" in program
    assert "convolution_kernel_gradient" not in program


@pytest.mark.parametrize("lead", [(), (2,)])
def test_export_with_symbolic_batch_and_many_platforms(lead):
    from jax import export

    (size,) = export.symbolic_shape("b")
    x, kernel, _ = arrays(*CASES["stock"], lead=lead)
    function = jax.vmap(ours()) if lead else ours()
    both = jax.jit(lambda x: jax.value_and_grad(lambda x: jnp.tanh(function(x, kernel)).sum())(x))
    exported = export.export(both, platforms=("cpu", "cuda", "tpu"))
    symbolic = exported(jax.ShapeDtypeStruct((*lead, size, *x.shape[-3:]), jnp.float32))
    x = x[..., :2, :, :, :]
    close(symbolic.call(x), both(x))
    fixed = exported(jax.ShapeDtypeStruct(x.shape, jnp.float32))
    close(fixed.call(x), both(x))


UNKNOWN = {
    "dilation": ((2, 8, 8, 4), (3, 3, 4, 6), {"rhs_dilation": (2, 2)}),
    "transposed": ((2, 8, 8, 4), (3, 3, 4, 6), {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 1))}),
    "groups": ((2, 8, 8, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "precision": ((2, 8, 8, 4), (3, 3, 4, 6), {"precision": "highest"}),
    "layout": ((2, 4, 8, 8), (6, 4, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    "default layout": ((2, 4, 8, 8), (6, 4, 3, 3), {"dimension_numbers": None}),
    "one dimension": ((2, 8, 4), (3, 4, 6), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    "cropped": ((2, 8, 8, 4), (3, 3, 4, 6), {"padding": ((-1, 0), (1, 1))}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_primitives_do_not_know_goes_to_lax(name):
    image, sides, options = UNKNOWN[name]
    strides = (2,) * (len(image) - 2)
    options = {"window_strides": strides, "padding": "SAME", "dimension_numbers": LAYOUT, **options}
    x, kernel = jnp.arange(np.prod(image), dtype=jnp.float32).reshape(image), jnp.ones(sides)
    program = str(jax.make_jaxpr(lambda x, kernel: convolution.convolution(x, kernel, **options))(x, kernel))
    assert "conv_general_dilated" in program
    np.testing.assert_array_equal(
        convolution.convolution(x, kernel, **options), lax.conv_general_dilated(x, kernel, **options)
    )


def test_errors_are_laxs():
    with pytest.raises(ValueError, match="feature dimension"):
        ours()(jnp.zeros((2, 4, 4, 2)), jnp.zeros((3, 3, 1, 1)))
    with pytest.raises(TypeError, match="dtypes"):
        ours()(jnp.zeros((2, 4, 4, 1), jnp.uint8), jnp.zeros((3, 3, 1, 1)))


def test_module_is_linens(key):
    x = jax.random.normal(key, (2, 6, 6, 3))
    mine, theirs = Conv(4), nn.Conv(4, (3, 3))
    variables = mine.init(key, x)
    expected = theirs.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    np.testing.assert_allclose(mine.apply(variables, x), theirs.apply(expected, x), rtol=1e-4, atol=1e-5)
    assert "convolution[" in str(jax.make_jaxpr(mine.apply)(variables, x))


CLIENTS = [
    ("none", "cnn"),
    pytest.param("none", "resnet", marks=pytest.mark.slow),
    ("funnel", "cnn"),
    pytest.param("funnel", "resnet", marks=pytest.mark.slow),
    ("partition", "cnn"),
    pytest.param("ani", "", marks=pytest.mark.slow),
]


def every_transformation(defense, state, image):
    """The client's features, tangents, Jacobian along two directions, Hessian-vector product and vmaps."""

    def client(params, image):
        return freeze(defense, params, state.statistics)[0](image, jax.random.key(1))

    def along(t):
        return client(state.params, image + t[0] * jnp.cos(9 * image) + t[1] * jnp.sin(9 * image))

    def loss(params, image):
        return (client(params, image) ** 2).mean()

    primals = (state.params, image)
    tangents = jax.tree.map(jnp.cos, primals)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), primals)
    return {
        "jvp": jax.jvp(client, primals, tangents),
        "jacfwd": jax.jacfwd(along)(jnp.zeros(2)),
        "hessian-vector": jax.jvp(jax.grad(loss, (0, 1)), primals, tangents)[1],
        "images": jax.vmap(client, (None, 0))(state.params, several[1]),
        "kernels": jax.vmap(client, (0, None))(several[0], image),
        "members": jax.vmap(jax.grad(loss))(*several),
    }


@pytest.mark.parametrize(("name", "backbone"), CLIENTS)
def test_every_client_is_that_of_the_plain_convolution(name, backbone, monkeypatch):
    options = {"backbone": backbone} if backbone else {}
    defense = registry.build(name, 3, (8, 8, 3), attributes=(("attribute", 2),), width=8, steps=10, **options)
    state = init(defense, jax.random.key(0))
    image = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3))
    # Large networks' forms on a small one.
    monkeypatch.setattr(convolution, "_form", tiles)
    got = quick(lambda image: every_transformation(defense, state, image))(image)
    monkeypatch.setattr(convolution, "known", lambda *_: None)
    monkeypatch.setattr(pool, "largest", lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    expected = quick(lambda image: every_transformation(defense, state, image))(image)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(jnp.isfinite(leaf), True), expected)
    assert float(jnp.abs(expected["jacfwd"]).max()) > 0
    close(got, expected, 2e-4)
