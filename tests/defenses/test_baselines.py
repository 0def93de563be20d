"""Every baseline protects by what it says, through the parameters that it says, with noise of its own for every image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ani_jax.defenses import registry
from ani_jax.defenses.base import Forward, freeze
from ani_jax.losses.task import cross_entropy
from ani_jax.training.loop import TrainConfig, train
from ani_jax.training.state import init
from ani_jax.types import Batch, Data, Source, Task, fixed

SHORT = {
    "steps": 24,
    "pretraining_steps": 8,
    "finishing_steps": 4,
    "rounds": 2,
    "width": 2,
    "depth": 2,
    "learning_rate": 0.02,
}
"""Options of every baseline here, where it has them."""

HEARD = {"steps": 150, "adversary_width": 8, "adversary_rate": 0.02}
"""Adversaries that are small and learn fast."""
ROWS = 1024
"""Images."""

STRENGTHS = {
    "gaussian": ({"noise_stddev": 0.1}, {"noise_stddev": 4.0}),
    "laplace": ({"noise_stddev": 0.1}, {"noise_stddev": 4.0}),
    "dropout": ({"keep_probability": 1.0}, {"keep_probability": 0.1}),
    "topk": ({"kept": 16}, {"kept": 1}),
    "quantise": ({"release_bits": 16}, {"release_bits": 1}),
    "ldp": ({"epsilon": 1000.0}, {"epsilon": 1.0}),
    "nopeek": ({"distance_correlation": 1e-3, "steps": 150}, {"distance_correlation": 30.0, "steps": 150}),
    "vib": ({"bottleneck": 1e-4, "steps": 150}, {"bottleneck": 1.0, "steps": 150}),
    "max_entropy": ({"attribute": 0.01, **HEARD}, {"attribute": 0.95, **HEARD}),
    "disco": ({"attribute": 0.01, "pruning_ratio": 0.5, **HEARD}, {"attribute": 0.95, "pruning_ratio": 0.5, **HEARD}),
    "shredder": ({"amplitude": 0.0, "first_scale": 0.01}, {"amplitude": 3.0, "first_scale": 0.01}),
    "cloak": ({"entropy": 1e-3}, {"entropy": 3.0}),
    "siamese": ({"contrastive": 1e-3, "components": 6}, {"contrastive": 30.0, "components": 6}),
    "cem": ({"conditional_entropy": 1e-3}, {"conditional_entropy": 30.0}),
}
"""Options with which each protects little, and much."""

REACHED = {
    "nopeek": ("distance_correlation", {"client"}),
    "vib": ("bottleneck", {"client/encoder", "client/moments"}),
    "max_entropy": ("attribute", {"client"}),
    "disco": ("attribute", {"client/encoder", "client/pruner"}),
    "shredder": ("amplitude", {"client/tensors"}),
    "cloak": ("entropy", {"client/maps"}),
    "siamese": ("contrastive", {"client/encoder"}),
    "cem": ("conditional_entropy", {"client/encoder"}),
}
"""What protects, and the parameters of the two parties that its gradient reaches."""


def built(name, **options):
    short = {option: value for option, value in SHORT.items() if option in registry.options(name)}
    return registry.build(name, 2, (8, 8, 3), attributes=(("ink", 3),), **{**short, **options})


@pytest.fixture(scope="module")
def batch():
    """Images whose label is which half is bright, and whose ink is a colour."""
    label, ink, key = jnp.arange(ROWS) % 2, jnp.arange(ROWS) // 2 % 3, jax.random.key(3)
    bright = (jnp.arange(8)[None, :, None, None] // 4 == label[:, None, None, None]).astype(jnp.float32)
    colour = jax.nn.one_hot(ink, 3)[:, None, None]
    image = 0.3 * bright + 0.3 * colour + 0.4 * jax.random.uniform(key, (ROWS, 8, 8, 3))
    return Batch(image, label, {"ink": ink}, jnp.arange(ROWS))


@pytest.fixture(scope="module")
def data(batch):
    source = Source(batch, fixed)
    return Data(source, batch, source, batch, batch, "toy", Task("label", ("a", "b")), (Task("ink", ("r", "g", "b")),))


def trained(defense, data):
    state = train(defense, data, TrainConfig(batch_size=64))
    return state, *freeze(defense, state.params, state.statistics)


def ridge(z, target):
    """What least squares make of one half of what was sent, on the other."""
    z = np.asarray(z, float).reshape(len(z), -1)
    z = np.c_[(z - z.mean(0)) / (z.std(0) + 1e-6), np.ones(len(z))]
    fit, rest = slice(0, ROWS // 2), slice(ROWS // 2, None)
    weights = np.linalg.solve(z[fit].T @ z[fit] + 10 * np.eye(z.shape[1]), z[fit].T @ target[fit])
    return z[rest] @ weights, target[rest]


@pytest.mark.parametrize("name", list(STRENGTHS))
def test_more_protection_tells_a_fresh_attacker_less(name, batch, data):
    told = []
    for options in STRENGTHS[name]:
        defense = built(name, **options)
        # What has no weight protects before anything is learned.
        state = init(defense, jax.random.key(0))
        release = (
            trained(defense, data)[1:] if defense.weights.privacy else freeze(defense, state.params, state.statistics)
        )[0]
        z = release(batch.image, jax.random.key(5))
        if "attribute" in options:
            guess, truth = ridge(z, np.eye(3)[np.asarray(batch.sensitive["ink"])])
        else:
            # Beside the label, which every one of them must tell.
            image = np.asarray(batch.image).reshape(ROWS, -1)
            means = np.stack([image[np.asarray(batch.label) == k].mean(0) for k in (0, 1)])
            guess, truth = ridge(z, image - means[np.asarray(batch.label)])
        told.append(1 - np.square(guess - truth).mean() / np.square(truth - truth.mean(0)).mean())
    assert told[1] < told[0] - 0.01, told


@pytest.mark.parametrize("name", list(REACHED))
def test_what_protects_reaches_what_it_should_and_nothing_else(name, batch, data):
    term, expected = REACHED[name]
    defense, batch = built(name), jax.tree.map(lambda leaf: leaf[:64], batch)
    state = init(defense, jax.random.key(0))
    for phase in defense.phases:
        state = state if phase.prepare is None else phase.prepare(state, data)

    def lost(params):
        def run(module, party, *args):
            own = {"params": params[party]} | ({"batch_stats": s} if (s := state.statistics[party]) else {})
            return module.apply(own, *args, train=True, mutable=["batch_stats"])[0]

        sent = run(defense.client, "client", batch.image, jax.random.key(1))
        heard = {
            one.name: one.module.apply({"params": params["adversaries"][one.name]}, sent.z, train=False)
            for one in defense.adversaries
        }
        forward = Forward(sent.z, sent.aux, run(defense.server, "server", sent.z), heard, state.extra)
        return defense.client_loss(forward, batch)[term]

    value, slopes = jax.value_and_grad(lost)(state.params)
    assert jnp.isfinite(value)
    moved = {
        "/".join(str(part.key) for part in path[: 2 if party == "client" else 1])
        for party in ("client", "server")
        for path, leaf in jax.tree_util.tree_leaves_with_path({party: slopes[party]})
        if float(jnp.abs(leaf).max()) > 1e-9
    }
    found = {name if name in expected else name.partition("/")[0] for name in moved}
    assert found == expected


@pytest.mark.parametrize("name", list(STRENGTHS))
def test_every_image_of_a_batch_has_noise_of_its_own(name, batch, data):
    defense = built(name)
    state = init(defense, jax.random.key(0))
    for phase in defense.phases:
        state = state if phase.prepare is None else phase.prepare(state, data)
    release, _ = freeze(defense, state.params, state.statistics)
    z = release(jnp.repeat(batch.image[:1], 64, 0), jax.random.key(1))
    other = release(jnp.repeat(batch.image[:1], 64, 0), jax.random.key(2))
    assert jnp.isfinite(z).all()
    assert bool((z != other).any()) == defense.stochastic
    assert bool((z != z[:1]).any()) == defense.stochastic


@pytest.mark.parametrize(("name", "group", "leaf"), [("shredder", "tensors", None), ("cloak", "maps", "rho")])
def test_noise_is_learned_by_nobody_but_itself(name, group, leaf, batch, data):
    """Public re-implementations of these two train nothing."""
    defense = built(name, finishing_steps=0) if name == "cloak" else built(name)
    phases = [phase.name for phase in defense.phases]
    begin = init(defense, jax.random.key(0))
    state, *_ = trained(defense, data)
    before = defense.phases[1].prepare(begin, data).params["client"][group]
    after = state.params["client"][group]
    if leaf:
        before, after = before[leaf], after[leaf]
    assert phases[:2] == ["pretrain", "train"]
    assert float(jnp.abs(after - before).mean()) > 1e-3
    # No tensor of a collection is any other's.
    assert name == "cloak" or len(np.unique(np.asarray(after).reshape(len(after), -1)[:, 0])) == len(after)


def test_densities_are_those_of_what_is_sent(batch):
    x = batch.image[:3]
    for name, law in (("gaussian", stats.norm()), ("laplace", stats.laplace(scale=2**-0.5))):
        defense = built(name, noise_stddev=0.7)
        state = init(defense, jax.random.key(0))
        release, _ = freeze(defense, state.params, state.statistics)
        z, mean = release(x, jax.random.key(1)), release.mean(release.variables, x)
        each = law.logpdf(np.asarray(z - mean, float) / 0.7) - np.log(0.7)
        expected = each.reshape(3, -1).sum(1)
        np.testing.assert_allclose(release.log_prob(release.variables, z, x), expected, rtol=1e-4)
    # Over many draws the deviation is what was asked for, of either law.
    drawn = np.asarray(release(jnp.repeat(x[:1], 4000, 0), jax.random.key(2)) - mean[:1])
    assert drawn.std() == pytest.approx(0.7, rel=0.02)
    assert (drawn**4).mean() / (drawn**2).mean() ** 2 == pytest.approx(6, rel=0.1)


def test_noise_on_the_image_leaves_nothing_for_the_device_to_compute(batch):
    defense = built("gaussian", noise_at="input", noise_stddev=0.5)
    state = init(defense, jax.random.key(0))
    release, predict = freeze(defense, state.params, state.statistics)
    assert not state.params["client"]
    z = release(batch.image, jax.random.key(1))
    assert float((z - batch.image).std()) == pytest.approx(0.5, rel=0.02)
    assert predict(z).shape == (ROWS, 2)


def test_suppressed_pixels_are_the_same_in_every_image(batch, data):
    defense = built("cloak", threshold=1.0, stddev_max=2.0)
    state = init(defense, jax.random.key(0))
    rho = jnp.where(jnp.arange(8)[:, None, None] < 4, 1.0, -1.0) * jnp.ones((8, 8, 3))
    client = {"maps": {"rho": rho, "shift": 0.25 * jnp.ones((8, 8, 3))}}
    state = defense.suppress(dataclasses.replace(state, params={**state.params, "client": client}), data)
    release, _ = freeze(defense, state.params, state.statistics)
    z = np.asarray(release(batch.image, jax.random.key(1)))
    np.testing.assert_array_equal(z[:, :4], 0.25)
    np.testing.assert_allclose(z[:, 4:], np.asarray(batch.image)[:, 4:] + 0.25, atol=1e-3)
    assert np.isfinite(release.log_prob(release.variables, jnp.asarray(z), batch.image)).all()
    # Before its training begins there is no noise at all.
    fresh = init(defense, jax.random.key(0))
    first, _ = freeze(defense, fresh.params, fresh.statistics)
    np.testing.assert_array_equal(first(batch.image, jax.random.key(1)), batch.image)


def test_dropout_sends_what_it_sends_unchanged_and_k_queries_say_all(batch):
    defense = built("dropout", keep_probability=0.25)
    state = init(defense, jax.random.key(0))
    release, _ = freeze(defense, state.params, state.statistics)
    x, mean = batch.image[:4], release.mean(release.variables, batch.image[:4])
    draws = np.stack([release(x, jax.random.key(k)) for k in range(40)])
    union = np.abs(draws).max(0) * np.sign(draws.sum(0))
    np.testing.assert_allclose(union, mean / 0.25, rtol=1e-5, atol=1e-6)
    assert np.abs(draws.mean(0) - np.asarray(mean)).max() < 0.3 * np.abs(draws).max()


def test_erasure_leaves_a_line_nothing_and_moves_features_least(batch, data):
    from ani_jax.defenses.erasure import leace

    generator = np.random.default_rng(0)
    s = np.eye(3)[generator.integers(0, 3, 400)]
    h = generator.normal(size=(400, 6)) @ generator.normal(size=(6, 6)) + s @ generator.normal(size=(3, 6))
    mean, into, out = leace(h, s)
    z = h - (h - mean) @ into @ out.T
    assert into.shape == (6, 2)
    np.testing.assert_allclose((z - z.mean(0)).T @ (s - s.mean(0)), 0, atol=1e-8)
    # An orthogonal projection away from the classes' means takes it out too, and moves features more.
    shift = np.linalg.qr((h - h.mean(0)).T @ (s - s.mean(0)))[0][:, :2]
    moved = np.square((h - mean) @ shift @ shift.T).sum()
    assert np.square(z - h).sum() < moved
    # Of the whole defence: the ink was there to be read, and a line reads it no more.
    defense = built("erasure", steps=24)
    state, release, _ = trained(defense, data)
    ink = np.asarray(batch.sensitive["ink"])
    plain = np.asarray(defense.features(state, batch.image)).reshape(ROWS, -1)
    sent = np.asarray(release(batch.image, jax.random.key(0))).reshape(ROWS, -1)
    read = [
        (guess.argmax(1) == truth.argmax(1)).mean()
        for guess, truth in (ridge(z, np.eye(3)[ink]) for z in (plain, sent))
    ]
    assert read[0] > 0.6 > 0.45 > read[1], read


def test_proved_numbers_are_those_of_the_mechanism():
    from ani_jax.defenses.ldp import accuracy_cap

    defense = built("ldp", epsilon=2.0, delta=1e-3)
    # Balle and Wang, theorem 8, at the deviation in units of the sensitivity.
    scale = defense.stddev / 2

    def delta(epsilon, scale):
        tail = stats.norm.cdf(0.5 / scale - epsilon * scale)
        return tail - np.exp(epsilon) * stats.norm.cdf(-0.5 / scale - epsilon * scale)

    assert delta(2.0, scale) == pytest.approx(1e-3, rel=1e-3)
    (said,) = defense.proved
    often = float(said.split("one image (")[1].split(",")[0])
    assert delta(often, scale / 8) == pytest.approx(1e-3, rel=0.02)
    assert f"{accuracy_cap(2.0, 1e-3, 2):.1%}" in said
    # Randomised response of K answers keeps the truth with this probability, and attains the cap.
    for epsilon, classes in ((0.5, 2), (1.0, 4), (3.0, 10)):
        kept = np.exp(epsilon) / (np.exp(epsilon) + classes - 1)
        assert accuracy_cap(epsilon, 0.0, classes) == pytest.approx(kept)
    assert accuracy_cap(1000.0, 1e-5, 10) == 1.0


def test_clipped_features_are_within_the_ball_whatever_the_image(batch):
    defense = built("ldp")
    state = init(defense, jax.random.key(0))
    release, _ = freeze(defense, state.params, state.statistics)
    extremes = jnp.concatenate([batch.image, 100 * batch.image, jnp.zeros((1, 8, 8, 3))])
    norms = jnp.linalg.norm(release.mean(release.variables, extremes).reshape(len(extremes), -1), axis=1)
    assert float(norms.max()) <= 1 + 1e-5


def test_clusters_are_those_of_each_class_and_their_scatter_is_in_nats():
    from ani_jax.defenses.cem import FLOOR, centres, spread

    key, corner = jax.random.key(0), jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    place = jnp.arange(400) % 4
    z = corner[place] + 0.3 * jax.random.normal(key, (400, 2))
    labels = place // 2
    found = centres(z, labels, 2, 2)
    for label in (0, 1):
        order = np.argsort(np.asarray(found[label, :, 0]))
        np.testing.assert_allclose(np.asarray(found[label])[order], corner[2 * label : 2 * label + 2], atol=0.1)
    own = np.square(np.asarray(z) - np.asarray(corner)[np.asarray(place)]).mean(1)
    by = [own[np.asarray(place) == k].mean() for k in range(4)]
    expected = np.mean([np.log(v + FLOOR) - np.log(0.02 + FLOOR) for v in by])
    assert float(spread(z, labels, found, 0.02)) == pytest.approx(expected, rel=0.05)
    assert float(spread(z, labels, found, 10.0)) == 0
    # A class that a batch does not have asks for nothing.
    assert float(spread(z[:100], jnp.zeros(100, int), found[:1], 10.0)) == 0


def test_pairs_of_a_class_are_drawn_together_and_others_apart():
    defense = built("siamese", components=2)
    batch = Batch(jnp.zeros((3, 8, 8, 3)), jnp.array([0, 0, 1]), {})
    clean = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    terms = defense.client_loss(Forward(clean, {"clean": clean}, jnp.zeros((3, 2)), {}, {}), batch)
    # Distances are 1 within the class and 1/2 twice beyond it, each pair counted from both ends.
    assert float(terms["contrastive"]) == pytest.approx((2 * 1 + 4 * 0.25) / 6, rel=1e-4)
    assert float(terms["task"]) == pytest.approx(float(cross_entropy(jnp.zeros((3, 2)), batch.label).mean()))


def test_components_are_the_leading_ones_and_the_server_begins_with_their_inverse(data, batch):
    defense = built("siamese", components=4)
    state = defense.prepare(init(defense, jax.random.key(0)), data)
    features = np.asarray(defense.features(state, batch.image)).reshape(ROWS, -1)
    drawn = np.asarray(state.statistics["client"]["directions"])
    kernel = np.asarray(state.params["server"]["expand"]["kernel"])
    np.testing.assert_allclose(drawn.T @ kernel.T, np.eye(4), atol=1e-4)
    back = (features - features.mean(0)) @ drawn @ kernel
    values = np.linalg.svd(features - features.mean(0))[1] ** 2
    lost = np.square(features - features.mean(0) - back).sum() / values.sum()
    assert lost == pytest.approx(values[4:].sum() / values.sum(), abs=0.02)


def test_what_a_baseline_cannot_do_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"defense=ldp: must be with dp_accounting: pip install 'ani-jax\[dp\]'"):
        registry.build("ldp")
    with pytest.raises(ValueError, match="defense=erasure: must be another where the data has no sensitive attribute"):
        registry.build("erasure", 2, (8, 8, 3))
