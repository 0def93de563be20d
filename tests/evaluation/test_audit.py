"""Known answers (METHODS 7) on small digits: what the audit must find, and what it must not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import attribute, base, decoder
from ani_jax.attacks.base import Attack, Family, Fitted, Level, families
from ani_jax.attacks.query import as_release
from ani_jax.data import digits
from ani_jax.data.own import from_arrays
from ani_jax.evaluation.audit import audit as full_audit
from ani_jax.information.channel import most_right
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.reporting.table import summary
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Knowledge, Release, Task

SIDE = 16
SMALL = Level(
    "small",
    1024,
    (1, 64),
    base="preview",
    plants=False,
    settings={
        "Reader": {"steps": 20, "batch_size": 16},
        "Residual": {"steps": 10, "width": 8, "batch_size": 16},
    },
)


def audit(release, data, predict=None, attacks=None, level=SMALL, **options):
    return full_audit(release, data, predict, attacks=attacks, level=level, **options)


INK = Attribute("ink", 4)
CLOSED = (Family("attribute", INK, (attribute.Probe(INK),)), Family("decoder", Image(), (decoder.Ridge(Image()),)))


def subset(batch, count):
    return jax.tree.map(lambda leaf: leaf[:count], batch)


@pytest.fixture(scope="module")
def data():
    full = digits.load(image_size=SIDE)
    return dataclasses.replace(
        full, validation=subset(full.validation, 256), test=subset(full.test, 512), sensitive=full.sensitive[:1]
    )


def nearest(means, z):
    flat = z.reshape(len(z), -1)
    return -jnp.square(flat[:, None] - means[None]).sum(2)


def predictor(data, release):
    """A provider: logistic regression on what the client sends."""
    batch = data.defend.draw(jax.random.key(9), 2048)
    z = release(batch.image).reshape(2048, -1)
    held = release(data.validation.image).reshape(len(data.validation.label), -1)
    weights, bias = attribute.logistic_path((z, batch.label), (held, data.validation.label), 10, grid=(1e-2, 1e-3))
    return lambda z: z.reshape(len(z), -1) @ weights + bias[None]


@pytest.fixture(scope="module")
def identity(data):
    events = []
    evidence = audit(lambda x: x, data, predictor(data, lambda x: x), CLOSED, subject="none", on_event=events.append)
    return evidence, events


def test_identity_is_full_leakage(identity):
    evidence, _ = identity
    ink, image = evidence.attack("attribute", "ink"), evidence.attack("decoder", "image")
    assert ink.scores["balanced_accuracy"].value == pytest.approx(ink.references["raw_input"], abs=0.01)
    assert ink.scores["balanced_accuracy"].value > 0.99
    assert image.scores["ssim"].value > 0.95
    assert image.scores["retrieval"].value > 0.99
    assert image.scores["r2_mean"].value > 0.98
    assert evidence.utility["accuracy"].value > 0.8
    # The provider is a line itself, of other images.
    assert evidence.utility["linear_accuracy"].value == pytest.approx(evidence.utility["accuracy"].value, abs=0.08)
    assert image.references["mse_class_mean"] < image.references["mse_mean_image"]


def rotation():
    return jnp.linalg.qr(jax.random.normal(jax.random.key(5), (SIDE * SIDE * 3,) * 2))[0]


def disguises():
    order = np.random.default_rng(0).permutation(SIDE * SIDE * 3)
    turn = rotation()
    return {
        "permutation": lambda x: x.reshape(len(x), -1)[:, order].reshape(x.shape),
        "rotation": lambda x: x.reshape(len(x), -1) @ turn,
        "small": lambda x: 1e-3 * x,
        "large": lambda x: 1e3 * x + 5,
        "stopped": jax.lax.stop_gradient,
        "rounded": lambda x: jnp.round(255 * x) / 255,
        "sign": lambda x: 1 - x,
    }


@pytest.mark.parametrize("name", sorted(disguises()))
def test_disguises_are_found_out(data, identity, name):
    reference, _ = identity
    function = disguises()[name]
    evidence = audit(lambda x: function(x), data, None, CLOSED, reference=reference, subject=name)
    ink, image = evidence.attack("attribute", "ink"), evidence.attack("decoder", "image")
    assert ink.scores["balanced_accuracy"].value > ink.references["raw_input"] - 0.01
    assert ink.leakage.value > 0.98
    assert image.scores["mse"].value < 1.5 * reference.attack("decoder", "image").scores["mse"].value + 1e-4
    assert image.scores["ssim"].value > 0.95


def test_what_an_attacker_found_out_is_a_caveat(data):
    @dataclasses.dataclass(frozen=True)
    class Wise(attribute.Probe):
        number: int = 0
        caveat = "the wise are few"

        def fit(self, context):
            return super().fit(context)._replace(note="the client lies")

    family = dataclasses.replace(CLOSED[0], attacks=(Wise(INK), Wise(INK, number=1)))
    notes = audit(lambda x: x, data, None, (family,)).notes
    assert notes.count("the client lies") == notes.count("the wise are few") == 1
    # What a reader must know of the settings comes before what was found.
    assert notes.index("the wise are few") < notes.index("the client lies")


def test_a_constant_client_leaks_nothing(data, identity):
    reference, _ = identity
    evidence = audit(lambda x: jnp.ones((len(x), 6)), data, lambda z: z @ jnp.eye(6, 10), CLOSED, reference=reference)
    ink, image = evidence.attack("attribute", "ink"), evidence.attack("decoder", "image")
    assert ink.scores["balanced_accuracy"].value == ink.references["majority"] == 0.25
    assert ink.leakage.value == 0
    assert image.scores["mse"].value == pytest.approx(image.references["mse_mean_image"], rel=0.02)
    assert abs(image.scores["r2_mean"].value) < 0.02
    assert image.scores["retrieval"].value < 0.02
    # What it has lost of the accuracy is told image by image, its interval narrower than that of two scores.
    lost, before, after = (
        evidence.utility["accuracy_lost"],
        *(one.utility["accuracy"] for one in (reference, evidence)),
    )
    assert lost.value == pytest.approx(before.value - after.value)
    assert lost.high - lost.low < before.high - before.low + after.high - after.low
    assert np.mean(evidence.right) == pytest.approx(after.value)


def test_where_one_class_is_frequent_accuracy_does_not_stand_alone(identity):
    rng = np.random.default_rng(0)
    label = (rng.uniform(size=600) < 0.2).astype(int)
    own = from_arrays(rng.uniform(size=(600, 8, 8)), label, sensitive={"half": rng.integers(0, 2, 600)})
    utility = audit(lambda x: x, own, lambda z: jnp.tile(jnp.array([[1.0, 0.0]]), (len(z), 1)), CLOSED).utility
    assert utility["accuracy"].value > 0.7
    assert utility["balanced_accuracy"].value == 0.5
    # Of digits, which are about as frequent, it would say the same twice.
    assert "balanced_accuracy" not in identity[0].utility


def test_a_flipped_attribute_direction_leaks_fully(data, identity):
    """An encoder that answers with the wrong ink, always: a co-trained adversary was fooled, a fresh one is not."""
    reference, _ = identity
    inks = jnp.asarray(list(digits.INKS.values()))

    def lying(x):
        # The darkest pixel carries the ink; the client sends how unlike each ink it is.
        pixels = x.reshape(len(x), -1, 3)
        darkest = jnp.take_along_axis(pixels, pixels.sum(2).argmin(1)[:, None, None], axis=1)
        return -jnp.exp(-20 * jnp.square(darkest - inks[None]).sum(2))

    evidence = audit(lying, data, None, CLOSED[:1], reference=reference)
    assert evidence.attack("attribute", "ink").scores["balanced_accuracy"].value > 0.98


def repaint(x):
    """The oracle: finds ink and paper by trying all of them, then paints the stroke in the first ink."""
    inks, papers = (jnp.asarray(list(colours.values())) for colours in (digits.INKS, digits.PAPERS))
    ink, paper = jnp.repeat(inks, len(papers), axis=0), jnp.tile(papers, (len(inks), 1))
    way = ink - paper
    offset = x[:, None] - paper[None, :, None, None, :]
    stroke = (offset * way[None, :, None, None, :]).sum(-1) / jnp.square(way).sum(1)[None, :, None, None]
    misfit = jnp.square(offset - stroke[..., None] * way[None, :, None, None, :]).sum((2, 3, 4))
    best = misfit.argmin(1)
    stroke = jnp.take_along_axis(stroke, best[:, None, None, None], axis=1)[:, 0, :, :, None]
    return jnp.clip(paper[best][:, None, None, :] * (1 - stroke) + inks[0][None, None, None] * stroke, 0, 1)


def test_an_oracle_that_repaints_the_ink_leaks_chance(data, identity):
    reference, _ = identity
    attacks = (attribute.Probe(INK), attribute.Reader(INK, steps=40, batch_size=64))
    family = Family("attribute", INK, attacks)
    evidence = audit(repaint, data, predictor(data, repaint), (family,), reference=reference)
    ink = evidence.attack("attribute", "ink").scores["balanced_accuracy"]
    assert ink.value == pytest.approx(0.25, abs=0.06)
    assert evidence.utility["accuracy"].value > reference.utility["accuracy"].value - 0.03


def test_an_attribute_that_follows_from_the_label_has_no_leakage_to_normalise(data):
    def odd(batch):
        return batch._replace(sensitive={"parity": batch.label % 2})

    known = Known(data.auxiliary.render)
    split = dataclasses.replace(
        data,
        auxiliary=dataclasses.replace(data.auxiliary, render=known),
        validation=odd(data.validation),
        test=odd(data.test),
        sensitive=(Task("parity", ("even", "odd")),),
    )
    parity = Attribute("parity", 2)
    attacks = (Family("attribute", parity, (attribute.Probe(parity),)),)
    truth = predictor(data, lambda x: x)
    reference = audit(lambda x: x, split, truth, attacks, subject="none")
    found = audit(lambda x: 2 * x, split, truth_of_half(truth), attacks, reference=reference).attack(
        "attribute", "parity"
    )
    assert found.references["label_mediated"] > 0.85
    assert found.leakage.value is None
    assert "two standard errors" in found.leakage.note


def truth_of_half(predict):
    return lambda z: predict(z / 2)


@dataclasses.dataclass(frozen=True)
class Known:
    render: object

    def __call__(self, key, rows):
        batch = self.render(key, rows)
        return batch._replace(sensitive={"parity": batch.label % 2})


def test_evidence_is_plain_identical_and_complete(data, identity):
    evidence, events = identity
    again = audit(lambda x: x, data, predictor(data, lambda x: x), CLOSED, subject="none")
    assert to_json(again) == to_json(evidence)
    assert from_json(Evidence, to_json(evidence)) == evidence
    assert evidence.dataset == "digits"
    assert evidence.level == "small"
    assert evidence.targets == (INK.words, Image().words)
    assert evidence.steps == {"attribute ink: probe": 0, "decoder image: ridge": 0}
    assert evidence.sizes["test_originals"] == 361
    assert evidence.gallery.shape == (8, SIDE, SIDE, 3)
    assert evidence.attack("decoder", "image").gallery.shape == (8, SIDE, SIDE, 3)
    assert len(evidence.attack("decoder", "image").per_example) == 512
    starts = [event["name"] for event in events if event["kind"] == "attack_start"]
    assert starts == [event["name"] for event in events if event["kind"] == "attack_end"]
    assert "raw input, attribute ink: probe" in starts


def test_another_seed_is_another_audit(data, identity):
    evidence, _ = identity
    other = audit(lambda x: x, data, None, CLOSED[1:], seed=1)
    assert other.attacks[0].scores["mse"] != evidence.attack("decoder", "image").scores["mse"]
    assert other.utility == {}
    assert other.attacks[0].scores["r2_class_mean"].value is None
    assert any("no predictor" in note for note in other.notes)


@dataclasses.dataclass(frozen=True)
class Nothing(Attack):
    steps: int = 3

    family = "attribute"

    def fit(self, context):
        return Fitted(None, "the loss is not finite at step 1")


@dataclasses.dataclass(frozen=True)
class NaNs(Attack):
    steps: int = 3

    family = "attribute"

    def fit(self, context):
        context.emit({"step": 3, "loss": 0.0})
        return Fitted(lambda key, z: jnp.full((z.shape[1], 4), jnp.nan))


@dataclasses.dataclass(frozen=True)
class Limping(Attack):
    steps: int = 3

    family = "attribute"

    def fit(self, context):
        assert context.best((Nothing(INK), NaNs(INK))) is None
        return Fitted(lambda key, z: jnp.eye(4)[jnp.zeros(z.shape[1], jnp.int32)], "the loss is not finite at step 2")


def test_failures_are_reported_and_never_taken_for_privacy(data, identity):
    reference, _ = identity

    def found(*attacks):
        return audit(lambda x: x, data, None, (Family("attribute", INK, attacks),), reference=reference)

    broken = found(Nothing(INK), NaNs(INK))
    assert broken.attacks[0].status == "failed: the loss is not finite at step 1"
    assert broken.attacks[0].scores == {}
    assert broken.attacks[0].leakage.value is None
    assert [attacker.status for attacker in broken.attacks[0].attackers][1] == "failed: the guesses are not finite"
    to_json(broken)
    limping = found(Nothing(INK), NaNs(INK), Limping(INK)).attacks[0]
    assert limping.chosen == "limping"
    assert limping.status == "failed: the loss is not finite at step 2"
    assert limping.scores["balanced_accuracy"].value == 0.25
    sound = found(Nothing(INK), NaNs(INK), Limping(INK), attribute.Probe(INK)).attacks[0]
    assert (sound.chosen, sound.status) == ("probe", "ok")


def test_repeated_queries_of_a_noisy_client(data, identity):
    reference, _ = identity

    def noisy(x, key):
        return x + 0.5 * jax.random.normal(key, x.shape)

    attacks = tuple(dataclasses.replace(CLOSED[1], queries=k) for k in (1, 8))
    evidence = audit(noisy, data, None, attacks, reference=reference)
    once, often = (evidence.attack("decoder", "image", k).scores["mse"].value for k in (1, 8))
    assert often < 0.7 * once
    assert set(evidence.steps) == {"decoder image: ridge", "decoder image k=8: ridge"}


def test_a_certificate_stands_above_what_is_found(data):
    """Whether there is more red than green is one bit, whoever reads it."""

    def bit(variables, x, key):
        return (x[..., 0].mean((1, 2)) > x[..., 1].mean((1, 2))).astype(jnp.float32)[:, None]

    told = Release((), bit, capacity=lambda variables, elements: elements * np.log(2))
    evidence = audit(told, data, attacks=CLOSED)
    result, cap = evidence.attack("attribute", "ink", 1), most_right(np.log(2), 4)
    assert 0.3 < result.scores["balanced_accuracy"].value < cap < 0.82
    assert result.references["certified"] == cap
    assert "certified" not in evidence.attack("decoder", "image", 1).references
    assert any("0.693 nats of an image pass" in note for note in evidence.notes)
    assert "certified: nobody is above" in summary([evidence])
    # Of k queries with noise of their own k times as much is certain.
    often = audit(told, data, attacks=[dataclasses.replace(CLOSED[0], queries=2)])
    assert often.attack("attribute", "ink", 2).references["certified"] == 1
    silent = audit(dataclasses.replace(told, capacity=None), data, attacks=CLOSED[:1])
    assert "certified" not in silent.attack("attribute", "ink", 1).references
    assert not any("certified" in note for note in silent.notes)


@pytest.mark.slow
def test_declared_noise_is_attacked_with_its_likelihood_and_asked_repeatedly(data):
    def send(scale, x, key):
        return x + scale * jax.random.normal(key, x.shape)

    def mean(scale, x):
        return x

    def stddev(scale, x):
        return jnp.broadcast_to(scale, x.shape)

    release = Release(jnp.float32(0.3), send, stochastic=True, mean=mean, stddev=stddev)
    # Networks would only cost time here.
    level = dataclasses.replace(SMALL, settings={"Reader": None})
    attacks = families((INK,), level, Knowledge(release))
    assert [family.queries for family in attacks] == [1, 64]
    evidence = audit(release, data, None, attacks, level)
    once, often = (evidence.attack("attribute", "ink", k) for k in (1, 64))
    assert [attacker.name for attacker in once.attackers] == ["probe", "likelihood"]
    assert all(attacker.status == "ok" for attacker in (*once.attackers, *often.attackers))
    assert once.scores["balanced_accuracy"].value > 0.5
    # The raw image declares no noise: that attacker fails there, and the probe gives the ceiling.
    assert once.references["raw_input"] == pytest.approx(1.0, abs=0.02)


def test_a_large_split_is_scored_on_a_seeded_sample_of_it(data):
    few = dataclasses.replace(SMALL, test=40, validation=30)
    once, again = (audit(lambda x: x[:, ::2], data, None, CLOSED[1:], few) for _ in range(2))
    assert once.sizes["test"] == 40
    assert once.sizes["validation"] == 30
    assert len(once.attacks[0].per_example) == 40
    assert to_json(once) == to_json(again)


@dataclasses.dataclass(frozen=True)
class Darkest(Attack):
    """Guesses that every image is as dark as the attacker's darkest."""

    shade: float = 1.0

    family = "darkest"
    levels = base.EVERYWHERE

    def fit(self, context):
        darkest = self.shade * context.asked.sample.image.min(0)
        return Fitted(lambda key, z: jnp.broadcast_to(darkest, (z.shape[1], *darkest.shape)))


