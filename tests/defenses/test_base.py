import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from ani_jax.defenses import registry
from ani_jax.defenses.base import Adversary, Defense, Optimizer, Phase, freeze
from ani_jax.defenses.options import weight
from ani_jax.training.state import init


def trajectory(spec, scales=(1.0, 30.0, 0.1, 0.1)):
    """Parameters after a few steps on a quadratic whose gradient is scaled anew each time, by us and by PyTorch."""
    start = np.array([1.0, -2.0, 0.5], np.float32)
    transform, params = spec.build(), jnp.asarray(start)
    moments = transform.init(params)
    weights = torch.tensor(start, requires_grad=True)
    theirs = torch.optim.Adam(
        [weights], lr=spec.learning_rate, betas=(spec.b1, spec.b2), weight_decay=spec.weight_decay
    )
    for scale in scales:
        update, moments = transform.update(scale * 2 * params, moments, params)
        params = optax.apply_updates(params, update)
        theirs.zero_grad()
        (scale * weights**2).sum().backward()
        theirs.step()
    return np.asarray(params), weights.detach().numpy()


def test_optimizer_equals_torch_adam_with_l2():
    np.testing.assert_allclose(*trajectory(Optimizer(0.01, b1=0.5, weight_decay=1e-3)), rtol=2e-5)


def test_amsgrad_does_not_forget_a_large_gradient():
    scales = (1.0, 30.0) + (0.1,) * 30
    adam, _ = trajectory(Optimizer(0.01, b2=0.9), scales)
    amsgrad, _ = trajectory(Optimizer(0.01, b2=0.9, amsgrad=True), scales)
    assert (np.abs(amsgrad) > np.abs(adam)).all()


def test_cosine_decay_ends_at_zero():
    transform = Optimizer(0.1, decay_steps=3).build()
    moments = transform.init(jnp.ones(1))
    sizes = []
    for _ in range(4):
        update, moments = transform.update(jnp.ones(1), moments, jnp.ones(1))
        sizes.append(float(jnp.abs(update[0])))
    assert sizes[0] == pytest.approx(0.1, rel=1e-4)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0.0


@pytest.fixture(scope="module", params=["none", "funnel"])
def frozen(request):
    defense = registry.build(request.param, 5, (16, 16, 3), width=8)
    state = init(defense, jax.random.key(0))
    return defense, freeze(defense, state.params, state.statistics)


def test_release_depends_on_each_image_alone(frozen):
    _, (release, _) = frozen
    images = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))
    send = jax.jit(lambda release, x: release(x, jax.random.key(0)))
    together, alone = send(release, images), send(release, images[2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)


def test_releases_of_one_architecture_share_one_program(frozen):
    defense, (release, predict) = frozen
    other, _ = freeze(defense, init(defense, jax.random.key(9)).params, init(defense, jax.random.key(9)).statistics)
    traced = []

    @jax.jit
    def attack(release, predict, image):
        traced.append(1)
        return predict(release(image, jax.random.key(0)))

    images = jnp.zeros((2, 16, 16, 3))
    assert attack(release, predict, images).shape == (2, 5)
    attack(other, predict, images)
    assert len(traced) == 1


def test_release_is_differentiable_in_the_image(frozen):
    _, (release, _) = frozen
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    gradient = jax.jit(jax.grad(lambda x: (release(x, jax.random.key(0)) ** 2).sum()))(images)
    assert jnp.isfinite(gradient).all()
    assert jnp.abs(gradient).max() > 0


@dataclasses.dataclass(frozen=True)
class Bare(Defense):
    """The contract's own defaults."""

    shy: float = weight(0.5, private=True)
    off: float = weight(0.0)

    name = "bare"


def test_by_default_nobody_listens_and_one_phase_trains_both_on_the_task_and_what_has_a_weight():
    assert Bare().adversaries == ()
    assert Bare(steps=7).phases == (Phase("train", 7, ("client", "server"), ("task", "shy")),)
    assert Bare(steps=7).optimizer("client") == Optimizer(1e-3, decay_steps=7)
    assert Bare().weights.privacy == ("shy",)


def test_where_somebody_listens_the_default_phase_lets_him_learn():
    class Heard(Bare):
        @property
        def adversaries(self):
            return (Adversary("ear", None, lambda output, batch: output.mean()),)

    assert Heard().phases[0].adversary_updates == 1
    assert not Heard().phases[0].reversal


def test_an_adversary_has_an_optimiser_and_tells_nothing_unless_it_is_asked_to():
    one = Adversary("ear", None, lambda output, batch: output.mean())
    assert one.optimizer == Optimizer()
    assert one.health(jnp.ones(3), None, {}) == {}
    assert float(one.loss(jnp.ones(3), None)) == 1
    told = dataclasses.replace(one, health=lambda output, batch, extra: {"blind": extra["blind"]})
    assert told.health(jnp.ones(3), None, {"blind": 2}) == {"blind": 2}


@pytest.mark.parametrize("member", ["client", "server"])
def test_a_defence_must_say_who_computes_what(member):
    with pytest.raises(NotImplementedError):
        getattr(Bare(), member)
    with pytest.raises(NotImplementedError):
        Bare().client_loss(None, None)
