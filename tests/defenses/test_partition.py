"""The min-max of partition: who moves whom, closed forms of its weights, floors, reversal, resume; tiny networks."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward, freeze
from ani_jax.defenses.mixins import DRAW, DRAWN
from ani_jax.losses import reconstruction
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.probes import decorrelate
from ani_jax.training.callbacks import Save, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.phases import enter, schedule
from ani_jax.training.state import init
from ani_jax.training.step import make_step
from ani_jax.types import Batch, Data, Source, Task, fixed

ATTRIBUTES = (("ink", 2), ("paper", 3))
LISTENERS = "conv,channels"
# What the published method does not have is asked for by the test that is about it.
PLAIN = {"depth": 2, "pooled": 0.0, "correlation": 0.0, "attribute": 0.95, "adversary_rate": 3e-3}
QUIET = {"release_stddev": 0.0, "release_bits": 0, "repeats": "fresh", "excess": 0.0, "finishing_steps": 0}


def small(**options):
    return registry.build(
        "partition",
        3,
        (16, 16, 1),
        attributes=ATTRIBUTES,
        **{"width": 4, "adversary_width": 4, "listeners": LISTENERS, **PLAIN, **QUIET, **options},
    )


@pytest.fixture(scope="module")
def data():
    """Twenty-four images in which label, ink and paper can be read; ink 0 is twice as frequent as ink 1."""
    n = jnp.arange(24)
    label, ink, paper = n % 3, (n % 3 == 2).astype(int), (n // 3) % 3
    image = 0.2 * jax.random.uniform(jax.random.key(7), (24, 16, 16, 1))
    image = image.at[:, :4].add((0.3 * label)[:, None, None, None]).at[:, 8:].add((0.4 * ink)[:, None, None, None])
    batch = Batch(image.clip(0, 1), label, {"ink": ink, "paper": paper}, n)
    source = Source(batch, fixed)
    tasks = (Task("ink", ("a", "b")), Task("paper", ("a", "b", "c")))
    return Data(source, batch, source, batch, batch, "toy", Task("label", ("a", "b", "c")), tasks)


def ready(defense, data, seed=0):
    """A fresh state with its statistics, and the phase that plays the game."""
    phases = schedule(defense)
    state = init(defense, jax.random.key(seed))
    return enter(state, len(phases) - 1, phases[-1][0], data), phases[-1][0]


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def client_gradient(defense, state, phase, batch):
    """The defender's gradient on the client as the step takes it: the first moment of Adam after one step is 0.1 of it."""
    after, metrics = jax.jit(make_step(defense, phase))(state, batch)
    moment = next(part.mu for part in jax.tree.leaves(after.optimizers["client"], is_leaf=_adam) if _adam(part))
    return jax.tree.map(lambda m: m / 0.1, moment), after, metrics


def named(defense):
    """Its adversaries by name."""
    return {adversary.name: adversary for adversary in defense.adversaries}


def _adam(part):
    return hasattr(part, "mu")


def test_adversaries_are_those_that_the_weights_and_hide_ask_for():
    assert set(named(small(attribute=0.5))) == {"ink-conv", "ink-channels"}
    assert set(small(attribute=0.5, hide="paper, ink").hidden) == {"paper", "ink"}
    assert len(small(attribute=0.5, hide="ink,paper", listeners="positions").adversaries) == 2
    assert set(named(small(attribute=0.0, reconstruction=0.5, decoder="mirror"))) == {"image"}
    assert small(attribute=0.0, reconstruction=0.0).adversaries == ()