def test_an_attack_that_registers_itself_competes_and_is_on_record(data, monkeypatch):
    monkeypatch.setitem(base.ATTACKS, Image, [*base.ATTACKS[Image]])
    base.register(Image)(Darkest)
    nets = dict.fromkeys(("Reader", "Discriminant", "Residual", "Kernel"))
    level = dataclasses.replace(SMALL, settings={**nets, "Darkest": {"shade": 0.5}})
    evidence = audit(lambda x: x, data, level=level)
    assert list(evidence.steps) == ["attribute ink: probe", "darkest image: darkest", "decoder image: ridge"]
    found = evidence.attack("darkest", "image")
    assert (found.chosen, found.status, found.queries) == ("darkest", "ok", 1)
    assert found.scores["mse"].value > evidence.attack("decoder", "image").scores["mse"].value
    assert found.references == evidence.attack("decoder", "image").references
    darkest = np.asarray(found.gallery.array())
    assert (darkest == darkest[0]).all()
    monkeypatch.undo()
    plain = dataclasses.replace(level, settings=nets)
    assert "darkest" not in {family.name for family in families((Image(),), plain, Knowledge(as_release(lambda x: x)))}
    with pytest.raises(ValueError, match=r"level\.settings=Darkest: must be one of"):
        families((Image(),), level, Knowledge(as_release(lambda x: x)))


def test_targets_that_a_caller_adds_come_after_those_of_the_data(data):
    other = dataclasses.replace(CLOSED[1], target=Image("picture"), attacks=(decoder.Ridge(Image("picture")),))
    evidence = audit(lambda x: x[:, ::2], data, None, (other, CLOSED[1], CLOSED[0]))
    assert [words.name for words in evidence.targets] == ["ink", "image", "picture"]
    assert [result.target for result in evidence.attacks] == ["picture", "image", "ink"]
    assert evidence.words("picture").metrics == Image().words.metrics
