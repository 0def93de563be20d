"""What every public loss promises: jit, vmap, finite gradients, float64, bfloat16; and that the package is light."""

import inspect
import subprocess
import sys

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ani_jax import losses

IMAGE, FEATURES, LOGITS, LABELS, SCORES, MASK = "image", "features", "logits", "labels", "scores", "mask"
PAIR = {"x": FEATURES, "z": "other"}
GUESS = {"prediction": IMAGE, "target": "other_image"}
TABLE = {
    "accuracy": {"logits": LOGITS, "labels": LABELS},
    "channel_pearson": {"z": IMAGE},
    "club": {"joint": SCORES, "marginal": SCORES},
    "conditional_entropy_bound": {"entropy_lower": "scalar", "information_upper": "scalar"},
    "conditional_entropy_estimate": {"entropy": "scalar", "information": "scalar"},
    "corrected_distance_correlation": PAIR,
    "correlated_gaussian_information": {"rho": "scalar", "dimension": 3},
    "cross_entropy": {"logits": LOGITS, "labels": LABELS},
    "distance_correlation": PAIR,
    "distance_covariance": PAIR,
    "donsker_varadhan": {"joint": SCORES, "marginal": SCORES},
    "gaussian_channel_capacity": {"power": "scalar", "stddev": "scalar", "dimension": 3},
    "gaussian_entropy": {"x": LOGITS},
    "gaussian_entropy_per_element": {"log_stddev": FEATURES},
    "gaussian_fisher_information": {"mean_jacobian": LOGITS, "stddev": "positive"},
    "gaussian_mutual_information": {"x": LOGITS, "z": "column"},
    "gaussian_rate": {"mean": FEATURES, "stddev": MASK, "labels": LABELS, "classes": 3},
    "hinged": {"loss": FEATURES, "ceiling": 0.3},
    "hsic": PAIR,
    "infonce": {"scores": "square"},
    "jsd": {"joint": SCORES, "marginal": SCORES},
    "kl_to_prior": {"logits": LOGITS, "prior": "prior"},
    "kozachenko_leonenko_entropy": {"x": LOGITS, "k": 2},
    "ksg_mutual_information": {"x": LOGITS, "z": "column", "k": 2},
    "l1": GUESS,
    "laplace_entropy_per_element": {"log_scale": FEATURES},
    "linear_cka": PAIR,
    "live_channels": {"z": IMAGE},
    "local_distance_correlation": PAIR,
    "mask_log_reward": {"mask": MASK},
    "mask_mean_reward": {"mask": MASK},
    "max_entropy": {"logits": LOGITS},
    "mean_log_scale": {"log_scale": FEATURES},
    "mine": {"joint": SCORES, "marginal": SCORES},
    "ms_ssim": GUESS,
    "mse": GUESS,
    "mse_bound_from_entropy": {"conditional_entropy_lower": "scalar", "dimension": 3},
    "mse_estimate_from_entropy": {"conditional_entropy": "scalar", "dimension": 3},
    "nwj": {"joint": SCORES, "marginal": SCORES},
    "psnr": GUESS,
    "reverse_gradient": {"x": FEATURES, "scale": 0.5},
    "smile": {"joint": SCORES, "marginal": SCORES},
    "smoothed_kl": {"logits": LOGITS, "labels": LABELS, "smoothing": 0.25},
    "split_scores": {"scores": "square"},
    "ssim": GUESS,
    "ssim_loss": GUESS,
    "top_k_accuracy": {"logits": LOGITS, "labels": LABELS, "k": 2},
    "total_variation": {"images": IMAGE},
}
NOT_IN_TABLE = {"balanced_accuracy", "infonce_cap", "ms_ssim_scales"}
# Infinite by definition for equal images or coinciding examples, and 0/0 where a scale is 0.
NO_DEGENERATE = {
    "psnr",
    "gaussian_entropy",
    "gaussian_mutual_information",
    "kozachenko_leonenko_entropy",
    "gaussian_fisher_information",
    "gaussian_channel_capacity",
    "gaussian_rate",
    "kl_to_prior",
}
STATISTICS = {
    *("club", "conditional_entropy_bound", "conditional_entropy_estimate", "corrected_distance_correlation"),
    *("correlated_gaussian_information", "distance_correlation", "distance_covariance", "donsker_varadhan"),
    *("gaussian_channel_capacity", "gaussian_entropy", "gaussian_mutual_information", "gaussian_rate", "hsic"),
    *("infonce", "jsd"),
    *("kozachenko_leonenko_entropy", "ksg_mutual_information", "linear_cka", "live_channels", "nwj", "smile"),
    *("local_distance_correlation", "mse_bound_from_entropy", "mse_estimate_from_entropy"),
}
OTHER_SHAPES = {"split_scores", "mine", "hinged", "reverse_gradient", "gaussian_fisher_information"}