@pytest.mark.parametrize("objective", ["max_entropy", "neg_ce", "kl_to_prior"])
@pytest.mark.parametrize(
    "reconstructed", ["mse", *(pytest.param(name, marks=pytest.mark.slow) for name in ("l1", "ssim"))]
)
def test_every_objective_trains_with_finite_gradients(objective, reconstructed, data):
    defense = small(
        attribute=0.4, reconstruction=0.3, attribute_objective=objective, reconstruction_objective=reconstructed
    )
    state, phase = ready(defense, data)
    if objective != "max_entropy" and reconstructed != "mse":
        # The two choices do not meet in the code: a cross of three forms instead of all nine.
        return
    gradient, after, metrics = client_gradient(defense, state, phase, data.test)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, after.params)))
    assert {"term/task", "term/attribute", "term/reconstruction", "adversary/image", "adversary/image/blind"} <= set(
        metrics
    )
    assert {"adversary/ink-conv", "adversary/ink-channels/accuracy", "adversary/ink-channels/majority"} <= set(metrics)


def test_loss_is_the_convex_combination(data):
    defense = small(attribute=0.3, reconstruction=0.2)
    state, phase = ready(defense, data)
    _, metrics = jax.jit(make_step(defense, phase))(state, data.test)
    m = {name: float(value) for name, value in metrics.items()}
    expected = 0.5 * m["term/task"] - 0.3 * m["term/attribute"] - 0.2 * m["term/reconstruction"]
    assert m["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pooled", [0.0, 0.3, 1.0])
def test_attribute_term_is_the_mean_over_attributes_and_adversaries(pooled, data):
    defense = small(attribute=0.5, hide="ink,paper", pooled=pooled)
    key = jax.random.key(3)
    answers = {
        f"{name}-{kind}": jax.random.normal(jax.random.fold_in(key, index), (24, *voters, classes))
        for index, (name, classes) in enumerate(ATTRIBUTES)
        for kind, voters in (("conv", ()), ("channels", (5,)))
    }
    forward = Forward(data.test.image, {}, jnp.zeros((24, 3)), answers, {})
    entropies = []
    for logits in answers.values():
        p = np.exp(np.asarray(logits, np.float64))
        p /= p.sum(-1, keepdims=True)
        # All voters of an image together: the product of what they say.
        whole = p.prod(1) / p.prod(1).sum(-1, keepdims=True) if p.ndim == 3 else p
        alone, together = (-(one * np.log(one)).sum(-1).mean() for one in (p, whole))
        entropies.append((1 - pooled) * alone + pooled * together)
    assert float(defense.client_loss(forward, data.test)["attribute"]) == pytest.approx(np.mean(entropies), rel=1e-5)


