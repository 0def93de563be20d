"""Every operator that a client may use, against onnxruntime; and what has no translation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ani_jax.deploy import artefact
from ani_jax.deploy.translation import FORMS, SAME, onnx_bytes
from tests.deploy.exporting import KINDS, folder, images, made, rms

runtime = pytest.importorskip("onnxruntime")


def run(model, **feeds):
    (z,) = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
    return z


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_is_the_client_given_its_noise(kind):
    release, _, _ = made(kind)
    own = artefact.load(folder(kind)).card
    for count in (1, 3):
        x, unit = images(count), jax.random.normal(jax.random.key(5), (count, *own.feature_shape))
        noisy = {"unit": np.asarray(unit)} if kind != "none" else {}
        z = run((folder(kind) / "client.onnx").read_bytes(), images=np.asarray(x), **noisy)
        told = release.given(release.variables, x, unit) if noisy else release(x, jax.random.key(0))
        # Half a step of the grid apart, two numbers may round to neighbours; not often.
        close = np.isclose(z, told, atol=1e-4 * rms(told))
        assert close.mean() > 0.99 if kind == "memoised" else close.all()
    assert own.onnx.startswith("unit: standard normal" if noisy else "images alone")
    assert ("loader computes" in own.onnx) == (kind == "memoised")


W = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, kernel=W, strides=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(x, kernel, strides, padding, **{"dimension_numbers": NHWC, **options})


CASES = {
    "added up": lambda x: (x * x - x).sum((1, 3)),
    "argmax": lambda x: jax.nn.one_hot(x.reshape(x.shape[0], -1).argmax(1), 256),
    "batch in a constant": lambda x: jnp.concatenate([x, jnp.ones((x.shape[0], 8, 8, 1))], 3),
    "clip": lambda x: jnp.clip(x, 0.2, 0.7),
    "convolution": conv,
    "convolution, dilated": lambda x: conv(x, rhs_dilation=(2, 1)),
    "convolution, groups": lambda x: conv(x, W[:, :, :2], feature_group_count=2),
    "convolution, layout": lambda x: conv(
        x.transpose(0, 3, 1, 2), W.transpose(3, 2, 0, 1), dimension_numbers=("NCHW", "OIHW", "NHWC")
    ),
    "convolution, strided": lambda x: conv(x, strides=(2, 1), padding=((1, 0), (2, 1))),
    "erf": lambda x: lax.erf(x - 0.5),
    "product": lambda x: x @ W[0, 0],
    "product of batches": lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x),
    "rounded": lambda x: jnp.round(8 * x) / 8,
    "sigmoid and tanh": lambda x: jax.nn.sigmoid(x) + jnp.tanh(x),
    "stacked": lambda x: jnp.stack([x, lax.stop_gradient(-1.0 * x)], 2),
    "squeezed": lambda x: x.max(3, keepdims=True).squeeze(3),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_jaxs(name):
    x = np.random.default_rng(1).random((3, 8, 8, 4), np.float32)
    told = np.asarray(CASES[name](jnp.asarray(x)))
    z = run(onnx_bytes(CASES[name], {"images": (8, 8, 4)}), images=x)
    assert z.shape == told.shape
    np.testing.assert_allclose(z, told, atol=1e-5)


def test_no_entry_of_the_tables_is_untested():
    used = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            used.add(equation.primitive.name)
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    walk(value.jaxpr)

    (batch,) = jax.export.symbolic_shape("b")
    for function in CASES.values():
        walk(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, 8, 8, 4), jnp.float32)).jaxpr)
    assert {*SAME, *FORMS} - used == set()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: jnp.sort(x), "the client uses sort, which has no translation"),
        (lambda x: lax.round(x), "rounds halves away from zero"),
        (lambda x: conv(x, lhs_dilation=(2, 2), padding=((1, 1), (1, 1))), "transposed convolution"),
        (lambda x: conv(x, padding=((-1, 0), (0, 0))), "transposed convolution"),
    ],
)
def test_what_has_no_translation_is_refused_in_one_line(function, reason):
    with pytest.raises(ValueError, match=f"^onnx=True: .*{reason}") as error:
        onnx_bytes(function, {"images": (8, 8, 4)})
    assert "\n" not in str(error.value)