def arrays():
    keys = jax.random.split(jax.random.key(0), 8)
    image = jax.random.uniform(keys[0], (6, 12, 12, 2))
    return {
        "image": image,
        "other_image": jnp.clip(image + 0.1 * jax.random.normal(keys[1], image.shape), 0, 1),
        "features": jax.random.normal(keys[2], (6, 5)),
        "other": jax.random.normal(keys[3], (6, 2, 2)),
        "logits": jax.random.normal(keys[4], (6, 3)),
        "column": jax.random.normal(keys[5], (6, 1)),
        "labels": jnp.array([0, 1, 2, 2, 1, 0]),
        "scores": jax.random.normal(keys[6], (7,)),
        "square": jax.random.normal(keys[7], (6, 6)),
        "mask": jax.random.uniform(keys[7], (6, 5), minval=0.1, maxval=0.9),
        "positive": jnp.linspace(0.5, 1.5, 6),
        "prior": jnp.array([0.5, 0.3, 0.2]),
        "scalar": jnp.asarray(0.4),
    }


def setup(name):
    """The loss as a function of its float arrays alone, summed and as it is, and those arrays."""
    arguments = TABLE[name]
    floats = [key for key, kind in arguments.items() if isinstance(kind, str) and kind != LABELS]
    fixed = {key: arrays()[LABELS] if kind == LABELS else kind for key, kind in arguments.items() if key not in floats}

    def plain(*values):
        return getattr(losses, name)(**dict(zip(floats, values)), **fixed)

    return plain, [arrays()[arguments[key]] for key in floats]


def total(plain):
    return lambda *values: sum(leaf.sum() for leaf in jax.tree.leaves(plain(*values)))


def close(actual, expected, rtol, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


def test_the_table_is_complete():
    functions = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert set(TABLE) | NOT_IN_TABLE == functions
    for name in functions:
        doc = getattr(losses, name).__doc__
        assert all(section in doc for section in ("Args:", "Returns:", "Example:")), name


@pytest.mark.parametrize("name", TABLE)
def test_jit_vmap_and_gradients_also_where_everything_is_0(name):
    plain, inputs = setup(name)
    zeros = [jnp.zeros_like(value) for value in inputs]
    stacked = [jnp.stack(pair) for pair in zip(inputs, zeros)]
    argnums = tuple(range(len(inputs)))

    @jax.jit
    def run(*stacked):
        gradients = jax.vmap(jax.grad(total(plain), argnums))(*stacked)
        return jax.vmap(plain)(*stacked), gradients

    values, gradients = run(*stacked)
    expected = plain(*inputs)
    close(jax.tree.map(lambda leaf: leaf[0], values), expected, 1e-4)
    rows = 1 if name in NO_DEGENERATE else 2
    assert all(jnp.isfinite(leaf[:rows]).all() for leaf in jax.tree.leaves((values, gradients)))
    if name not in OTHER_SHAPES:
        assert expected.shape == (() if name in STATISTICS else (6,))


@pytest.mark.parametrize("name", TABLE)
def test_float64_is_kept_and_bfloat16_is_computed_in_float32(name):
    plain, inputs = setup(name)
    expected = plain(*inputs)
    with jax.enable_x64(True):
        wide = plain(*[jnp.asarray(np.asarray(value, np.float64)) for value in inputs])
        assert all(leaf.dtype == "float64" for leaf in jax.tree.leaves(wide))
    close(wide, expected, 1e-3, 1e-5)
    halved = [value.astype(jnp.bfloat16) for value in inputs]
    narrow = plain(*halved)
    if name != "reverse_gradient":
        assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(narrow))
        close(narrow, plain(*[value.astype(jnp.float32) for value in halved]), 1e-6, 1e-6)


def test_import_is_light():
    heavy = ["flax", "orbax", "tensorflow_datasets", "sklearn", "matplotlib", "dm_pix", "chex", "torch", "grain"]
    code = f"import sys, ani_jax.losses as l; l.mse; print([name for name in {heavy!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def objective(z, logits, image, label):
    task = losses.smoothed_kl(logits, label, 0.25).mean()
    return task + losses.distance_correlation(image, z, squared=True) + losses.mean_log_scale(z).mean()


def data():
    return arrays()["image"].reshape(6, -1), arrays()["labels"]


def test_inside_an_equinox_step():
    class Net(equinox.Module):
        edge: equinox.nn.Linear
        cloud: equinox.nn.Linear

    one, two = jax.random.split(jax.random.key(0))
    net = Net(equinox.nn.Linear(288, 4, key=one), equinox.nn.Linear(4, 3, key=two))
    optimizer = optax.adam(1e-2)
    image, label = data()

    @equinox.filter_value_and_grad
    def loss(net):
        z = jax.vmap(net.edge)(image)
        return objective(z, jax.vmap(net.cloud)(z), image, label)

    @equinox.filter_jit
    def step(net, state):
        value, gradient = loss(net)
        updates, state = optimizer.update(gradient, state)
        return equinox.apply_updates(net, updates), state, value

    state, values = optimizer.init(equinox.filter(net, equinox.is_array)), []
    for _ in range(4):
        net, state, value = step(net, state)
        values.append(float(value))
    assert values[-1] < values[0]


def test_inside_an_nnx_step():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.edge, self.cloud = nnx.Linear(288, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            z = self.edge(x)
            return z, self.cloud(z)

    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    image, label = data()

    @nnx.jit
    def step(net, optimizer):
        value, gradient = nnx.value_and_grad(lambda net: objective(*net(image), image, label))(net)
        optimizer.update(net, gradient)
        return value

    values = [float(step(net, optimizer)) for _ in range(4)]
    assert values[-1] < values[0]