@pytest.mark.parametrize("noisy", [False, True])
def test_correlation_is_of_what_is_said_before_noise(noisy, data):
    """The reference is dcor's definition, position by position, channel by channel and as a whole."""
    import dcor

    defense, key = small(attribute=0.5, correlation=2.0), jax.random.key(0)
    labels = jax.nn.one_hot(data.test.sensitive["ink"], 2)
    z = jax.random.normal(key, (24, 2, 2, 3)).at[:, 0, 0, 1].add(3.0 * labels[:, 0])
    aux, sent = ({"clean": z}, 0 * z) if noisy else ({}, z)
    forward = Forward(sent, aux, jnp.zeros((24, 3)), {"ink-conv": jnp.zeros((24, 2))}, {})
    heard = np.asarray(decorrelate(z), np.float64)
    parts = (
        [heard[:, i, j] for i in range(2) for j in range(2)],
        [heard[..., c].reshape(24, -1) for c in range(3)],
        [heard.reshape(24, -1)],
    )
    told = np.asarray(labels, np.float64)
    found = [np.mean([dcor.u_distance_correlation_sqr(told, part) for part in kind]) for kind in parts]
    expected = np.log(2) - 2.0 * np.mean(found)
    assert float(defense.client_loss(forward, data.test)["attribute"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("updates", [1, 3])
def test_each_side_moves_its_own_parameters_alone(updates, data):
    defense = small(attribute=0.4, reconstruction=0.3, adversary_updates=updates)
    state, phase = ready(defense, data)
    only = dataclasses.replace(phase, trainable=(), objective=("task",))
    after = jax.jit(make_step(defense, only))(state, data.test)[0]
    assert same([state.params[p] for p in ("client", "server")], [after.params[p] for p in ("client", "server")])
    assert set(named(defense)) == {"ink-conv", "ink-channels", "image"}
    for name in named(defense):
        assert not same(state.params["adversaries"][name], after.params["adversaries"][name])
    frozen = dataclasses.replace(phase, adversary_updates=0)
    after = jax.jit(make_step(defense, frozen))(state, data.test)[0]
    assert same(state.params["adversaries"], after.params["adversaries"])
    assert not same(state.params["client"], after.params["client"])


def test_server_gets_the_gradient_of_the_task_alone(data):
    """Weights scale the task's gradient by 1 - a, which the first step of Adam does not see; nothing else may reach it."""
    with_adversaries = small(attribute=0.6, reconstruction=0.3)
    state, phase = ready(with_adversaries, data)
    server = jax.jit(make_step(with_adversaries, phase))(state, data.test)[0].params["server"]
    plain = dataclasses.replace(phase, objective=("task",))
    expected = jax.jit(make_step(with_adversaries, plain))(state, data.test)[0].params["server"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), server, expected)


def test_at_weight_0_it_is_the_undefended_training(data):
    """METHODS 7: term and adversary are removed, not multiplied by 0; bit for bit the step of ``none``."""
    defense = small(attribute=0.0, learning_rate=1e-3, steps=10)
    none = registry.build("none", 3, (16, 16, 1), width=4, learning_rate=1e-3, steps=10)
    states = []
    for one in (defense, none):
        state = init(one, jax.random.key(0))
        states.append(jax.jit(make_step(one, one.phases[0]))(state, data.test)[0])
    assert same(states[0].params, states[1].params)
    assert states[0].params["adversaries"] == {}
    assert states[0].extra == {}


def test_a_weight_of_0_removes_one_adversary_and_leaves_the_other(data):
    state, phase = ready(small(attribute=0.4), data)
    assert phase.objective == ("task", "attribute")
    assert set(state.extra) == {"prior/ink"}
    state, phase = ready(small(attribute=0.0, reconstruction=0.4), data)
    assert phase.objective == ("task", "reconstruction")
    assert set(state.extra) == {"class_mean", "mean_image"}


@pytest.mark.parametrize("name", ["mse", "l1", "ssim"])
def test_floors_and_priors_are_those_of_the_training_data(name, data):
    defense = small(attribute=0.4, reconstruction=0.3, reconstruction_objective=name, hide="ink,paper")
    extra = ready(defense, data)[0].extra
    image, label = np.asarray(data.defend.stored.image), np.asarray(data.defend.stored.label)
    loss = {"mse": reconstruction.mse, "l1": reconstruction.l1, "ssim": reconstruction.ssim_loss}[name]
    means = np.stack([image[label == k].mean(0) for k in range(3)])
    expected = {"class_mean": means[label], "mean_image": np.broadcast_to(image.mean(0), image.shape)}
    for key, guess in expected.items():
        assert float(extra[key]) == pytest.approx(float(loss(jnp.asarray(guess), image).mean()), rel=0.05)
    np.testing.assert_allclose(extra["prior/ink"], [2 / 3, 1 / 3], atol=0.05)
    assert extra["prior/paper"].shape == (3,)


def test_only_defend_is_looked_at(data):
    defense = small(attribute=0.4, reconstruction=0.3)
    blank = data.test._replace(image=jnp.zeros_like(data.test.image))
    others = dataclasses.replace(data, auxiliary=Source(blank, fixed), validation=blank, test=blank, holdout=blank)
    assert same(ready(defense, data)[0].extra, ready(defense, others)[0].extra)


def test_hinge_stops_the_gradient_above_the_floor_and_only_there(data):
    defense = small(attribute=0.0, reconstruction=0.5)

    def slope(guess, hinge=True):
        one = dataclasses.replace(defense, hinge=hinge)
        extra = {"class_mean": jnp.float32(0.1)}

        def loss(guess):
            forward = Forward(guess, {}, jnp.zeros((24, 3)), {"image": guess}, extra)
            return one.client_loss(forward, data.test)["reconstruction"]

        return float(jnp.abs(jax.grad(loss)(guess)).max()), float(loss(guess))

    near, far = data.test.image + 0.1, data.test.image + 0.9
    assert slope(far) == (0.0, pytest.approx(0.1))
    assert slope(near)[0] > 0
    assert slope(near)[1] == pytest.approx(0.01, rel=1e-4)
    assert slope(far, hinge=False)[0] > 0


def test_adversaries_minimise_plain_losses_whatever_the_defender_wants(data):
    logits = jax.random.normal(jax.random.key(0), (24, 2))
    expected = float(cross_entropy(logits, data.test.sensitive["ink"]).mean())
    for objective in ("max_entropy", "neg_ce", "kl_to_prior"):
        defense = small(attribute=0.4, attribute_objective=objective)
        assert float(named(defense)["ink-conv"].loss(logits, data.test)) == pytest.approx(expected)
    far = data.test.image + 0.9
    painter = named(small(attribute=0.4, reconstruction=0.05))["image"]
    assert float(painter.loss(far, data.test)) == pytest.approx(0.81, rel=1e-4)


REVERSIBLE = {"attribute": 0.4, "reconstruction": 0.3, "attribute_objective": "neg_ce", "hinge": False}


@pytest.mark.slow
def test_reversal_is_the_alternating_gradient_at_the_same_adversaries(data):
    alternating, reversed_ = small(**REVERSIBLE), small(**REVERSIBLE, reversal=True)
    state, phase = ready(alternating, data)
    # Linear adversaries start at 0 and pass nothing back; move them so that they count.
    state = dataclasses.replace(
        state, params={**state.params, "adversaries": jax.tree.map(lambda p: p + 0.1, state.params["adversaries"])}
    )
    frozen = dataclasses.replace(phase, adversary_updates=0)
    expected, alternated, one = client_gradient(alternating, state, frozen, data.test)
    found, after, other = client_gradient(reversed_, state, schedule(reversed_)[-1][0], data.test)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), found, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params["server"], alternated.params["server"]
    )
    assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
    # The adversaries take the plain step of the alternation.
    only = dataclasses.replace(phase, trainable=(), objective=("task",), adversary_updates=1)
    plain = jax.jit(make_step(alternating, dataclasses.replace(only, trainable=("client", "server"))))(state, data.test)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        after.params["adversaries"],
        plain[0].params["adversaries"],
    )


