import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from ani_jax.losses import dependence

STATIC = ("squared", "exponent", "axis_name", "epsilon")
CORRELATION = jax.jit(dependence.distance_correlation, static_argnames=STATIC)
CORRECTED = jax.jit(dependence.corrected_distance_correlation, static_argnames=("exponent", "axis_name"))
EAGER = {
    "correlation": dependence.distance_correlation,
    "squared": functools.partial(dependence.distance_correlation, squared=True),
    "covariance": dependence.distance_covariance,
    "corrected": dependence.corrected_distance_correlation,
    "hsic": dependence.hsic,
    "unbiased hsic": functools.partial(dependence.hsic, unbiased=True),
    "cka": dependence.linear_cka,
}
STATISTICS = {name: jax.jit(statistic) for name, statistic in EAGER.items()}
GRADIENTS = {name: jax.jit(jax.value_and_grad(statistic, (0, 1))) for name, statistic in EAGER.items()}


@pytest.fixture(scope="module")
def dcor():
    # numba compiles it at import, ten seconds in every worker that collects this file.
    import dcor

    return dcor


def samples(kind="linear", size=24):
    one, two, three = jax.random.split(jax.random.key(7), 3)
    x = jax.random.normal(one, (size, 5))
    noise = jax.random.normal(two, (size, 4))
    rows = jnp.arange(size)[:, None]
    return {
        "linear": (x, x[:, :4] @ jax.random.normal(three, (4, 4)) + noise),
        "quadratic": (x, jnp.square(x[:, :4]) + 0.1 * noise),
        "duplicates": (jnp.repeat(x[: size // 4], 4, 0), jnp.repeat(noise[: size // 4], 4, 0)),
        "twins": (x + 1e-4 * jnp.roll(x, 1, 0), jnp.where(rows % 2 == 0, noise, jnp.roll(noise, 1, 0) + 1e-5)),
        "one hot": (x, jnp.tile(jnp.eye(4), (size // 4, 1))),
        "two clusters": (jnp.where(rows < size // 2, 50.0, -50.0) + 1e-3 * x, noise),
        "outlier": (x.at[2].set(1e3), noise),
        "offset": (x + 300, noise - 300),
        "tiny": (1e-18 * x, noise + x[:, :4]),
        "huge": (1e18 * x, noise + x[:, :4]),
        "constant": (x, jnp.full((size, 4), 0.1)),
    }[kind]


DEGENERATE = ("duplicates", "twins", "one hot", "two clusters", "outlier", "offset", "tiny", "huge", "constant")


def test_local_distance_correlation_is_the_mean_of_dcors_over_positions(dcor):
    x, z = samples("linear")
    z = jnp.stack([z, jnp.square(z), -z[:, ::-1] + x[:, :4], jnp.ones_like(z)], 1).reshape(-1, 2, 2, 4)
    each = [
        dcor.u_distance_correlation_sqr(np.asarray(x, np.float64), np.asarray(z[:, row, column], np.float64))
        for row in range(2)
        for column in range(2)
        if (row, column) != (1, 1)
    ]
    assert float(jax.jit(dependence.local_distance_correlation)(x, z)) == pytest.approx(sum(each) / 4, abs=1e-5)


@pytest.mark.parametrize("kind", ["linear", "quadratic", *DEGENERATE])
def test_distance_correlation_is_dcors(dcor, kind):
    x, z = samples(kind)
    a, b = (np.asarray(value, np.float64) for value in (x, z))
    np.testing.assert_allclose(CORRELATION(x, z), dcor.distance_correlation(a, b), atol=1e-5)
    np.testing.assert_allclose(CORRELATION(x, z, squared=True), dcor.distance_correlation_sqr(a, b), atol=1e-5)
    expected = dcor.u_distance_correlation_sqr(a, b) if kind != "constant" else 0.0
    np.testing.assert_allclose(CORRECTED(x, z), expected, atol=1e-5)
    if kind not in ("tiny", "huge"):
        expected = dcor.distance_covariance(a, b)
        np.testing.assert_allclose(STATISTICS["covariance"](x, z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.5])
def test_exponent_is_dcors(dcor, exponent):
    x, z = samples()
    a, b = (np.asarray(value, np.float64) for value in (x, z))
    np.testing.assert_allclose(
        CORRELATION(x, z, exponent=exponent), dcor.distance_correlation(a, b, exponent=exponent), atol=1e-5
    )
    expected = dcor.u_distance_correlation_sqr(a, b, exponent=exponent)
    np.testing.assert_allclose(CORRECTED(x, z, exponent=exponent), expected, atol=1e-5)


@pytest.mark.parametrize(("rho", "truth"), [(0.5, 0.2062), (0.9, 0.7537)])
def test_bivariate_normal(rho, truth):
    def one(key):
        x, noise = jax.random.normal(key, (2, 1000))
        z = rho * x + jnp.sqrt(1 - rho**2) * noise
        return jnp.stack([CORRELATION(x, z, squared=True), CORRECTED(x, z)])

    values = jax.lax.map(one, jax.random.split(jax.random.key(0), 8))
    error = 3 * values.std(0) / np.sqrt(8)
    # rho^2, what squared distances would give, has to be outside: 0.25 and 0.81.
    assert (error < 0.03).all()
    assert (jnp.abs(values.mean(0) - truth) < error).all()


def test_corrected_statistic_of_independent_samples_is_near_0_where_the_biased_one_is_near_1():
    def both(key):
        one, two = jax.random.split(key)
        x, z = jax.random.normal(one, (128, 784)), jax.random.normal(two, (128, 1024))
        return CORRECTED(x, z), CORRELATION(x, z)

    corrected, biased = jax.lax.map(both, jax.random.split(jax.random.key(1), 10))
    assert (jnp.abs(corrected) < 0.03).all()
    assert 0.003 < corrected.std() < 0.02
    np.testing.assert_allclose(biased, 0.98, atol=0.01)


def torch_distance_correlation(x, z):
    def centred(value):
        flat = value.reshape(len(value), -1)
        distance = torch.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1) + 1e-10)
        return distance - distance.mean(0) - distance.mean(1, keepdim=True) + distance.mean()

    a, b = centred(x), centred(z)
    return (a * b).mean() / torch.sqrt((a * a).mean() * (b * b).mean())


def torch_pearson(z):
    batch, height, width, channels = z.shape
    flat = z.permute(0, 3, 1, 2).reshape(batch, channels, -1)
    flat = flat - flat.mean(-1, keepdim=True)
    covariance = flat @ flat.transpose(1, 2) / (height * width)
    stddev = torch.sqrt((flat**2).sum(-1, keepdim=True) / (height * width - 1))
    return ((covariance / (stddev @ stddev.transpose(1, 2) + 1e-12)) ** 2).mean()


def test_faithful_losses_are_the_published_codes():
    x = jax.random.uniform(jax.random.key(0), (16, 8, 8, 3))
    z = jax.random.normal(jax.random.key(1), (16, 4, 4, 6)) + x[:, ::2, ::2, :1]
    a = torch.tensor(np.array(x), dtype=torch.float64)
    b = torch.tensor(np.array(z), dtype=torch.float64, requires_grad=True)
    expected, expected_pearson = torch_distance_correlation(a, b), torch_pearson(b)
    (expected + expected_pearson).backward()

    def loss(z):
        d = CORRELATION(x, z, squared=True, epsilon=dependence.RELEASE_EPSILON)
        p = dependence.channel_pearson(z, faithful=True).mean()
        return d + p, (d, p)

    gradient, (d, p) = jax.jit(jax.grad(loss, has_aux=True))(z)
    np.testing.assert_allclose(d, expected.item(), atol=1e-5)
    np.testing.assert_allclose(p, expected_pearson.item(), atol=1e-5)
    np.testing.assert_allclose(gradient, b.grad, atol=1e-5)


def test_faithful_distance_correlation_where_its_epsilon_matters():
    x, z = samples()
    x, z = 1e-5 * x, 1e-5 * z
    expected = torch_distance_correlation(*(torch.tensor(np.array(v), dtype=torch.float64) for v in (x, z))).item()
    faithful = CORRELATION(x, z, squared=True, epsilon=1e-10)
    np.testing.assert_allclose(faithful, expected, atol=1e-5)
    assert abs(faithful - CORRELATION(x, z, squared=True)) > 1e-3
    assert CORRELATION(x, jnp.ones_like(z), squared=True, epsilon=1e-10) == 0


def test_channel_pearson_is_numpys_without_the_diagonal():
    z = jax.random.normal(jax.random.key(2), (3, 4, 4, 5))
    pearson = jax.jit(dependence.channel_pearson)
    rho = [np.corrcoef(np.asarray(value, np.float64).reshape(16, 5).T) for value in z]
    expected = [(matrix**2)[~np.eye(5, dtype=bool)].mean() for matrix in rho]
    np.testing.assert_allclose(pearson(z), expected, rtol=1e-5)
    np.testing.assert_allclose(pearson(1e-8 * z + 1e-7), expected, rtol=1e-3)
    assert (dependence.channel_pearson(z[..., :1]) == 0).all()


@pytest.mark.parametrize("faithful", [False, True])
def test_a_dead_channel_contributes_nothing(faithful):
    z = jax.random.normal(jax.random.key(2), (3, 4, 4, 4)).at[..., 1:].set(0.1)
    loss = jax.jit(jax.value_and_grad(lambda v: dependence.channel_pearson(v, faithful=faithful).sum()))
    value, gradient = loss(z)
    np.testing.assert_allclose(value, 3 * (15 / 16) ** 2 / 16 if faithful else 0.0, rtol=1e-5)
    assert jnp.isfinite(gradient).all()
    assert dependence.live_channels(z) == 1


def test_live_channels_counts_those_that_say_something_of_their_own():
    own = jax.random.normal(jax.random.key(3), (50, 3, 3, 4))
    assert dependence.live_channels(own) == 4
    # A tenth of the loudest is loud enough, less is not; what never varies says nothing.
    uneven = own * jnp.array([1, 0.2, 0.05, 0])[None, None, None]
    assert (dependence.live_channels(uneven), dependence.live_channels(uneven, share=0.01)) == (2, 3)
    assert dependence.live_channels(jnp.ones((3, 2, 2, 4))) == 0
    # The sum of two others, and two that say the same up to sign and scale.
    assert dependence.live_channels(own.at[..., 3].set(own[..., 0] + own[..., 1])) == 1
    twins = own.at[..., 3].set(-2 * own[..., 0])
    assert (dependence.live_channels(twins), dependence.live_channels(twins, redundant=1.0)) == (2, 4)
    # Half of its variance is its own.
    half = own.at[..., 3].set((own[..., 3] + own[..., 0]) / 2)
    for redundant, live in ((0.9, 4), (0.4, 2)):
        assert dependence.live_channels(half, redundant=redundant) == live
    others = [
        np.linalg.lstsq(np.delete(half.reshape(-1, 4), i, 1), half.reshape(-1, 4)[:, i], rcond=None) for i in (1, 3)
    ]
    shares = [float(fit[1][0] / (half.reshape(-1, 4)[:, i] ** 2).sum()) for fit, i in zip(others, (1, 3))]
    assert (shares[0] > 0.9, abs(shares[1] - 0.5) < 0.1) == (True, True)


def kernel(x):
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    width = np.median(np.sqrt(square)[np.triu_indices(len(x), 1)])
    return np.exp(-square / (2 * width**2))


def test_hsic_is_its_definition():
    x, z = samples()
    k, m = (kernel(np.asarray(value, np.float64)) for value in (x, z))
    n = len(k)
    h = np.eye(n) - 1 / n
    np.testing.assert_allclose(dependence.hsic(x, z), np.trace(k @ h @ m @ h) / n**2, rtol=1e-4)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k @ m).sum() / (n - 2)
    np.testing.assert_allclose(dependence.hsic(x, z, unbiased=True), total / (n * (n - 3)), rtol=1e-4)
    explicit = dependence.hsic(x, z, bandwidth=(2.0, 3.0))
    np.testing.assert_allclose(dependence.hsic(2 * x, 2 * z, bandwidth=(4.0, 6.0)), explicit, rtol=1e-4)


def test_cka_is_its_definition():
    x, z = samples()
    a, b = (np.asarray(value - value.mean(0)[None], np.float64) for value in (x, z))
    norm = np.linalg.norm
    np.testing.assert_allclose(
        dependence.linear_cka(x, z), norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b)), rtol=1e-5
    )


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([1e-6, 0.3, -2.0, 1e6]), shift=st.floats(-3, 3))
def test_symmetric_invariant_and_in_range(seed, scale, shift):
    one, two, three = jax.random.split(jax.random.key(seed), 3)
    x, z = jax.random.normal(one, (24, 5)), jax.random.normal(two, (24, 4))
    order = jax.random.permutation(three, 24)
    for name, statistic in STATISTICS.items():
        value = statistic(x, z)
        np.testing.assert_allclose(statistic(z, x), value, atol=1e-5)
        np.testing.assert_allclose(statistic(x[order], z[order]), value, atol=1e-5)
        if name != "covariance":
            np.testing.assert_allclose(statistic(scale * (x + shift), z), value, atol=1e-4)
        if name not in ("corrected", "unbiased hsic"):
            assert value >= 0
        if name in ("correlation", "squared", "cka"):
            assert value <= 1


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("padding", [0.0, np.nan])
def test_masked_is_the_statistic_of_the_others(name, padding):
    x, z = samples()
    keep = np.arange(24) % 3 != 1
    expected, (_, expected_gradient) = GRADIENTS[name](x[keep], z[keep])
    padded = [jnp.where(keep[:, None], value, padding) for value in (x, z)]
    value, (_, gradient) = GRADIENTS[name](*padded, mask=jnp.array(keep))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[keep], expected_gradient, rtol=1e-3, atol=1e-6)
    assert (gradient[~keep] == 0).all()


def test_a_batch_that_is_all_padding_gives_0():
    x, z = samples()
    for statistic in STATISTICS.values():
        assert statistic(x, z, mask=jnp.zeros(24)) == 0


@pytest.mark.parametrize("kind", ["constant", "duplicates", "one hot", "twins"])
@pytest.mark.parametrize("name", STATISTICS)
def test_gradient_is_finite_at_degenerate_points(name, kind):
    x, z = samples(kind)
    value, gradients = GRADIENTS[name](x, z)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.slow
def test_gradients():
    with jax.enable_x64(True):
        x, z = (jnp.asarray(np.asarray(value[:6], np.float64)) for value in samples())
        for name, statistic in EAGER.items():
            if "hsic" in name:
                # The median bandwidth is a constant to the gradient, which differences cannot know.
                statistic = functools.partial(statistic, bandwidth=2.0)
            check_grads(jax.jit(statistic), (x, z), order=1, modes=["rev"])
        maps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 3)))
        for faithful in (False, True):
            pearson = jax.jit(functools.partial(dependence.channel_pearson, faithful=faithful))
            check_grads(pearson, (maps,), order=1, modes=["rev"])


