import jax
import jax.numpy as jnp
import pytest

from ani_jax.attacks.query import as_release
from ani_jax.defenses.funnel import CnnFunnel
from ani_jax.evaluation.cost import cost_card, multiply_accumulates, parameter_count
from ani_jax.modules.edge import CnnEdge
from ani_jax.modules.kernels import Conv
from ani_jax.types import Release


# METHODS 2.3: 76,032 parameters and 82.6 MMAC against 10,354 and 10.3, 32,768 floats against 3,072.
@pytest.mark.parametrize(
    ("module", "parameters", "millions", "floats"),
    [(CnnEdge(64), 76032, 82.6, 32768), (CnnFunnel(64), 10354, 10.3, 3072)],
)
def test_published_costs(module, parameters, millions, floats):
    image = jnp.ones((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))
    card = cost_card(Release(variables, lambda v, x, key: module.apply(v, x, key, train=False).z), (64, 64, 3))
    assert card.parameters == parameters
    assert card.macs / 1e6 == pytest.approx(millions, abs=0.05)
    assert (card.floats, card.bytes_float32, card.bytes_quantised, card.bytes_raw) == (
        floats,
        4 * floats,
        floats,
        12288,
    )


def test_edge_by_hand_and_against_xla():
    module, image = CnnEdge(64), jnp.ones((1, 32, 32, 3))
    variables = module.init(jax.random.key(0), image, train=False)

    def run(variables, x):
        return module.apply(variables, x, None, train=False).z

    hand = 32 * 32 * 27 * 64 + 16 * 16 * 576 * 128
    assert multiply_accumulates(run, variables, image) == hand
    flops = jax.jit(run).lower(variables, image).compile().cost_analysis()["flops"]
    assert flops / 2 == pytest.approx(hand, rel=0.15)  # XLA adds elementwise work and leaves out padding.


def test_loops_branches_and_batched_products():
    x, w = jnp.ones((4, 2, 3)), jnp.ones((4, 3, 5))
    assert multiply_accumulates(jnp.matmul, x, w) == 4 * 2 * 3 * 5
    square = jnp.ones((3, 3))
    assert (
        multiply_accumulates(lambda m: jax.lax.scan(lambda c, _: (c @ m, None), m, None, length=7)[0], square) == 7 * 27
    )
    assert multiply_accumulates(lambda m: jax.lax.cond(m[0, 0] > 0, lambda: m @ m @ m, lambda: m), square) == 2 * 27
    assert multiply_accumulates(jax.jit(lambda m: m @ m), square) == 27


def test_parameters_are_those_of_the_params_collection():
    assert parameter_count({"params": {"a": jnp.ones((2, 3))}, "batch_stats": {"b": jnp.ones(9)}}) == 6
    assert parameter_count(((jnp.ones(4), jnp.arange(3)), {})) == 4
    assert cost_card(as_release(lambda x: x), (2, 2, 3)).macs == 0


@pytest.mark.parametrize("shape", [(64, 8, 8, 128, 3, 64), (1, 32, 32, 2, 7, 1)])
def test_what_a_platform_saves_or_wastes_does_not_count(shape):
    b, h, w, c, side, f = shape
    module, x = Conv(f, (side, side)), jnp.zeros((b, h, w, c))
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    once = b * h * w * c * side**2 * f
    assert multiply_accumulates(module.apply, params, x) == once
    # The output and both gradients, and as much again for another member.
    loss = jax.grad(lambda params, x: jnp.sum(module.apply(params, x) ** 2), (0, 1))
    assert multiply_accumulates(loss, params, x) == 3 * once
    members = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), (params, x))
    assert multiply_accumulates(jax.vmap(loss), *members) == 6 * once


def test_live_channels_are_counted_where_features_have_channels():
    sent = as_release(lambda x: jnp.concatenate([x, x[..., :1] + x[..., 1:2]], -1))
    image = jax.random.uniform(jax.random.key(0), (20, 4, 4, 3))
    card = cost_card(sent, (4, 4, 3), sent(image, jax.random.key(1)))
    # The fourth is the sum of two, so that of these three none says anything of its own.
    assert (card.channels, card.live_channels) == (4, 1)
    assert (cost_card(sent, (4, 4, 3)).channels, cost_card(sent, (4, 4, 3)).live_channels) == (4, None)
    assert cost_card(as_release(lambda x: x.reshape(len(x), -1)), (4, 4, 3), image).channels is None