def test_reversal_gradient_differs_without_the_sign(data):
    """The comparison above can fail: half the scale gives another gradient."""
    defense = small(**REVERSIBLE, reversal=True)
    state, phase = ready(defense, data)
    whole = client_gradient(defense, state, phase, data.test)[0]
    halved = dataclasses.replace(
        state, weights={**state.weights, "reconstruction": state.weights["reconstruction"] / 2}
    )
    half = client_gradient(defense, halved, phase, data.test)[0]
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole, half)
    assert max(jax.tree.leaves(apart)) > 1e-2 * scale


def test_scaled_multiplies_the_odds():
    defense = small(attribute=0.5, reconstruction=0.25)
    weights = defense.weights.arrays()
    for multiplier in (0.1, 1.0, 3.0, 1e4):
        scaled = {name: float(a) for name, a in defense.weights.scaled(weights, jnp.float32(multiplier)).items()}
        rest = 1 - sum(scaled.values())
        # With 0.25 left for the task the odds are 2 and 1.
        assert scaled["attribute"] / rest == pytest.approx(2 * multiplier, rel=2e-3 * max(1, multiplier / 10))
        assert scaled["attribute"] == pytest.approx(2 * multiplier / (1 + 3 * multiplier), rel=1e-5)
        assert scaled["reconstruction"] == pytest.approx(multiplier / (1 + 3 * multiplier), rel=1e-5)
        assert float(defense.weights.factors(jax.tree.map(jnp.float32, scaled))["task"]) > 0
    identity = defense.weights.scaled(weights, jnp.float32(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), identity, weights)