def test_memory_at_12288_dimensions():
    shape = jax.ShapeDtypeStruct((128, 12288), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(CORRELATION, argnums=(0, 1))).lower(shape, shape).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 64e6


def device_loss(weights, x, axis_name=None):
    z = jnp.tanh(x @ weights)
    return CORRELATION(x, z, axis_name=axis_name) + CORRECTED(x, z, axis_name=axis_name)


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_statistic_and_gradient_are_the_global_batchs(mode):
    x, _ = samples(size=32)
    weights = jax.random.normal(jax.random.key(3), (5, 3))
    local = jax.jit(jax.value_and_grad(device_loss))
    expected = local(weights, x)

    def step(weights, x):
        value, gradient = jax.value_and_grad(functools.partial(device_loss, axis_name="data"))(weights, x)
        return value, jax.lax.pmean(gradient, "data")

    if mode == "pmap":
        values, gradients = jax.pmap(step, axis_name="data", in_axes=(None, 0))(weights, x.reshape(8, 4, 5))
        np.testing.assert_allclose(values, np.full(8, expected[0]), rtol=1e-5)
        gradient = gradients[0]
    else:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        all_devices, each = PartitionSpec(), PartitionSpec("data")
        sharded = jax.shard_map(
            step, mesh=mesh, in_specs=(all_devices, each), out_specs=(all_devices, all_devices), check_vma=False
        )
        value, gradient = jax.jit(sharded)(weights, x)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)
    shard = local(weights, x[:4])[1]
    assert np.abs(shard - expected[1]).max() > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: CORRELATION(x, x[:3]), r"len\(x\)=24: must be z's, 3"),
        (lambda x: CORRELATION(x, x, exponent=2.0), r"exponent=2.0: must be in \(0, 2\)"),
        (lambda x: CORRELATION(x, x, epsilon=-1.0), "epsilon=-1.0: must be 0 or more"),
        (lambda x: CORRELATION(x, x, mask=jnp.ones(3)), "mask.shape="),
        (lambda x: CORRECTED(x[:3], x[:3]), r"len\(x\)=3: must be 4 or more"),
        (lambda x: dependence.hsic(x, x, bandwidth=0.0), "bandwidth=0.0: must be above 0"),
        (lambda x: dependence.hsic(x[:3], x[:3], unbiased=True), "4 or more"),
        (lambda x: dependence.channel_pearson(x), "of rank 3 or 4"),
        (lambda x: dependence.channel_pearson(x[:, None]), "two positions"),
        (lambda x: dependence.live_channels(x, -1.0), "share=-1.0"),
        (lambda x: dependence.live_channels(x, redundant=0.0), "redundant=0.0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(samples()[0])