def test_the_defender_gains_by_what_the_adversary_loses(data):
    """Twenty steps with the adversary frozen raise its cross-entropy on the client that learns against it."""
    defense = small(attribute=0.9, attribute_objective="neg_ce", learning_rate=1e-2)
    state, phase = ready(defense, data)
    listen = jax.jit(make_step(defense, dataclasses.replace(phase, trainable=(), objective=("task",))))
    for _ in range(20):
        state, metrics = listen(state, data.test)
    learnt = float(metrics["adversary/ink-conv"])
    hide = jax.jit(make_step(defense, dataclasses.replace(phase, adversary_updates=0)))
    for _ in range(20):
        state, _ = hide(state, data.test)
    assert float(listen(state, data.test)[1]["adversary/ink-conv"]) > learnt + 0.2


@pytest.mark.slow
def test_a_killed_run_resumes_to_identical_parameters_across_phases(data, tmp_path):
    defense = small(attribute=0.5, reconstruction=0.2, pretraining_steps=2, warmup_steps=2, steps=2)
    config = TrainConfig(batch_size=8, log_every=2, checkpoint_every=2)
    assert [(phase.name, end) for phase, end in schedule(defense)] == [("pretrain", 2), ("warm_up", 4), ("train", 6)]
    whole = train(defense, data, config)

    class Killed(BaseException):
        pass

    def kill(event):
        if event["kind"] == "checkpoint" and event["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        train(defense, data, config, [Save(Checkpoints(tmp_path)), Tell(kill)])
    resumed = train(defense, data, config, [Save(Checkpoints(tmp_path))])
    assert same((whole.params, whole.extra, whole.optimizers), (resumed.params, resumed.extra, resumed.optimizers))


def test_pretraining_leaves_the_adversaries_alone_and_warm_up_the_parties(data):
    defense = small(attribute=0.5, pretraining_steps=1, warmup_steps=1)
    state = init(defense, jax.random.key(0))
    pretrain, warm_up, _ = (phase for phase, _ in schedule(defense))
    after = jax.jit(make_step(defense, pretrain))(state, data.test)[0]
    assert same(state.params["adversaries"], after.params["adversaries"])
    assert not same(state.params["client"], after.params["client"])
    warm = jax.jit(make_step(defense, warm_up))(after, data.test)[0]
    assert same(
        (after.params["client"], after.params["server"], after.statistics),
        (warm.params["client"], warm.params["server"], warm.statistics),
    )
    assert not same(after.params["adversaries"], warm.params["adversaries"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hide": "scent"}, r"hide=scent: must be names out of ink, paper"),
        ({"hide": "ink,ink"}, r"hide=ink,ink: must be names each given once"),
        ({"attribute": 0.7, "reconstruction": 0.3}, r"attribute \+ reconstruction=1.0: must be below 1"),
        ({"attribute": -0.1}, r"attribute=-0.1: must be a finite number, 0 or more"),
        ({"listeners": "ears"}, r"listeners=ears: must be names out of conv, mlp, linear, positions, channels"),
        ({"attribute_objective": "hope"}, r"attribute_objective=hope: must be one of max_entropy, neg_ce, kl_to_prior"),
        ({"reconstruction_objective": "psnr"}, r"reconstruction_objective=psnr: must be one of mse, l1, ssim"),
        ({"decoder": "crayon"}, r"decoder=crayon: must be one of local, mirror"),
        ({"adversary_updates": 0}, r"adversary_updates=0: must be 1 to 5"),
        ({"adversary_updates": 6}, r"adversary_updates=6: must be 1 to 5"),
        ({"pooled": 1.5}, r"pooled=1.5: must be in \[0, 1\]"),
        ({"release_stddev": -1.0}, r"release_stddev=-1.0: must be in \[0, 100\]"),
        ({"repeats": "often"}, "repeats=often: must be one of fresh, memoised"),
        ({"release_stddev": 1.0, "repeats": "memoised"}, "release_bits=0: must be above 0 with repeats=memoised"),
        ({"release_bits": 17}, r"release_bits=17: must be 0 \(float32\) to 16"),
        ({"pretraining_steps": -1}, r"pretraining_steps=-1: must be 0 or more"),
        ({"reversal": True}, r"reversal=True: must be False with attribute_objective=max_entropy"),
        ({"reversal": True, "attribute": 0.0, "reconstruction": 0.5}, r"reversal=True: must be False with hinge=True"),
        (
            {"reversal": True, "attribute_objective": "neg_ce", "adversary_updates": 2},
            r"reversal=True: must be False with adversary_updates above 1",
        ),
        (
            {"reversal": True, "attribute_objective": "neg_ce", "pooled": 0.5},
            r"reversal=True: must be False with pooled=0.5",
        ),
        (
            {"reversal": True, "attribute_objective": "neg_ce", "correlation": 2.0},
            r"reversal=True: must be False with correlation=2.0",
        ),
        ({"finishing_steps": -1}, r"finishing_steps=-1: must be 0 or more"),
        ({"correlation": -1.0}, r"correlation=-1.0: must be in \[0, 100\]"),
        ({"excess": 0.01}, "excess=0.01: must be 0 with release_stddev=0"),
        (
            {"reversal": True, "attribute_objective": "neg_ce", "excess": 0.01, "release_stddev": 1.0},
            r"reversal=True: must be False with excess=0.01",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        small(**options)
    assert "\n" not in str(caught.value)


def test_what_noise_lets_through_beside_the_label_may_be_all_that_is_paid_for(data):
    """The gradient reaches the client and no server; what says nothing but the label costs nothing."""
    defense = small(attribute=0.0, excess=0.01, release_stddev=2.0)
    state, phase = ready(defense, data)
    assert (defense.adversaries, phase.adversary_updates) == ((), 0)
    only = dataclasses.replace(phase, objective=("excess",))
    after, metrics = jax.jit(make_step(defense, only))(state, data.test)
    assert same(state.params["server"], after.params["server"])
    assert not same(state.params["client"], after.params["client"])
    # Of unit variance beside noise of 2: at most log(1 + 1/4) / 2 nats a feature.
    features = math.prod(
        jax.eval_shape(freeze(defense, state.params, state.statistics)[0], data.test.image, state.key).shape[1:]
    )
    assert 0 < -float(metrics["term/excess"]) < features * np.log(1.25) / 2
    clean = jax.random.normal(jax.random.key(0), (3, 2, 2, 3))[data.test.label]
    forward = Forward(clean, {"clean": clean}, jnp.zeros((24, 3)), {}, {})
    assert float(defense.client_loss(forward, data.test)["excess"]) == pytest.approx(0, abs=1e-5)


def test_noise_and_grid_are_sent_and_declared(data):
    plain, noisy, rounded = small(), small(release_stddev=0.5), small(release_bits=3)
    frozen = []
    for defense in (plain, noisy, rounded):
        state = init(defense, jax.random.key(0))
        frozen.append(freeze(defense, state.params, state.statistics)[0])
    assert [one.stochastic for one in frozen] == [False, True, False]
    assert [one.log_prob is None for one in frozen] == [True, False, True]
    first, second = (frozen[1](data.test.image, jax.random.key(key)) for key in (1, 2))
    assert float((first - second).std()) == pytest.approx(0.5 * np.sqrt(2), rel=0.1)
    assert len(np.unique(np.asarray(frozen[2](data.test.image, jax.random.key(1))).round(4))) <= 8
    kept = small(release_stddev=0.5, release_bits=8, repeats="memoised")
    device = freeze(kept, state.params, state.statistics)[0]
    assert (device.stochastic, device.varies) == (True, False)
    # All of it is trained, the batch's own statistics included.
    for defense in (noisy, rounded):
        state, phase = ready(defense, data)
        after, metrics = jax.jit(make_step(defense, phase))(state, data.test)
        assert np.isfinite(float(metrics["loss"]))
        assert not same(after.params["client"], state.params["client"])


def test_what_is_linear_in_the_attribute_is_taken_out_at_the_end(data):
    """Of what is sent before noise, in every class of the label; the server alone learns on it."""
    defense = small(steps=2, finishing_steps=3, release_stddev=0.5, hide="paper")
    assert [phase.name for phase, _ in schedule(defense)] == ["train", "finish"]
    state, phase = ready(defense, data)
    after, _ = jax.jit(make_step(defense, phase))(state, data.test)
    assert same(after.params["client"], state.params["client"])
    assert not same(after.params["server"], state.params["server"])
    # The drawings that it was fitted to.
    batch = jax.jit(Source.draw, static_argnums=2)(data.defend, jax.random.fold_in(state.key, DRAW), DRAWN)
    paper, label = np.asarray(batch.sensitive["paper"]), np.asarray(batch.label)
    blank = jax.tree.map(jnp.zeros_like, after.statistics["client"]["erase"])
    told = []
    for one in (blank, after.statistics["client"]["erase"]):
        own = {**after.statistics, "client": {**after.statistics["client"], "erase": one}}
        release, _ = freeze(defense, after.params, own)
        z = np.asarray(release.mean(release.variables, batch.image)).reshape(DRAWN, -1)
        cells = [(label == y, (label == y) & (paper == s)) for y in range(3) for s in range(3)]
        told.append(max(np.abs(z[cell].mean(0) - z[whole].mean(0)).max() for whole, cell in cells))
    assert told[1] < 1e-3 * told[0]
    # Fitted again to what it left, it finds what it found: what is fitted is of features that nothing was taken out of.
    again = defense.finish(after, data)
    assert same(again.statistics["client"]["erase"], after.statistics["client"]["erase"])


def test_the_default_sends_noise_that_it_remembers_and_pays_for_what_that_lets_through():
    defense = registry.build("partition", 3, (16, 16, 1), attributes=ATTRIBUTES)
    assert (defense.stochastic, defense.memoised, defense.release_bits) == (True, True, 8)
    game, finish = (phase for phase, _ in schedule(defense))
    assert game.objective == ("task", "excess", "attribute")
    # At the end what is linear in the ink is taken out, and the server goes on alone; without an ink there is nothing.
    assert (finish.name, finish.trainable) == ("finish", ("server",))
    plain = registry.build("partition", 3, (16, 16, 1), attributes=ATTRIBUTES, attribute=0.0)
    assert [phase.name for phase, _ in schedule(plain)] == ["train"]
    assert not plain.erases
    assert jax.eval_shape(
        freeze(defense, *_variables(defense))[0], jnp.ones((2, 16, 16, 1)), jax.random.key(0)
    ).shape == (2, 2, 2, 32)


def _variables(defense):
    state = init(defense, jax.random.key(0))
    return state.params, state.statistics


def test_data_without_attributes_can_only_be_reconstructed():
    with pytest.raises(ValueError, match=r"attribute=0.5: must be 0 where the data has no sensitive attribute"):
        registry.build("partition", 3, (16, 16, 1), attribute=0.5)
    assert registry.build("partition", 3, (16, 16, 1), attribute=0.0, reconstruction=0.5).adversaries
